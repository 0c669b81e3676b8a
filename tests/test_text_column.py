"""One text column on disk."""

import numpy as np
import pytest
import torch
from tiny import sentences, tiny_model

from minist.data.text_column import ColumnSpec, TextColumn, TextColumnWriter

TEXTS = sentences(30, 1, longest=40)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model().tokenizer


def write(tmp_path, tokenizer, counts, prompt="", ragged=False):
    """TEXTS as rows that have `counts` texts each, in two parts."""
    half = len(counts) // 2
    first = sum(counts[:half])
    with TextColumnWriter(tmp_path / "0", ColumnSpec("q", tokenizer, prompt)) as writer:
        writer.write(TEXTS[:first], np.array(counts[:half]), ragged)
        writer.write(TEXTS[first : sum(counts)], np.array(counts[half:]), ragged)
    return TextColumn(tmp_path / "0", writer.meta())


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


@pytest.mark.parametrize(("vocabulary", "dtype"), [(2**16, "uint16"), (2**16 + 1, "int32")])
def test_ids_are_wide_enough(tmp_path, tokenizer, monkeypatch, vocabulary, dtype):
    monkeypatch.setattr(type(tokenizer), "vocab_size", property(lambda self: vocabulary))
    write(tmp_path, tokenizer, [1] * 30)
    ids = np.fromfile(tmp_path / "0.ids", dtype)
    assert ids.tolist() == tokenizer(TEXTS).input_ids.tolist()
