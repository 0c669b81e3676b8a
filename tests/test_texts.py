"""Texts of lines, jsonl, tables and standard input."""

import gzip
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from minist.data.rows import STANDARD_INPUT, file_kind, open_stream
from minist.data.texts import BLOCK_CHARACTERS, BLOCK_TEXTS, Texts

CASES = [  # bytes, and the lines that they are
    (b"", []),
    (b"a", ["a"]),
    (b"a\n", ["a"]),
    (b"a\n\n\nb", ["a", "", "", "b"]),
    (b"\n", [""]),
    (b"a\r\nb\r\n", ["a", "b"]),
    (b"a\r", ["a"]),
    (b"a\r\r\nb\rc\n", ["a\r", "b\rc"]),  # one is dropped, and only before a line's end
    (" a \u2028b\x0c\x0b\x1e\x85c\t\n".encode(), [" a \u2028b\x0c\x0b\x1e\x85c\t"]),
    ("größer ☃ 𝄞\n".encode(), ["größer ☃ 𝄞"]),
    (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),  # a byte order mark stands at the start alone
]
ROWS = [{"a": "x", "b": "two\nlines"}, {"a": "", "b": 'a "quoted"\r\ntext, and a tab\t'}, {"a": "y", "b": "☃"}]


def put(file, content):
    """Bytes into a file, compressed where its ending says so; the file."""
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def quoted(delimiter):
    """ROWS as a table, every cell in quotes."""
    cells = [["a", "b"], *([row["a"], row["b"].replace('"', '""')] for row in ROWS)]
    return "".join(delimiter.join(f'"{cell}"' for cell in row) + "\r\n" for row in cells).encode()


@pytest.fixture
def standard_input(tmp_path, monkeypatch):
    """A function that puts bytes into standard input."""

    with ExitStack() as stack:
        yield lambda content: monkeypatch.setattr(
            sys, "stdin", stack.enter_context(open(put(tmp_path / "stdin", content)))
        )


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("name", ["t.txt", "t", "t.txt.gz", "t.gz"])
@pytest.mark.parametrize(("content", "lines"), CASES)
def test_lines(tmp_path, name, content, lines):
    texts = Texts((put(tmp_path / name, content),))
    texts.check()
    assert list(texts) == lines
    assert list(texts) == lines, "it can be read twice"
    assert texts.count() == len(lines)


def test_several_inputs_in_their_order(tmp_path):
    first, second = put(tmp_path / "b.txt", b"1\n2"), put(tmp_path / "a.gz", b"\xef\xbb\xbf3\n\n")
    texts = Texts((first, second, first))
    assert list(texts) == ["1", "2", "3", "", "1", "2"], "a file without a last line end is not glued to the next"
    assert texts.count() == 6


def test_lines_longer_than_what_is_read_at_a_time(tmp_path):
    lines = ["x" * 3_000_000, "y" * ((1 << 20) - 1), "z"]
    texts = Texts((put(tmp_path / "t.txt", "\n".join(lines).encode()),))
    assert list(texts) == lines
    assert texts.count() == 3


def test_a_line_that_is_not_utf8(tmp_path):
    good, bad = put(tmp_path / "good.txt", b"a\n"), put(tmp_path / "bad.txt", b"a\nb\n\xff\nc\n")
    with pytest.raises(ValueError, match=r"bad\.txt, line 3 is not UTF-8 text"):
        list(Texts((good, bad)))


@pytest.mark.parametrize(
    "damage", [b"not gzip\n", gzip.compress(b"a\n" * 1000, mtime=0)[:-9], gzip.compress(b"a\n", mtime=0)[:6]]
)
def test_damaged_compressed_lines(tmp_path, damage):
    (tmp_path / "t.txt.gz").write_bytes(damage)
    texts = Texts((tmp_path / "t.txt.gz",))
    texts.check()
    assert texts.count() is None
    with pytest.raises(ValueError, match=r"t\.txt\.gz, after line \d+: the compressed data is damaged"):
        list(texts)


