"""Result files written block by block: headers, several writers, killed runs, other formats."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from minist.data.embedding_file import HEADER, READ, EmbeddingFile, header
from minist.quantization import PRECISIONS

FLOAT = PRECISIONS["float32"]
SETTINGS = {"prompt": "a: ", "ranges": None, "files": [3, 4], "normalize": False}


def numbers(count, width=3, dtype=FLOAT, seed=0):
    """Rows that all differ."""
    draw = np.random.RandomState(seed)
    return (draw.randn(count, width) if dtype == FLOAT else draw.randint(0, 120, (count, width))).astype(dtype)


def begin(output, width=3, dtype=FLOAT, resume=False, settings=SETTINGS):
    out = EmbeddingFile(output, width, dtype)
    out.start(settings, resume)
    out.open()
    return out


def append(out, block):
    """One block, by one process."""
    out.write(out.rows, block)
    out.complete_block(len(block), 1)
    out.commit()


def load(file):
    if file.suffix == ".npy":
        return np.load(file)
    return load_file(file)["embeddings"]


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_header_of_npy(tmp_path, precision, rows):
    expected = numbers(rows, 5, PRECISIONS[precision])
    (tmp_path / "x.npy").write_bytes(header(".npy", rows, 5, expected.dtype) + expected.tobytes())
    for mode in (None, "r"):
        found = np.load(tmp_path / "x.npy", mmap_mode=mode)
        assert found.dtype == expected.dtype
        assert found.shape == (rows, 5)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_header_of_safetensors(tmp_path, precision, rows):
    expected = numbers(rows, 5, PRECISIONS[precision])
    (tmp_path / "x.safetensors").write_bytes(header(".safetensors", rows, 5, expected.dtype) + expected.tobytes())
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
        npy, safetensors = (header(suffix, rows, width, dtype) for suffix in (".npy", ".safetensors"))
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
    for start, end in ((0, 4), (4, 5), (5, 9)):
        append(out, rows[start:end])
        assert not file.exists()
    assert (out.blocks, out.rows, out.cut) == (3, 9, 3)
    out.finish()
    assert np.array_equal(load(file), rows)
    assert load(file).dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_into_a_folder_that_is_not_there_and_over_an_older_result(tmp_path):
    for seed in (0, 1):
        out = begin(tmp_path / "a/b/x.npy")
        append(out, numbers(4 - seed, seed=seed))
        out.finish()
        assert np.array_equal(np.load(tmp_path / "a/b/x.npy"), numbers(4 - seed, seed=seed))


def test_no_rows(tmp_path):
    begin(tmp_path / "x.npy").finish()
    assert np.load(tmp_path / "x.npy").shape == (0, 3)


def test_two_processes_write_their_shares_in_any_order(tmp_path):
    rows = numbers(11)
    one = EmbeddingFile(tmp_path / "x.npy", 3, FLOAT)
    two = EmbeddingFile(tmp_path / "x.npy", 3, FLOAT)
    one.start(SETTINGS, resume=False)
    one.open(), two.open()
    for block, middle, end in ((0, 3, 6), (6, 8, 11)):
        two.write(two.rows + middle - block, rows[middle:end])
        one.write(one.rows, rows[block:middle])
        one.complete_block(end - block, 0), two.complete_block(end - block, 0)
        one.commit()
    one.finish()
    assert np.array_equal(np.load(tmp_path / "x.npy"), rows)


def test_read(tmp_path):
    rows = numbers(2 * READ + 5)
    out = begin(tmp_path / "x.npy")
    append(out, rows[:10])
    append(out, rows[10:])
    out.write(out.rows, numbers(4))  # not counted yet
    chunks = list(out.read())
    assert [len(chunk) for chunk in chunks] == [READ, READ, 5]
    assert np.array_equal(np.concatenate(chunks), rows)


@pytest.mark.parametrize("wrong", [numbers(2, 4), numbers(2).astype(np.float64)])
def test_rows_of_another_kind_are_a_mistake_of_ours(tmp_path, wrong):
    with pytest.raises(AssertionError):
        begin(tmp_path / "x.npy").write(0, wrong)


# ---------------------------------------------------------------- killed and resumed


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("more", [0, 1, 4])
def test_resumed_after_a_kill(tmp_path, suffix, more):
    """The block under way had been written, in part or whole, but not been committed."""
    rows, file = numbers(10), tmp_path / f"x{suffix}"
    killed = begin(file)
    append(killed, rows[:4])
    killed.write(4, numbers(6, seed=9))
    out = begin(file, resume=True)
    assert (out.blocks, out.rows, out.cut) == (1, 4, 1)
    if more:
        append(out, rows[4 : 4 + more])
    out.finish()
    assert np.array_equal(load(file), rows[: 4 + more])
    assert file.stat().st_size == HEADER + (4 + more) * 12


def test_every_object_learns_what_is_complete(tmp_path):
    append(begin(tmp_path / "x.npy"), numbers(4))
    other = EmbeddingFile(tmp_path / "x.npy", 3, FLOAT)
    assert other.rows == 0
    other.open()
    assert (other.blocks, other.rows, other.cut) == (1, 4, 1)


def test_resumed_with_the_same_settings_only(tmp_path):
    append(begin(tmp_path / "x.npy"), numbers(4))
    assert begin(tmp_path / "x.npy", resume=True, settings=dict(SETTINGS)).rows == 4
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
    assert begin(tmp_path / "x.npy", resume=True).rows == 4, "what was refused has changed nothing"


def test_without_resume_it_starts_again(tmp_path):
    append(begin(tmp_path / "x.npy"), numbers(4))
    out = begin(tmp_path / "x.npy", settings={"other": 1})
    assert (out.blocks, out.rows, out.cut) == (0, 0, 0)
    append(out, numbers(2, seed=1))
    out.finish()
    assert np.array_equal(np.load(tmp_path / "x.npy"), numbers(2, seed=1))


def test_nothing_to_resume(tmp_path):
    """No run before, or one that was killed before it had said what it does."""
    assert begin(tmp_path / "x.npy", resume=True).rows == 0
    append(begin(tmp_path / "x.npy", resume=True), numbers(4))
    (tmp_path / ".x.npy.unfinished/settings.json").unlink()
    assert begin(tmp_path / "x.npy", resume=True, settings={"other": 1}).rows == 0


def test_two_outputs_in_one_folder(tmp_path):
    one, two = begin(tmp_path / "x.npy"), begin(tmp_path / "x.safetensors")
    append(one, numbers(4)), append(two, numbers(5, seed=1))
    one.finish(), two.finish()
    assert np.array_equal(load(tmp_path / "x.npy"), numbers(4))
    assert np.array_equal(load(tmp_path / "x.safetensors"), numbers(5, seed=1))


def test_discard(tmp_path):
    out = begin(tmp_path / "x.npy")
    append(out, numbers(4))
    out.discard()
    assert list(tmp_path.iterdir()) == []
    out.discard()  # twice is no mistake


# ---------------------------------------------------------------- converted at the end


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_finished_with_other_rows(tmp_path, suffix):
    file, codes = tmp_path / f"x{suffix}", PRECISIONS["int8"]
    out = begin(file)
    append(out, numbers(READ + 2))
    out.finish_with((np.rint(rows[:, :2] * 10) for rows in out.read()), 2, codes)
    assert load(file).dtype == codes
    assert np.array_equal(load(file), np.rint(numbers(READ + 2)[:, :2] * 10))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_finished_as_jsonl(tmp_path, precision):
    dtype, file = PRECISIONS[precision], tmp_path / "x.jsonl"
    rows = numbers(READ + 2, 2, dtype)
    out = begin(file, 2, dtype)
    append(out, rows)
    out.finish_with(out.read(), 2, dtype)
    found = [json.loads(line) for line in file.read_bytes().decode().removesuffix("\n").split("\n")]
    assert {tuple(row) for row in found} == {("embedding",)}
    assert np.array_equal(np.array([row["embedding"] for row in found], dtype), rows)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_conversion_that_fails_leaves_the_rows(tmp_path):
    def broken():
        yield numbers(2)
        raise OSError("the disk is full")

    out = begin(tmp_path / "x.npy")
    append(out, numbers(4))
    with pytest.raises(OSError, match="disk is full"):
        out.finish_with(broken(), 3, FLOAT)
    assert [path.name for path in tmp_path.iterdir()] == [".x.npy.unfinished"]
    assert begin(tmp_path / "x.npy", resume=True).rows == 4
