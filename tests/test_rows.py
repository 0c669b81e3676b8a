"""Rows of jsonl, csv and tsv files."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from minist.data.rows import (
    check_number,
    check_text,
    check_texts,
    file_kind,
    read_lines,
    read_places,
    read_rows,
    read_texts,
)

ROWS = [
    {"a": "plain", "b": "two words"},
    {"a": 'commas, "quotes"\tand tabs', "b": "a line\nand another"},
    {"a": "", "b": "größer ☃"},
    {"a": "x" * 200_000, "b": "longer than a csv reader takes by itself"},
]


def write(file, rows):
    """By the standard library, as a person would."""
    if file.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        return parquet.write_table(arrow.Table.from_pylist(rows), file)
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "wt", encoding="utf-8", newline="") as stream:
        if ".jsonl" in file.name or ".ndjson" in file.name:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        elif ".json" in file.name:
            json.dump(rows, stream, indent=1)
        elif ".tsv" in file.name:
            stream.writelines("\t".join(cells) + "\n" for cells in [rows[0], *(row.values() for row in rows)])
        else:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


PLAIN = [{name: cell.replace("\t", " ").replace("\n", " ") for name, cell in row.items()} for row in ROWS]


@pytest.mark.parametrize(
    "ending",
    ["jsonl", "csv", "tsv", "json", "ndjson", "parquet", "jsonl.gz", "csv.gz", "tsv.gz", "json.gz", "ndjson.gz"],
)
def test_every_kind_gives_the_same_rows(tmp_path, ending):
    file = tmp_path / f"data.{ending}"
    rows = PLAIN if "tsv" in ending else ROWS  # where no cell can hold a tab or a line end
    write(file, rows)
    assert list(read_rows(file, ["a", "b"])) == rows
    assert list(read_texts(file, {"positive": "b", "anchor": "a"})) == [[row["b"], row["a"]] for row in rows]
    places = list(read_places([file, file], {"text2": "b"}))
    assert [place.row for place in places] == [{"text2": row["b"]} for row in rows] * 2
    assert [place.number for place in places] == [1, 2, 3, 4] * 2


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
    assert list(read_lines(tmp_path / "t.txt", keep_ends=True)) == ["a\u2028b\x0cc\r\n", "d"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "d.txt",
            b"x",
            r"its ending is \.txt, known are \.jsonl, \.json, \.csv, \.tsv, \.parquet, also with \.gz: give its format",
        ),
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
        ("d.csv", b"a,b\n1,2\n3\n", "line 3: the row has 1 cells, not 2"),
        ("d.csv", b"a,b\n1,2,3\n", "line 2: the row has 3 cells, not 2"),
        ("d.csv", b'a,b\n1,"2\n', r"d\.csv, line \d: unexpected end of data"),
        ("d.jsonl.gz", b"not gzip", "the compressed data is damaged"),
        ("d.jsonl.gz", gzip.compress(b'{"a": "1"}\n' * 1000, mtime=0)[:-9], "the compressed data is damaged"),
        ("d.jsonl", b'{"a": 3}\n', "row 1: 'a' is 3, but a text is wanted"),
        ("d.jsonl", b'{"a": null}\n', "row 1: 'a' is null, but a text is wanted"),
        ("d.jsonl", b'{"a": ["x"]}\n', r"row 1: 'a' is \[\"x\"\], but a text is wanted"),
    ],
)
def test_errors(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        for place in read_places([tmp_path / name], {"anchor": "a"}):
            check_text(place, "anchor")


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
    return list(read_places(paths, {"a": "a"}))


def test_places_of_several_files(tmp_path):
    places = write_cells(tmp_path, ["x", "y"], ["z"])
    assert [(place.file.name, place.number, place.row["a"]) for place in places] == [
        ("0.jsonl", 1, "x"),
        ("0.jsonl", 2, "y"),
        ("1.jsonl", 1, "z"),
    ]


def test_cells_that_are_texts(tmp_path):
    places = write_cells(tmp_path, ["x", ""], ["z"])
    assert [check_texts(place, "a", False) for place in places] == [["x"], [""], ["z"]]


def test_cells_that_are_lists(tmp_path):
    places = write_cells(tmp_path, [[], ["x", ""]], [["z"]])
    assert [check_texts(place, "a", True) for place in places] == [[], ["x", ""], ["z"]]
    assert list(read_texts(places[0].file, {"a": "a"})) == [[], ["x", ""]]


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
        (([["x", "\ud800"]],), "row 1: 'a' is .*, but it holds half a character"),
        (([{"b": 1}],), r"row 1: 'a' is {\"b\": 1}, but a text is wanted"),
    ],
)
def test_cells_that_do_not_fit(tmp_path, files, message):
    places = write_cells(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        for place in places:
            check_texts(place, "a", isinstance(places[0].row["a"], list))


# ---------------------------------------------------------------- files as people have them


def test_a_quote_in_tsv_is_a_letter(tmp_path):
    """As in SemEval's files: a cell that begins with one used to swallow the lines after it."""
    (tmp_path / "d.tsv").write_text('score\ta\tb\n3\t"Then he was gone.\tx\n4\ty\t"a ""b"\n')
    found = [(row["a"], row["b"]) for row in read_rows(tmp_path / "d.tsv", ["a", "b"])]
    assert found == [('"Then he was gone.', "x"), ("y", '"a ""b"')]