def test_blocks(tmp_path):
    """Of so many texts, or fewer where they are long, so that each is about equally much work."""
    short, long = ["x"] * (BLOCK_TEXTS + 3), "y" * (BLOCK_CHARACTERS // 2)
    texts = Texts(
        (put(tmp_path / "a.txt", "\n".join(short).encode()), put(tmp_path / "b.txt", f"{long}\n{long}\nz".encode()))
    )
    assert list(texts.blocks()) == [["x"] * BLOCK_TEXTS, ["x"] * 3 + [long] * 2, ["z"]]
    assert list(Texts((put(tmp_path / "c.txt", b""),)).blocks()) == []


# ---------------------------------------------------------------- jsonl and tables


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
@pytest.mark.parametrize("field", ["a", "b"])
def test_field_of_jsonl(tmp_path, name, field):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    texts = Texts((put(tmp_path / name, lines.encode()),), (field,))
    texts.check()
    assert list(texts) == [row[field] for row in ROWS]
    assert texts.count() == 3


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("column", ["a", "b"])
def test_column_of_a_table(tmp_path, name, column):
    texts = Texts((put(tmp_path / name, quoted(",")),), columns=(column,))
    texts.check()
    assert list(texts) == [row[column] for row in ROWS]
    assert texts.count() == 5, "the lines behind the header: two cells hold a line end"


def test_tables_of_several_kinds(tmp_path):
    texts = Texts((put(tmp_path / "t.csv", b"x,a\n1,2\n3,4"), put(tmp_path / "t.tsv", b"a\tx\n5\t6\n")), columns=("a",))
    texts.check()
    assert list(texts) == ["2", "4", "5"]
    assert texts.count() == 3


@pytest.mark.parametrize("name", ["t.tsv", "t.txt", "t.gz"])
def test_column_number_of_a_table_without_a_header(tmp_path, name):
    texts = Texts((put(tmp_path / name, b'1\t"a\n2\tb'),), columns=(1,), format="tsv")
    texts.check()
    assert list(texts) == ['"a', "b"]
    assert texts.count() == 2


def test_json(tmp_path):
    texts = Texts((put(tmp_path / "t.json", json.dumps(ROWS).encode()),), columns=("b",))
    texts.check()
    assert list(texts) == [row["b"] for row in ROWS]
    assert texts.count() is None


def test_no_header_to_leave_out(tmp_path):
    assert Texts((put(tmp_path / "t.csv", b""), put(tmp_path / "u.csv", b"a\n1\n")), columns=("a",)).count() == 1


@pytest.mark.parametrize(
    ("name", "content", "names", "message"),
    [
        (
            "t.jsonl",
            b'{"a": "x"}\n{"b": "y"}\n',
            {"columns": ("a",)},
            r"t\.jsonl, row 2: there is no column 'a', it has b",
        ),
        ("t.jsonl", b'{"a": "x"}\n{"a": 7}\n', {"columns": ("a",)}, r"t\.jsonl, row 2: 'a' is 7, but a text is wanted"),
        ("t.jsonl", b'{"a": "\\ud800"}\n', {"columns": ("a",)}, r"row 1: 'a' is .*, but it holds half a character"),
        ("t.csv", b"a,b\n1,2\n", {"columns": ("c",)}, r"t\.csv, row 1: there is no column 'c', it has a, b"),
    ],
)
def test_rows_without_a_text(tmp_path, name, content, names, message):
    with pytest.raises(ValueError, match=message):
        list(Texts((put(tmp_path / name, content),), **names))


# ---------------------------------------------------------------- standard input


@pytest.mark.parametrize(("content", "lines"), CASES)
def test_lines_of_standard_input(standard_input, content, lines):
    standard_input(content)
    texts = Texts((STANDARD_INPUT,))
    texts.check()
    assert texts.count() is None
    assert list(texts) == lines


def test_jsonl_of_standard_input_between_files(tmp_path, standard_input):
    standard_input(b'{"a": "2"}\n\n{"a": "3"}\n')
    first, last = put(tmp_path / "1.jsonl", b'{"a": "1"}\n'), put(tmp_path / "4.jsonl.gz", b'{"a": "4"}\n')
    texts = Texts((first, STANDARD_INPUT, last), ("a",))
    texts.check()
    assert list(texts.blocks()) == [["1", "2", "3", "4"]]


def test_standard_input_stays_open(standard_input):
    standard_input(b"a\n")
    with open_stream(STANDARD_INPUT) as stream:
        assert stream.read() == b"a\n"
    assert sys.stdin.read() == "", "it has ended, but is not closed"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("none.txt", {}, r"there is no file .*none\.txt"),
        ("folder.txt", {}, r"folder\.txt is not a file, but one is wanted"),
        ("t.jsonl", {}, r"t\.jsonl is read as jsonl, which has columns: name the one with the text, --column"),
        ("t.jsonl.gz", {}, r"t\.jsonl\.gz is read as jsonl, which has columns"),
        ("t.json", {}, r"t\.json is read as json, which has columns"),
        ("t.csv", {}, r"t\.csv is read as csv, which has columns"),
        ("t.tsv.gz", {}, r"t\.tsv\.gz is read as tsv, which has columns"),
        ("t.parquet", {}, r"t\.parquet is read as parquet, which has columns"),
        ("t.txt", {"format": "csv"}, r"t\.txt is read as csv, which has columns"),
        ("t.txt", {"columns": ("a",)}, r"t\.txt is read as txt, which has no columns: leave --column out"),
        ("-", {"columns": ("a",), "format": "txt"}, "- is read as txt, which has no columns"),
    ],
)
def test_what_does_not_go_together(tmp_path, name, names, message):
    (tmp_path / "folder.txt").mkdir()
    for ending in ("jsonl", "jsonl.gz", "json", "csv", "tsv.gz", "parquet", "txt"):
        (tmp_path / f"t.{ending}").touch()
    with pytest.raises(ValueError, match=message):
        Texts((Path("-") if name == "-" else tmp_path / name,), **names).check()


def test_every_input_is_checked(tmp_path):
    good = put(tmp_path / "t.txt", b"a\n")
    with pytest.raises(ValueError, match=r"there is no file .*none\.txt"):
        Texts((good, good, tmp_path / "none.txt")).check()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/b.jsonl", ".jsonl"),
        ("a/b.jsonl.gz", ".jsonl"),
        ("b.c.csv", ".csv"),
        ("b.gz", ""),
        ("a.csv/b", ""),
        ("-", ""),
    ],
)
def test_file_kind(name, kind):
    assert file_kind(Path(name)) == kind


def test_open_stream(tmp_path):
    for name in ("t", "t.gz"):
        with open_stream(put(tmp_path / name, b"a\r\n\xff")) as stream:
            assert stream.read() == b"a\r\n\xff"
    with pytest.raises(ValueError, match="there is no file"):
        open_stream(tmp_path / "none")


def test_standard_input_is_read_once(tmp_path):
    with pytest.raises(ValueError, match="standard input, -, can be read only once"):
        Texts((STANDARD_INPUT, put(tmp_path / "a.txt", b"a"), STANDARD_INPUT)).check()
