"""Result files written block by block: headers, several writers, killed runs, other formats."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from minist.data.embedding_file import HEADER, READ, EmbeddingFile, block_name, header
from minist.quantization import PRECISIONS

FLOAT = PRECISIONS["float32"]
SETTINGS = {"prompt": "a: ", "ranges": None, "files": [3, 4], "normalize": False}


def numbers(count, width=3, dtype=FLOAT, seed=0):
    """Rows that all differ."""
    draw = np.random.RandomState(seed)
    return (draw.randn(count, width) if dtype == FLOAT else draw.randint(0, 120, (count, width))).astype(dtype)


def begin(output, width=3, dtype=FLOAT, resume=False, settings=SETTINGS, inputs=7):
    out = EmbeddingFile(output, width, dtype)
    assert not out.start(settings, inputs, resume)
    return out


def append(out, first, block, name=None):
    """One block, by one process."""
    name = name or f"block-{first}"
    assert out.claim(name)
    out.write(name, first, block, 1)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def load(file):
    if file.suffix == ".npy":
        return np.load(file)
    return load_file(file)["embeddings"]


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_header_of_npy(tmp_path, precision, rows):
    expected = numbers(rows, 5, PRECISIONS[precision])
    (tmp_path / "x.npy").write_bytes(header(".npy", (rows, 5), expected.dtype) + expected.tobytes())
    for mode in (None, "r"):
        found = np.load(tmp_path / "x.npy", mmap_mode=mode)
        assert found.dtype == expected.dtype
        assert found.shape == (rows, 5)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_header_of_safetensors(tmp_path, precision, rows):
    expected = numbers(rows, 5, PRECISIONS[precision])
    (tmp_path / "x.safetensors").write_bytes(header(".safetensors", (rows, 5), expected.dtype) + expected.tobytes())
    (found,) = load_file(tmp_path / "x.safetensors").values()
    assert found.dtype == expected.dtype
    assert found.shape == (rows, 5)
    assert np.array_equal(found, expected)
    with safe_open(tmp_path / "x.safetensors", "np") as opened:
        assert list(opened.keys()) == ["embeddings"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("width", [1, 384, 10**6])
def test_any_number_of_rows_fits(precision, width):
    dtype = PRECISIONS[precision]
    for rows in (0, *(10**i for i in range(13))):
        npy, safetensors = (header(suffix, (rows, width), dtype) for suffix in (".npy", ".safetensors"))
        assert len(npy) == len(safetensors) == HEADER
        assert int.from_bytes(safetensors[:8], "little") == HEADER - 8
        about = json.loads(safetensors[8:])["embeddings"]
        assert about["shape"] == [rows, width]
        assert about["data_offsets"] == [0, rows * width * dtype.itemsize]
        assert f"'shape': ({rows}, {width})" in npy.decode("latin1")


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_block_after_block(tmp_path, suffix, precision):
    dtype, file = PRECISIONS[precision], tmp_path / f"x{suffix}"
    rows = numbers(9, 3, dtype)
    out = begin(file, 3, dtype)
    for start, end in ((0, 4), (5, 9), (4, 5)):
        append(out, start, rows[start:end])
        assert not file.exists()
    assert out.wait_for(["block-0", "block-4", "block-5"]) == 3, "texts that were cut"
    out.finish(9)
    assert np.array_equal(load(file), rows)
    assert load(file).dtype == dtype
    assert left(tmp_path) == [f".{file.name}.finished.json", file.name]


def test_into_a_folder_that_is_not_there_and_over_an_older_result(tmp_path):
    for seed in (0, 1):
        out = begin(tmp_path / "a/b/x.npy")
        append(out, 0, numbers(4 - seed, seed=seed))
        out.finish(4 - seed)
        assert np.array_equal(np.load(tmp_path / "a/b/x.npy"), numbers(4 - seed, seed=seed))


def test_interrupted_at_the_start(tmp_path, monkeypatch):
    """Nothing is left, although the folder is there before its settings are."""
    monkeypatch.setattr("minist.data.embedding_file.write_json", mock.Mock(side_effect=KeyboardInterrupt))
    out = EmbeddingFile(tmp_path / "out.npy", 3, np.dtype("<f4"))
    with pytest.raises(KeyboardInterrupt):
        out.start({}, [], resume=False)
    assert list(tmp_path.iterdir()) == []


def test_no_rows(tmp_path):
    begin(tmp_path / "x.npy").finish(0)
    assert np.load(tmp_path / "x.npy").shape == (0, 3)


def test_a_block_is_made_by_one_process(tmp_path):
    one, two = begin(tmp_path / "x.npy"), EmbeddingFile(tmp_path / "x.npy", 3, FLOAT)
    assert [one.claim("a"), two.claim("a"), two.claim("b"), one.claim("b"), one.claim("c")] == [True, False] * 2 + [
        True
    ]
    rows = numbers(6)
    two.write("b", 2, rows[2:4], 0), one.write("c", 4, rows[4:], 0), one.write("a", 0, rows[:2], 0)
    assert not two.claim("a"), "it is done"
    one.wait_for(["a", "b", "c"])
    one.finish(6)
    assert not two.claim("d"), "all is finished"
    assert np.array_equal(np.load(tmp_path / "x.npy"), rows)


def test_read(tmp_path):
    rows = numbers(2 * READ + 5)
    out = begin(tmp_path / "x.npy")
    append(out, 0, rows[:10])
    append(out, 10, rows[10:])
    append(out, len(rows), numbers(4))  # not wanted
    chunks = list(out.read(len(rows)))
    assert [len(chunk) for chunk in chunks] == [READ, READ, 5]
    assert np.array_equal(np.concatenate(chunks), rows)


@pytest.mark.parametrize("wrong", [numbers(2, 4), numbers(2).astype(np.float64)])
def test_rows_of_another_kind_are_a_mistake_of_ours(tmp_path, wrong):
    with pytest.raises(AssertionError):
        begin(tmp_path / "x.npy").write("a", 0, wrong, 0)


def test_names_of_blocks():
    texts = ["ab", "c"]
    assert block_name(0, texts) == block_name(0, ["ab", "c"])
    others = [(0, ["a", "bc"]), (0, ["abc"]), (0, ["ab", "d"]), (0, ["ab", "c", ""]), (1, texts), (0, [])]
    assert len({block_name(0, texts), *(block_name(*other) for other in others)}) == 7


# ---------------------------------------------------------------- killed and resumed


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("written", [False, True])
def test_resumed_after_a_kill(tmp_path, suffix, written):
    """The second block had been claimed, and its rows perhaps been written, but it was not recorded."""
    rows, file = numbers(10), tmp_path / f"x{suffix}"
    killed = begin(file)
    append(killed, 0, rows[:4])
    append(killed, 4, numbers(8, seed=9))
    (killed.folder / "block-4.done").unlink()
    out = begin(file, resume=True)
    assert not out.claim("block-0"), "it is kept"
    append(out, 4, rows[4:])
    assert out.wait_for(["block-0", "block-4"]) == 2
    out.finish(10)
    assert np.array_equal(load(file), rows)
    assert file.stat().st_size == HEADER + 10 * 12


@pytest.mark.parametrize(
    "damage", ["rows cut", "rows gone", "rows changed", "too many", "too far", "no record", "a list"]
)
def test_a_record_counts_only_if_its_rows_are_there(tmp_path, damage):
    rows, killed = numbers(8), begin(tmp_path / "x.npy")
    append(killed, 0, rows[:4]), append(killed, 4, rows[4:])
    stream, record = killed.folder / "rows", killed.folder / "block-4.done"
    content, found = bytearray(stream.read_bytes()), json.loads(record.read_text())
    content[-1] ^= 1
    {
        "rows cut": lambda: stream.write_bytes(content[:-5]),
        "rows gone": stream.unlink,
        "rows changed": lambda: stream.write_bytes(content),
        "too many": lambda: record.write_text(json.dumps(found | {"rows": 5})),
        "too far": lambda: record.write_text(json.dumps(found | {"first": 5})),
        "no record": lambda: record.write_text(""),
        "a list": lambda: record.write_text("[]"),
    }[damage]()
    out = begin(tmp_path / "x.npy", resume=True)
    assert out.claim("block-0") == (damage == "rows gone")
    assert out.claim("block-4")
    out.write("block-0", 0, rows[:4], 0), out.write("block-4", 4, rows[4:], 0)
    out.finish(8)
    assert np.array_equal(np.load(tmp_path / "x.npy"), rows)


def test_resumed_with_the_same_settings_only(tmp_path):
    append(begin(tmp_path / "x.npy"), 0, numbers(4))
    assert not begin(tmp_path / "x.npy", resume=True, settings=dict(SETTINGS)).claim("block-0")
    for other, message in (
        ({"prompt": "b: "}, 'prompt is "b: ", but .*x.npy was begun with "a: "'),
        ({"ranges": [0, 1]}, r"ranges is \[0, 1\], but .*was begun with null"),
        ({"model": "m"}, 'model is "m", but .*was begun with null'),
        ({"files": [3, 5]}, r"files is \[3, 5\], but .*was begun with \[3, 4\]"),
        ({"normalize": None}, "normalize is null, but .*was begun with false"),
    ):
        with pytest.raises(ValueError, match=f"--resume: {message}: give the same, or leave out --resume"):
            begin(tmp_path / "x.npy", resume=True, settings=SETTINGS | other)
    fewer = {key: value for key, value in SETTINGS.items() if key != "prompt"}
    with pytest.raises(ValueError, match=r'prompt is null, but .*was begun with "a: "'):
        begin(tmp_path / "x.npy", resume=True, settings=fewer)
    assert not begin(tmp_path / "x.npy", resume=True).claim("block-0"), "what was refused has changed nothing"


def test_without_resume_it_starts_again(tmp_path):
    append(begin(tmp_path / "x.npy"), 0, numbers(4))
    out = begin(tmp_path / "x.npy", settings={"other": 1})
    append(out, 0, numbers(2, seed=1))
    out.finish(2)
    assert np.array_equal(np.load(tmp_path / "x.npy"), numbers(2, seed=1))


def test_nothing_to_resume(tmp_path):
    """No run before, or one that was killed before it had said what it does."""
    append(begin(tmp_path / "x.npy", resume=True), 0, numbers(4))
    (tmp_path / ".x.npy.unfinished/settings.json").unlink()
    assert begin(tmp_path / "x.npy", resume=True, settings={"other": 1}).claim("block-0")


def finished(tmp_path):
    out = begin(tmp_path / "x.npy")
    append(out, 0, numbers(4))
    out.finish(4)
    return EmbeddingFile(tmp_path / "x.npy", 3, FLOAT)


def test_a_finished_result_is_complete(tmp_path):
    again = finished(tmp_path)
    before = (tmp_path / "x.npy").stat().st_mtime_ns
    assert again.start(SETTINGS, 7, True)
    assert (tmp_path / "x.npy").stat().st_mtime_ns == before
    for settings, inputs, message in ((SETTINGS | {"prompt": ""}, 7, 'prompt is ""'), (SETTINGS, 8, "inputs is 8")):
        with pytest.raises(ValueError, match=f"--resume: {message}, but .*x.npy was begun with"):
            again.start(settings, inputs, True)
    assert not again.start(SETTINGS, 7, False), "without --resume it is made again"


@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_result_that_is_not_there_any_more(tmp_path, change):
    again = finished(tmp_path)
    (tmp_path / "x.npy").unlink() if change == "gone" else (tmp_path / "x.npy").write_text("x")
    assert not again.start(SETTINGS, 7, True)
    append(again, 0, numbers(4))
    again.finish(4)
    assert np.array_equal(np.load(tmp_path / "x.npy"), numbers(4))


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("step", range(4))
def test_killed_between_any_two_steps_of_the_end(tmp_path, monkeypatch, step, converted):
    """Every rename and the removal of the folder is the last thing that is done once."""
    rows, out = numbers(4), begin(tmp_path / "x.npy")
    append(out, 0, rows)
    steps = iter(range(10))

    def killed(method):
        def call(self, *arguments, **others):
            if next(steps) == step:
                raise KeyboardInterrupt
            return method(self, *arguments, **others)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed(Path.replace))
        patch.setattr(EmbeddingFile, "discard", killed(EmbeddingFile.discard))
        with pytest.raises(KeyboardInterrupt):
            out.finish_with(out.read(4), 4, 3, FLOAT) if converted else out.finish(4)
    again = EmbeddingFile(tmp_path / "x.npy", 3, FLOAT)
    if not again.start(SETTINGS, 7, True):
        assert not again.claim("block-0"), "no row is made again"
        again.finish(4)
    assert np.array_equal(np.load(tmp_path / "x.npy"), rows)
    assert left(tmp_path) == [".x.npy.finished.json", "x.npy"]


def test_two_outputs_in_one_folder(tmp_path):
    one, two = begin(tmp_path / "x.npy"), begin(tmp_path / "x.safetensors")
    append(one, 0, numbers(4)), append(two, 0, numbers(5, seed=1))
    one.finish(4), two.finish(5)
    assert np.array_equal(load(tmp_path / "x.npy"), numbers(4))
    assert np.array_equal(load(tmp_path / "x.safetensors"), numbers(5, seed=1))


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_what_is_done_is_kept(tmp_path, capsys, error):
    """Where an input turns bad late, too."""
    out = begin(tmp_path / "x.npy")
    with pytest.raises(error), out.kept():
        append(out, 0, numbers(4))
        raise error
    assert "4 texts are done and kept: --resume goes on from there" in capsys.readouterr().err
    assert not begin(tmp_path / "x.npy", resume=True).claim("block-0")
    out = begin(tmp_path / "x.npy")
    with pytest.raises(error), out.kept():
        raise error
    assert left(tmp_path) == [], "nothing was done"
    assert capsys.readouterr().err == ""


def test_discard(tmp_path):
    out = begin(tmp_path / "x.npy")
    append(out, 0, numbers(4))
    out.discard()
    assert list(tmp_path.iterdir()) == []
    out.discard()  # twice is no mistake


# ---------------------------------------------------------------- converted at the end


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_finished_with_other_rows(tmp_path, suffix):
    file, codes = tmp_path / f"x{suffix}", PRECISIONS["int8"]
    out = begin(file)
    append(out, 0, numbers(READ + 2))
    out.finish_with((np.rint(rows[:, :2] * 10) for rows in out.read(READ + 2)), READ + 2, 2, codes)
    assert load(file).dtype == codes
    assert np.array_equal(load(file), np.rint(numbers(READ + 2)[:, :2] * 10))
    assert left(tmp_path) == [f".{file.name}.finished.json", file.name]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_finished_as_jsonl(tmp_path, precision):
    dtype, file = PRECISIONS[precision], tmp_path / "x.jsonl"
    rows = numbers(READ + 2, 2, dtype)
    out = begin(file, 2, dtype)
    append(out, 0, rows)
    out.finish_with(out.read(READ + 2), READ + 2, 2, dtype)
    found = [json.loads(line) for line in file.read_bytes().decode().removesuffix("\n").split("\n")]
    assert {tuple(row) for row in found} == {("embedding",)}
    assert np.array_equal(np.array([row["embedding"] for row in found], dtype), rows)
    assert left(tmp_path) == [".x.jsonl.finished.json", "x.jsonl"]


def test_a_conversion_that_fails_leaves_the_rows(tmp_path):
    def broken():
        yield numbers(2)
        raise OSError("the disk is full")

    out = begin(tmp_path / "x.npy")
    append(out, 0, numbers(4))
    with pytest.raises(OSError, match="disk is full"):
        out.finish_with(broken(), 4, 3, FLOAT)
    assert left(tmp_path) == [".x.npy.unfinished"]
    assert not begin(tmp_path / "x.npy", resume=True).claim("block-0")
