"""The token streams on disk."""

import json

import numpy as np
import pytest
import torch
from tiny import sentences, tiny_model, write_jsonl

from minist.data import dataset as module
from minist.data.dataset import Dataset, prepare_dataset, text_hash

COLUMNS = {"anchor": "q", "positive": "d"}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model().tokenizer


@pytest.fixture
def rows():
    return [{"q": q, "d": d} for q, d in zip(sentences(25, 1), sentences(25, 2, longest=40), strict=True)]


def prepare(tmp_path, rows, tokenizer):
    return prepare_dataset([write_jsonl(tmp_path / "d.jsonl", rows)], COLUMNS, tokenizer, tmp_path / "cache")


@pytest.mark.parametrize("chunk", [4, 4096])
def test_take_gives_what_the_tokenizer_gives(tmp_path, rows, tokenizer, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    data = Dataset(prepare(tmp_path, rows, tokenizer))
    chosen = [3, 0, 24, 3]
    assert len(data) == 25
    for column, name in zip(data.take(torch.tensor(chosen)), ("q", "d"), strict=True):
        expected = tokenizer([rows[i][name] for i in chosen])
        assert column.input_ids.tolist() == expected.input_ids.tolist()
        assert column.input_ids.dtype == torch.int64
        assert column.lengths.tolist() == expected.lengths.tolist()


def test_no_rows_can_be_taken(tmp_path, rows, tokenizer):
    anchor, positive = Dataset(prepare(tmp_path, rows, tokenizer)).take(torch.tensor([], dtype=torch.long))
    assert (anchor.n, positive.n) == (0, 0)


def test_several_files_follow_each_other(tmp_path, rows, tokenizer):
    files = [write_jsonl(tmp_path / f"{i}.jsonl", part) for i, part in enumerate((rows[:7], rows[7:]))]
    data = Dataset(prepare_dataset(files, COLUMNS, tokenizer, tmp_path / "cache"))
    assert data.take(torch.tensor([8]))[0].input_ids.tolist() == tokenizer([rows[8]["q"]]).input_ids.tolist()


def test_hashes_are_of_the_raw_text(tmp_path, rows, tokenizer):
    rows[4]["q"] = rows[9]["q"].upper()  # the same tokens, but another text
    rows[5]["d"] = rows[6]["q"]
    hashes = Dataset(prepare(tmp_path, rows, tokenizer)).hashes()
    assert hashes.shape == (25, 2)
    assert hashes.tolist() == [[text_hash(row["q"]), text_hash(row["d"])] for row in rows]
    assert hashes[4, 0] != hashes[9, 0]
    assert hashes[5, 1] == hashes[6, 0]


def test_describe_counts_what_was_cut(tmp_path, rows, tokenizer):
    data = Dataset(prepare(tmp_path, rows, tokenizer))
    cut = int(tokenizer([row["d"] for row in rows]).was_cut.sum())
    tokens = [len(tokenizer([row[name] for row in rows]).input_ids) / 25 for name in ("q", "d")]
    assert cut > 0
    expected = f"25 rows: anchor {tokens[0]:.0f} tokens; positive {tokens[1]:.0f} tokens, {cut} cut"
    assert data.describe() == expected


def test_made_once_and_again_when_anything_changes(tmp_path, rows, tokenizer):
    first = prepare(tmp_path, rows, tokenizer)
    (first / "ours").touch()  # gone if it is written again
    assert prepare(tmp_path, rows, tokenizer) == first
    assert (first / "ours").exists()
    others = {prepare(tmp_path, [*rows, rows[0]], tokenizer)}
    file = write_jsonl(tmp_path / "d.jsonl", rows)
    others.add(prepare_dataset([file], {"anchor": "d", "positive": "q"}, tokenizer, tmp_path / "cache"))
    others.add(prepare_dataset([file], {"positive": "d", "anchor": "q"}, tokenizer, tmp_path / "cache"))
    shorter = tiny_model().tokenizer
    shorter.max_length = 16
    others.add(prepare_dataset([file], COLUMNS, shorter, tmp_path / "cache"))
    assert len(others | {first}) == 5


def test_a_bad_row_leaves_nothing(tmp_path, rows, tokenizer):
    rows[20]["d"] = 7
    with pytest.raises(ValueError, match="row 21: 'd' is 7"):
        prepare(tmp_path, rows, tokenizer)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_file(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"there is no file .*none\.jsonl"):
        prepare_dataset([tmp_path / "none.jsonl"], COLUMNS, tokenizer, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("vocabulary", "dtype"), [(2**16, "uint16"), (2**16 + 1, "int32")])
def test_ids_are_wide_enough(tmp_path, rows, tokenizer, monkeypatch, vocabulary, dtype):
    monkeypatch.setattr(type(tokenizer), "vocab_size", property(lambda self: vocabulary))
    folder = prepare(tmp_path, rows, tokenizer)
    assert json.loads((folder / "meta.json").read_text())["dtype"] == dtype
    ids = np.fromfile(folder / "anchor.ids", dtype)
    assert ids.tolist() == tokenizer([row["q"] for row in rows]).input_ids.tolist()
