"""One text column on disk."""

import numpy as np
import pytest
import torch
from tiny import sentences, tiny_model
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from minist.data.text_column import ColumnSpec, TextColumn, TextColumnWriter, offsets
from minist.data.tokenizer import Tokenizer

TEXTS = sentences(30, 1, longest=40)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model().tokenizer


def write(tmp_path, tokenizer, counts, prompt="", ragged=False):
    """TEXTS as rows that have `counts` texts each, in two parts."""
    half = len(counts) // 2
    first = sum(counts[:half])
    writer = TextColumnWriter(tmp_path / "0", ColumnSpec("q", tokenizer, prompt))
    writer.write(TEXTS[:first])
    writer.write(TEXTS[first : sum(counts)])
    return TextColumn(tmp_path / "0", writer.save(offsets([np.array(counts)]) if ragged else None))


@pytest.mark.parametrize("prompt", ["", "file list: "])
def test_a_text_in_each_row(tmp_path, tokenizer, prompt):
    column = write(tmp_path, tokenizer, [1] * 30, prompt)
    rows = [3, 0, 29, 3]
    found, expected = column.take(torch.tensor(rows)), tokenizer([TEXTS[i] for i in rows], prompt)
    assert found.input_ids.tolist() == expected.input_ids.tolist()
    assert found.input_ids.dtype == torch.int64
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.prompt_lengths.tolist() == [tokenizer.prompt_length(prompt)] * 4
    assert column.counts(torch.tensor(rows)) is None
    assert column.cut(torch.tensor(rows)) == int(expected.was_cut.sum())


def test_the_prompt_leads_every_text(tmp_path, tokenizer):
    found = write(tmp_path, tokenizer, [1] * 30, "file list: ").take(torch.arange(30))
    leading = tokenizer(["file list: "]).input_ids[:-1].tolist()  # without [SEP]
    starts = found.cu_seqlens[:-1].tolist()
    for start, length in zip(starts, found.prompt_lengths.tolist(), strict=True):
        assert found.input_ids[start : start + length].tolist() == leading


def test_lists_of_texts(tmp_path, tokenizer):
    counts = [2, 0, 5, 1, 0, 3, 4]
    column = write(tmp_path, tokenizer, counts, ragged=True)
    rows = [2, 1, 0, 5]
    texts = [text for i in rows for text in TEXTS[sum(counts[:i]) : sum(counts[: i + 1])]]
    expected = tokenizer(texts)
    found = column.take(torch.tensor(rows))
    assert found.input_ids.tolist() == expected.input_ids.tolist()
    assert found.lengths.tolist() == expected.lengths.tolist()
    given = column.counts(torch.tensor(rows))
    assert given is not None
    assert (given.tolist(), given.dtype) == ([5, 0, 2, 3], torch.int64)
    assert column.cut(torch.tensor(rows)) == int(expected.was_cut.sum()) > 0
    assert len(column) == 15


def test_only_empty_lists(tmp_path, tokenizer):
    column = write(tmp_path, tokenizer, [0, 0, 0], ragged=True)
    assert column.take(torch.tensor([0, 2])).n == 0
    assert column.describe() == "lists of 0.0 texts of 0 tokens"


def test_describe(tmp_path, tokenizer):
    tokens = tokenizer(TEXTS)
    mean, cut = len(tokens.input_ids) / 30, int(tokens.was_cut.sum())
    assert cut > 0
    assert write(tmp_path, tokenizer, [1] * 30).describe() == f"{mean:.0f} tokens, {cut} cut"
    column = write(tmp_path, tokenizer, [3] * 10, ragged=True)
    assert column.describe() == f"lists of 3.0 texts of {mean:.0f} tokens, {cut} cut"


@pytest.mark.parametrize(("largest", "dtype"), [(2**16 - 1, "uint16"), (2**16, "int32"), (70_000, "int32")])
def test_ids_are_wide_enough(tmp_path, largest, dtype):
    """The vocabulary is small, but has a gap before its last id."""
    words = {"[UNK]": 0, "read": 1, "sort": largest}
    backend = Backend(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    writer = TextColumnWriter(tmp_path / "0", ColumnSpec("q", Tokenizer(backend, 32)))
    writer.write(["sort read", "sort"])
    column = TextColumn(tmp_path / "0", writer.save(None))
    assert column.take(torch.arange(2)).input_ids.tolist() == [largest, 1, largest]
    assert column.ids.dtype == dtype


def test_offsets():
    found = offsets([np.array([2, 0, 3], np.int32), np.array([], np.int64), np.array([1])])
    assert (found.tolist(), found.dtype) == ([0, 2, 2, 5, 6], np.int64)
    assert offsets([]).tolist() == [0]
