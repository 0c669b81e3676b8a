"""A column of a parquet file."""

import sys

import pytest

from minist.data.rows import PARQUET_ROWS, open_parquet, read_parquet, read_texts
from minist.data.texts import Texts

TEXTS = ["a", "", "two\nlines", "größer ☃", "x" * 100_000]


@pytest.fixture
def write(tmp_path):
    """A function that writes columns into a file; skips where pyarrow is missing."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(**columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    return write


def test_texts(write):
    file = write(id=list(range(5)), text=TEXTS, other=TEXTS[::-1])
    assert [row["text"] for row in read_parquet(file, ["text"])] == TEXTS
    assert list(read_parquet(file, ["other", "id"])) == [{"other": t, "id": i} for i, t in enumerate(TEXTS[::-1])]
    assert open_parquet(file).metadata.num_rows == 5


def test_as_an_input(write, tmp_path):
    (tmp_path / "t.csv").write_text("text\nb\n")
    texts = Texts((write(text=TEXTS), tmp_path / "t.csv"), columns=("text",))
    texts.check()
    assert list(texts) == [*TEXTS, "b"]
    assert texts.count() == 6


@pytest.mark.parametrize("kind", ["dictionary", "large_string"])
def test_other_ways_to_store_a_text(write, kind):
    pyarrow = pytest.importorskip("pyarrow")
    texts = ["a", "b", "a"]
    column = pyarrow.array(texts).dictionary_encode() if kind == "dictionary" else pyarrow.array(texts, kind)
    assert [row["text"] for row in read_parquet(write(text=column), ["text"])] == texts


@pytest.mark.parametrize("count", [0, PARQUET_ROWS, 2 * PARQUET_ROWS + 1])
def test_more_rows_than_are_read_at_a_time(write, count):
    pyarrow = pytest.importorskip("pyarrow")
    texts = [f"text {i}" for i in range(count)]
    file = write(text=pyarrow.array(texts, pyarrow.string()))
    assert [row["text"] for row in read_parquet(file, ["text"])] == texts
    assert open_parquet(file).metadata.num_rows == count


def test_no_such_column(write):
    with pytest.raises(ValueError, match=r"t\.parquet: there is no column 'c', it has a, b"):
        list(read_parquet(write(a=["x"], b=["y"]), ["c"]))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", None], "row 2: 'text' is null, but a text is wanted"),
        ([3, 4], "row 1: 'text' is 3, but a text is wanted"),
        ([{"a": "x"}], 'row 1: .text. is {"a": "x"}, but a text is wanted'),
        ([*["a"] * PARQUET_ROWS, "b", None], f"row {PARQUET_ROWS + 2}: 'text' is null"),
    ],
)
def test_no_text_in_a_row(write, column, message):
    with pytest.raises(ValueError, match=r"t\.parquet, " + message):
        list(read_texts(write(text=column), {"anchor": "text"}))


def test_no_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_text("a\nb\n")
    for read in (open_parquet, lambda file: list(read_parquet(file, ["text"]))):
        with pytest.raises(ValueError, match=r"t\.parquet is no parquet file: "):
            read(tmp_path / "t.parquet")


def test_damage_in_the_middle(write):
    file = write(text=[f"text {i * i}" for i in range(9000)])
    content = bytearray(file.read_bytes())
    content[2000:3000] = bytes(1000)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.parquet: 'text' is damaged: "):
        list(read_parquet(file, ["text"]))


def test_no_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "t.parquet").touch()
    texts = Texts((tmp_path / "t.parquet",), columns=("text",))
    for read in (texts.count, lambda: list(texts)):
        with pytest.raises(ValueError, match=r"t\.parquet is parquet, which needs pyarrow: pip install pyarrow"):
            read()


def test_two_columns_of_one_name(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_arrays([["x"], ["y"]], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="several columns are called 'a'"):
        list(read_parquet(tmp_path / "t.parquet", ["a"]))