@pytest.mark.parametrize(("ending", "delimiter"), [("tsv", "\t"), ("csv", ",")])
def test_columns_by_number_of_a_table_without_a_header(tmp_path, ending, delimiter):
    file = tmp_path / f"d.{ending}"
    file.write_text(f"4.5{delimiter}a{delimiter}b\n{delimiter}c{delimiter}d\r\n")
    rows = [place.row for place in read_places([file], {"score": 0, "text2": 2})]
    assert rows == [{"score": "4.5", "text2": "b"}, {"score": "", "text2": "d"}]
    with pytest.raises(ValueError, match=r"row 1: there is no column 3, it has 0, 1, 2"):
        list(read_places([file], {"score": 3}))
    with pytest.raises(ValueError, match=r"no column 'a b', it has 4.5, a, b \(without a header they go by number"):
        list(read_places([file], {"score": "a b"}))


def test_a_format_where_the_ending_says_nothing(tmp_path):
    (tmp_path / "SICK_train.txt").write_text("pair_ID\tA\tB\n1\ta\tb\n")
    assert list(read_texts(tmp_path / "SICK_train.txt", {"a": "A"}, "tsv")) == [["a"]]
    assert list(read_texts(tmp_path / "SICK_train.txt", {"a": 0}, "txt")) == [["pair_ID\tA\tB"], ["1\ta\tb"]]
    with pytest.raises(ValueError, match="format is 'xls', known are jsonl, json, csv, tsv, parquet, txt"):
        list(read_rows(tmp_path / "SICK_train.txt", ["A"], "xls"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "a,b,a\n1,2,3\n"),
        ("d.tsv", "a\tb\ta\n1\t2\t3\n"),
        ("d.jsonl", '{"a": "1", "b": "2", "a": "3"}\n'),
        ("d.json", '[{"a": "1", "b": "2", "a": "3"}]'),
    ],
)
def test_two_columns_of_one_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match="2 columns are called 'a': give each its own name"):
        list(read_rows(tmp_path / name, ["a"]))
    assert [row["b"] for row in read_rows(tmp_path / name, ["b"])] == ["2"], "another column may be there twice"


def test_a_name_that_stands_in_a_text_too(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"a": "x", "b": {"a": "a"}}\n')
    assert [row["a"] for row in read_rows(tmp_path / "d.jsonl", ["a"])] == ["x"]


@pytest.mark.parametrize("content", ["{}", "3", "null", '["a"]', "[" * 100_000])
def test_json_that_is_no_list_of_objects(tmp_path, content):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(ValueError, match=r"d\.json is (JSON, but not a list of objects|not JSON)"):
        list(read_rows(tmp_path / "d.json", ["a"]))


def test_deep_jsonl(tmp_path):
    (tmp_path / "d.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"d\.jsonl, line 1 is not JSON"):
        list(read_rows(tmp_path / "d.jsonl", ["a"]))


def test_a_message_lists_few_of_many_columns(tmp_path):
    (tmp_path / "d.csv").write_text(",".join(f"c{i}" for i in range(3000)) + "\n" + "," * 2999 + "\n")
    with pytest.raises(ValueError) as error:
        list(read_rows(tmp_path / "d.csv", ["c17x"]))
    assert "it has c17, " in str(error.value)
    assert len(str(error.value)) < 500


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    (tmp_path / "d.csv").mkdir()
    os.mkfifo(tmp_path / "p.csv")
    for name in ("d.csv", "p.csv"):
        with pytest.raises(ValueError, match=rf"{name} is not a file, but one is wanted"):
            list(read_rows(tmp_path / name, ["a"]))


@pytest.mark.parametrize(("cell", "number"), [("4.5", 4.5), (3, 3), ("-1", -1), (True, 1), ("1e3", 1000.0), (2.5, 2.5)])
def test_numbers(tmp_path, cell, number):
    (place,) = write_cells(tmp_path, [cell])
    assert check_number(place, "a") == number


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("N/A", r"0\.jsonl, row 1: 'a' is \"N/A\", but a number is wanted$"),
        ("4,5", "but a number is wanted: write 4.5"),
        ("", "but a number is wanted$"),
        (None, "'a' is null, but a number is wanted"),
        ([1], r"'a' is \[1\], but a number is wanted"),
        ("nan", "but a number is finite"),
        ("1_000", "but a number is wanted$"),
    ],
)
def test_what_is_no_number(tmp_path, cell, message):
    (place,) = write_cells(tmp_path, [cell])
    with pytest.raises(ValueError, match=message):
        check_number(place, "a")
