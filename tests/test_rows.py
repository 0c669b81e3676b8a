"""Rows of jsonl, csv and tsv files."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from minist.data.rows import TextCells, file_kind, read_lines, read_places, read_rows, read_texts

ROWS = [
    {"a": "plain", "b": "two words"},
    {"a": 'commas, "quotes"\tand tabs', "b": "a line\nand another"},
    {"a": "", "b": "größer ☃"},
    {"a": "x" * 200_000, "b": "longer than a csv reader takes by itself"},
]


def write(file, rows):
    """By the standard library, as a person would."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "wt", encoding="utf-8", newline="") as stream:
        if ".jsonl" in file.name:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if ".csv" in file.name else "\t")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", "jsonl.gz", "csv.gz", "tsv.gz"])
def test_every_kind_gives_the_same_rows(tmp_path, ending):
    file = tmp_path / f"data.{ending}"
    write(file, ROWS)
    assert list(read_rows(file, ["a", "b"])) == ROWS
    assert list(read_texts(file, {"positive": "b", "anchor": "a"})) == [(row["b"], row["a"]) for row in ROWS]


def test_byte_order_mark_and_blank_lines(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "1"}\r\n\n  \n{"a": "2"}')
    assert [row["a"] for row in read_rows(tmp_path / "d.jsonl", ["a"])] == ["1", "2"]
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n")
    assert list(read_rows(tmp_path / "d.csv", ["a"])) == [{"a": "1", "b": "2"}]


def test_column_without_a_name(tmp_path):
    """As pandas writes its index."""
    (tmp_path / "d.csv").write_text(",a,b\n0,x,y\n1,z,w\n")
    assert [(row["a"], row["b"]) for row in read_rows(tmp_path / "d.csv", ["a", "b"])] == [("x", "y"), ("z", "w")]


def test_lines_end_at_newline_alone(tmp_path):
    (tmp_path / "t.txt").write_bytes("a\u2028b\x0cc\r\nd".encode())
    assert list(read_lines(tmp_path / "t.txt")) == ["a\u2028b\x0cc\r\n", "d"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.txt", b"x", r"its ending is \.txt, known are \.jsonl, \.csv, \.tsv"),
        ("d", b"x", "its ending is missing"),
        ("d.jsonl", b"", r"d\.jsonl is empty"),
        ("d.jsonl", b"\n\n", r"d\.jsonl is empty"),
        ("d.csv", b"", r"d\.csv is empty"),
        ("d.csv", b"a,b\n", r"d\.csv is empty"),
        ("d.jsonl", b'{"a": "1"}\n{"a": \n', r"d\.jsonl, line 2 is not JSON"),
        ("d.jsonl", b'{"a": "1"}\n\n["x"]\n', r"line 3 is not a JSON object with named columns: \[\"x\"\]"),
        ("d.jsonl", b'{"a": "1"}\n{"b": "1", "c": 2}\n', "row 2: there is no column 'a', it has b, c"),
        ("d.csv", b"x,y\n1,2\n", "row 1: there is no column 'a', it has x, y"),
        ("d.jsonl", b'{"a": "1"}\n{"a": "\xff"}\n', "line 2 is not UTF-8 text"),
        ("d.csv", b"a,b\n1,2\n3\n", "line 3: the row has not 2 cells"),
        ("d.csv", b"a,b\n1,2,3\n", "line 2: the row has not 2 cells"),
        ("d.csv", b'a,b\n1,"2\n', r"d\.csv, line \d: unexpected end of data"),
        ("d.jsonl.gz", b"not gzip", "the compressed data is damaged"),
        ("d.jsonl.gz", gzip.compress(b'{"a": "1"}\n' * 1000)[:-9], "the compressed data is damaged"),
        ("d.jsonl", b'{"a": 3}\n', "row 1: 'a' is 3, but a text is wanted"),
        ("d.jsonl", b'{"a": null}\n', "row 1: 'a' is null, but a text is wanted"),
        ("d.jsonl", b'{"a": ["x"]}\n', r"row 1: 'a' is \[\"x\"\], but a text is wanted"),
    ],
)
def test_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_texts(tmp_path / name, {"anchor": "a"}))


def test_damage_in_the_middle_of_a_compressed_file(tmp_path):
    packed = bytearray(gzip.compress(b"".join(b'{"a": "%d"}\n' % (i * i) for i in range(20000))))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    (tmp_path / "d.jsonl.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=r"d\.jsonl\.gz"):
        list(read_texts(tmp_path / "d.jsonl.gz", {"anchor": "a"}))


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        list(read_rows(tmp_path / "none.jsonl", []))


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.jsonl.gz", "a.b.Jsonl.GZ"])
def test_kinds_of_files(name):
    assert file_kind(Path(name)) == ".jsonl"


def write_cells(tmp_path, *files):
    paths = [tmp_path / f"{i}.jsonl" for i in range(len(files))]
    for path, cells in zip(paths, files, strict=True):
        path.write_text("".join(json.dumps({"a": cell}) + "\n" for cell in cells))
    return list(read_places(paths, ["a"]))


def test_places_of_several_files(tmp_path):
    places = write_cells(tmp_path, ["x", "y"], ["z"])
    assert [(place.file.name, place.number, place.row["a"]) for place in places] == [
        ("0.jsonl", 1, "x"),
        ("0.jsonl", 2, "y"),
        ("1.jsonl", 1, "z"),
    ]


def test_cells_that_are_texts(tmp_path):
    cells = TextCells("a")
    texts, counts = cells.read(write_cells(tmp_path, ["x", ""], ["z"]))
    assert (texts, counts.tolist(), cells.are_lists) == (["x", "", "z"], [1, 1, 1], False)


def test_cells_that_are_lists(tmp_path):
    cells = TextCells("a")
    texts, counts = cells.read(write_cells(tmp_path, [[], ["x", ""]], [["z"]]))
    assert (texts, counts.tolist(), cells.are_lists) == (["x", "", "z"], [0, 2, 1], True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ([["x"], ["y"]], [[], "z"]),
            r"1\.jsonl, row 2: 'a' is \"z\", but a list of texts is wanted, as in the first row",
        ),
        (([["x"], None],), "row 2: 'a' is null, but a list of texts is wanted"),
        ((["x", ["y"]],), r"row 2: 'a' is \[\"y\"\], but a text is wanted"),
        (([["x", 3]],), "row 1: 'a' is 3, but a text is wanted"),
        (([["x", "\ud800"]],), "row 1: 'a' holds half a character"),
        (([{"b": 1}],), r"row 1: 'a' is {\"b\": 1}, but a text is wanted"),
    ],
)
def test_cells_that_do_not_fit(tmp_path, files, message):
    cells = TextCells("a")
    with pytest.raises(ValueError, match=message):
        for place in write_cells(tmp_path, *files):
            cells.read([place])
