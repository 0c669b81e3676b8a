"""The data set on disk."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import ROOT, sentences, tiny_model, write_jsonl

from minist.data import dataset as module
from minist.data.dataset import Dataset, dataset_folder, prepare_dataset, text_hashes
from minist.data.text_column import ColumnSpec


def text_hash(text):
    return int(text_hashes([text])[0])


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model().tokenizer


@pytest.fixture
def columns(tokenizer):
    return {"anchor": ColumnSpec("q", tokenizer), "positive": ColumnSpec("d", tokenizer)}


@pytest.fixture
def rows():
    return [{"q": q, "d": d} for q, d in zip(sentences(25, 1), sentences(25, 2, longest=40), strict=True)]


def prepared(files, columns, label, cache, **more):
    folder = dataset_folder(cache, files, columns, label, **more)
    if not folder.exists():
        prepare_dataset(folder, files, columns, label, **more)
    return folder


def prepare(tmp_path, rows, columns, label=""):
    return prepared([write_jsonl(tmp_path / "d.jsonl", rows)], columns, label, tmp_path / "cache")


@pytest.mark.parametrize("chunk", [4, 4096])
def test_take_gives_what_the_tokenizer_gives(tmp_path, rows, columns, tokenizer, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    data = Dataset(prepare(tmp_path, rows, columns))
    chosen = [3, 0, 24, 3]
    assert len(data) == 25
    assert data.names == ["anchor", "positive"]
    assert data.counts(torch.tensor(chosen)) == (None, None)
    for column, name in zip(data.take(torch.tensor(chosen)), ("q", "d"), strict=True):
        expected = tokenizer([rows[i][name] for i in chosen])
        assert column.input_ids.tolist() == expected.input_ids.tolist()
        assert column.lengths.tolist() == expected.lengths.tolist()
        assert column.prompt_lengths.tolist() == [0] * 4


def test_no_rows_can_be_taken(tmp_path, rows, columns):
    data = Dataset(prepare(tmp_path, [row | {"label": 1} for row in rows], columns, "label"))
    none = torch.tensor([], dtype=torch.long)
    anchor, positive = data.take(none)
    assert (anchor.n, positive.n) == (0, 0)
    assert data.labels(none).shape == (0,)


def test_several_files_follow_each_other(tmp_path, rows, columns, tokenizer):
    files = [write_jsonl(tmp_path / f"{i}.jsonl", part) for i, part in enumerate((rows[:7], rows[7:]))]
    data = Dataset(prepared(files, columns, "", tmp_path / "cache"))
    assert data.take(torch.tensor([8]))[0].input_ids.tolist() == tokenizer([rows[8]["q"]]).input_ids.tolist()


def test_a_prompt_and_a_tokenizer_for_each_column(tmp_path, rows, tokenizer):
    other = tiny_model().tokenizer
    other.backend.enable_truncation(8)
    other.max_length = 8
    specs = {"query": ColumnSpec("q", tokenizer, "find: "), "document": ColumnSpec("q", other)}
    query, document = Dataset(prepare(tmp_path, rows, specs)).take(torch.arange(25))
    texts = [row["q"] for row in rows]
    assert query.input_ids.tolist() == tokenizer(texts, "find: ").input_ids.tolist()
    assert query.prompt_lengths.tolist() == [tokenizer.prompt_length("find: ")] * 25
    assert document.input_ids.tolist() == other(texts).input_ids.tolist()
    assert document.max_seqlen == 8


def test_columns_of_the_same_texts_share_what_is_stored(tmp_path, rows, tokenizer):
    """As SimCSE takes each text twice; the second tokenizer is equal, but another object."""
    specs = {"a": ColumnSpec("q", tokenizer), "b": ColumnSpec("q", tiny_model().tokenizer)}
    folder = prepare(tmp_path, rows, specs | {"c": ColumnSpec("q", tokenizer, "find: ")})
    data = Dataset(folder)
    a, b, c = data.take(torch.tensor([4, 2]))
    assert a.input_ids.tolist() == b.input_ids.tolist() != c.input_ids.tolist()
    assert sorted(file.name for file in folder.glob("*.ids")) == ["0.ids", "1.ids"]
    hashes = [text_hash(row["q"]) for row in rows]
    assert data.keys().hashes.tolist() == hashes, "a column of the files counts once"


def test_lists_of_texts(tmp_path, rows, columns, tokenizer):
    for i, row in enumerate(rows):
        row["negatives"] = sentences(i % 4, i, longest=40)
    data = Dataset(prepare(tmp_path, rows, columns | {"negative": ColumnSpec("negatives", tokenizer)}))
    chosen = [7, 4, 0, 22]
    negatives = data.take(torch.tensor(chosen))[2]
    expected = tokenizer([text for i in chosen for text in rows[i]["negatives"]])
    assert negatives.input_ids.tolist() == expected.input_ids.tolist()
    assert negatives.lengths.tolist() == expected.lengths.tolist()
    anchor, positive, counts = data.counts(torch.tensor(chosen))
    assert (anchor, positive, counts.tolist()) == (None, None, [3, 0, 0, 2])
    cut = {name: int(tokenizer([rows[i][name[:1]] for i in chosen]).was_cut.sum()) for name in ("q", "d")}
    expected_cut = {"anchor": cut["q"], "positive": cut["d"], "negative": int(expected.was_cut.sum())}
    assert data.cut(torch.tensor(chosen)) == expected_cut
    assert expected_cut["positive"] + expected_cut["negative"] > 0


@pytest.mark.parametrize("chunk", [4, 4096])
def test_keys_are_hashes_of_the_raw_texts_row_after_row(tmp_path, rows, tokenizer, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    for i, row in enumerate(rows):
        row["negatives"] = sentences(i % 3, i)
    rows[4]["q"] = rows[9]["q"].upper()  # the same tokens, but another text
    rows[5]["d"] = rows[6]["q"]
    specs = {
        "n": ColumnSpec("negatives", tokenizer),
        "q": ColumnSpec("q", tokenizer, "x "),
        "d": ColumnSpec("d", tokenizer),
    }
    keys = Dataset(prepare(tmp_path, rows, specs)).keys()
    expected = [[text_hash(text) for text in (*row["negatives"], row["q"], row["d"])] for row in rows]
    assert [keys.hashes[a:b].tolist() for a, b in zip(keys.offsets[:-1], keys.offsets[1:], strict=True)] == expected
    assert (keys.hashes.dtype, keys.offsets.dtype, keys.labels) == (np.uint64, np.int64, None)
    assert expected[4][-2] != expected[9][-2]
    assert expected[5][-1] == expected[6][-2]


def test_labels_of_a_column(tmp_path, rows, columns):
    names = ["no", "yes", "maybe"]
    data = Dataset(prepare(tmp_path, [row | {"is": names[i % 3]} for i, row in enumerate(rows)], columns, "is"))
    assert data.classes == ["maybe", "no", "yes"]
    assert data.labels(torch.tensor([0, 1, 2, 4])).tolist() == [1, 2, 0, 2]
    assert data.keys().labels.tolist() == [(1, 2, 0)[i % 3] for i in range(25)]
    assert data.describe().endswith("; label 3 classes (maybe, no, yes)")


def test_labels_of_a_npy_file(tmp_path, rows, columns):
    values = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    np.save(tmp_path / "teacher.npy", values)
    data = Dataset(prepare(tmp_path, rows, columns, str(tmp_path / "teacher.npy")))
    assert data.labels(torch.tensor([9, 1])).tolist() == values[[9, 1]].tolist()
    assert (data.classes, data.keys().labels) == ([], None)
    assert data.describe().endswith("; label vectors of 3 numbers in teacher.npy")


def test_no_labels(tmp_path, rows, columns):
    data = Dataset(prepare(tmp_path, rows, columns))
    assert (data.labels(torch.arange(3)), data.classes) == (None, [])


def test_describe_counts_what_was_cut(tmp_path, rows, columns, tokenizer):
    data = Dataset(prepare(tmp_path, rows, columns))
    cut = int(tokenizer([row["d"] for row in rows]).was_cut.sum())
    tokens = [len(tokenizer([row[name] for row in rows]).input_ids) / 25 for name in ("q", "d")]
    assert cut > 0
    expected = f"25 rows: anchor {tokens[0]:.0f} tokens; positive {tokens[1]:.0f} tokens, {cut} cut"
    assert data.describe() == expected


def test_made_once_and_again_when_anything_changes(tmp_path, rows, columns, tokenizer):
    rows = [row | {"label": i, "score": i} for i, row in enumerate(rows)]
    first = prepare(tmp_path, rows, columns)
    (first / "ours").touch()  # gone if it is written again
    equal = {name: spec._replace(tokenizer=tiny_model().tokenizer) for name, spec in columns.items()}
    assert prepare(tmp_path, rows, equal) == first
    assert (first / "ours").exists()

    folders = [first, prepare(tmp_path, [*rows, rows[0]], columns)]
    q, d = columns.values()
    shorter = tiny_model().tokenizer
    shorter.max_length = 16
    for specs in (
        {"anchor": d, "positive": q},
        {"positive": d, "anchor": q},
        {"anchor": q, "positive": d._replace(prompt="x")},
        {"anchor": q, "positive": d._replace(tokenizer=shorter)},
        {"anchor": q},
    ):
        folders.append(prepare(tmp_path, rows, specs))
    folders += [prepare(tmp_path, rows, columns, label) for label in ("label", "score")]
    assert len(set(folders)) == len(folders) == 9


def test_made_again_when_the_label_file_changes(tmp_path, rows, columns):
    folders = []
    for name, value in (("a.npy", 0), ("a.npy", 1), ("b.npy", 1)):
        np.save(tmp_path / name, np.full(25, value))
        folders.append(prepare(tmp_path, rows, columns, str(tmp_path / name)))
        assert Dataset(folders[-1]).labels(torch.tensor([3])).tolist() == [value]
    assert len(set(folders)) == 3


def test_the_ending_of_a_file_counts(tmp_path, columns):
    """The same bytes can be read as csv and as tsv."""
    texts = {}
    for ending in ("csv", "tsv"):
        file = tmp_path / f"d.{ending}"
        file.write_text("q,q\td,d\nread,read\tfile,file\n")
        texts[ending] = dataset_folder(tmp_path, [file], columns, "")
    assert texts["csv"] != texts["tsv"]


@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        ({"d": 7}, "", "row 21: 'd' is 7, but a text is wanted"),
        ({"label": "abc"}, "label", r'd\.jsonl, row 21: .label. is "abc", but the labels before are numbers'),
        ({}, "score", "row 1: there is no column 'score', it has q, d, label"),
    ],
)
def test_a_bad_row_leaves_nothing(tmp_path, rows, columns, change, label, message):
    rows = [row | {"label": i} for i, row in enumerate(rows)]
    rows[20] |= change
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, rows, columns, label)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("labels", [np.zeros(24), np.zeros(26), np.full(25, np.nan), np.zeros((25, 2, 2))])
def test_a_bad_label_file_leaves_nothing(tmp_path, rows, columns, labels):
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(ValueError, match=r"l\.npy"):
        prepare(tmp_path, rows, columns, str(tmp_path / "l.npy"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_corrupt_line_leaves_nothing(tmp_path, rows, columns, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)  # some chunks were written before
    file = write_jsonl(tmp_path / "d.jsonl", rows)
    lines = file.read_text().splitlines()
    lines[17] = lines[17][:10]
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"d\.jsonl, line 18 is not JSON"):
        prepared([file], columns, "", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("file", "label"), [("none.jsonl", ""), ("d.jsonl", "none.npy")])
def test_no_file(tmp_path, rows, columns, file, label):
    write_jsonl(tmp_path / "d.jsonl", rows)
    with pytest.raises(ValueError, match=r"there is no file .*none\."):
        prepared([tmp_path / file], columns, label and str(tmp_path / label), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_lists_in_parquet_and_numbers_of_texts(tmp_path, rows, columns, tokenizer):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for i, row in enumerate(rows):
        row |= {"negatives": sentences(i % 4, i), "score": i / 2}
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    specs = columns | {"negative": ColumnSpec("negatives", tokenizer)}
    data = Dataset(prepared([tmp_path / "d.parquet"], specs, "score", tmp_path / "cache", wants="numbers"))
    same = Dataset(prepare(tmp_path, rows, specs, "score"))
    chosen = torch.tensor([7, 4, 0, 22])
    for found, expected in zip(data.take(chosen), same.take(chosen), strict=True):
        assert found.input_ids.tolist() == expected.input_ids.tolist()
    assert data.labels(chosen).tolist() == [3.5, 2.0, 0.0, 11.0]
    starts = np.cumsum([0, *(i % 4 for i in range(25))])
    wanted = [[7, 4, 0, 22], [7, 4, 0, 22], [*range(starts[7], starts[8]), *range(starts[22], starts[23])]]
    assert [column.texts(chosen).tolist() for column in data.columns] == wanted


def test_a_table_without_a_header_in_a_format(tmp_path, tokenizer):
    (tmp_path / "d.txt").write_text('4.5\tread file\t"sort\n0\twait\ttime\n')
    specs = {"text1": ColumnSpec(1, tokenizer), "text2": ColumnSpec(2, tokenizer)}
    folder = prepared([tmp_path / "d.txt"], specs, 0, tmp_path / "cache", wants="numbers", format="tsv")
    data = Dataset(folder)
    assert data.labels(torch.arange(2)).tolist() == [4.5, 0]
    assert data.take(torch.tensor([0]))[1].input_ids.tolist() == tokenizer(['"sort']).input_ids.tolist()


def test_what_the_loss_wants_counts(tmp_path, rows, columns):
    rows = [row | {"label": str(i)} for i, row in enumerate(rows)]
    file = write_jsonl(tmp_path / "d.jsonl", rows)
    names, numbers = (prepared([file], columns, "label", tmp_path / "c", wants=w) for w in ("", "numbers"))
    assert len(Dataset(names).classes) == 25
    assert Dataset(numbers).labels(torch.tensor([3])).tolist() == [3]


@pytest.mark.parametrize("name", ["0.ids", "0.offsets.npy", "1.cut.npy", "keys.npy", "keys.offsets.npy", "labels.npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_a_damaged_folder_is_noticed(tmp_path, rows, columns, name, damage):
    """Never other tokens than those that were written."""
    folder = prepare(tmp_path, [row | {"label": 1} for row in rows], columns, "label")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: -2 if damage == "cut" else 0])
    if damage == "missing":
        (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is damaged: delete the folder, and it is made again"):
        Dataset(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"files": 3}', '{"files": {}}'])
def test_a_damaged_description_is_noticed(tmp_path, rows, columns, content):
    folder = prepare(tmp_path, rows, columns)
    (folder / "meta.json").write_text(content)
    with pytest.raises(ValueError, match=r"meta\.json is (damaged|not JSON)"):
        Dataset(folder)


PREPARE = """
import sys, time
from pathlib import Path
import torch
from tiny import tiny_model
from minist.data import dataset
from minist.data.text_column import ColumnSpec

file, cache, delay = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
columns = {"anchor": ColumnSpec("q", tiny_model().tokenizer)}
save = dataset._Writer.save
def slow(writer):
    save(writer)
    time.sleep(delay)
dataset._Writer.save = slow
folder = dataset.dataset_folder(cache, [file], columns, "")
dataset.prepare_dataset(folder, [file], columns, "")
data = dataset.Dataset(folder)
inode = (data.folder / "0.ids").stat().st_ino
time.sleep(0 if delay else 4)  # the first one goes on using it while the slower one ends
assert (data.folder / "0.ids").stat().st_ino == inode, "what was in use has been replaced"
print(data.take(torch.arange(3))[0].input_ids.tolist())
"""


@pytest.mark.slow
def test_two_processes_that_prepare_the_same(tmp_path, rows):
    """The first to finish wins, and what it has mapped stays."""
    file = write_jsonl(tmp_path / "d.jsonl", rows)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE, file, tmp_path / "cache", delay],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        )
        for delay in ("0", "2")
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1] != ""
    assert len(list((tmp_path / "cache").iterdir())) == 1
