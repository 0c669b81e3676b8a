"""Rows of jsonl, csv and tsv files, plain or .gz, one at a time; every error names file and line."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
STANDARD_INPUT = Path("-")


def read_rows(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Each row of `file` as a dict, with at least `columns`. ValueError for a file that cannot be read so."""
    kind = ".jsonl" if file == STANDARD_INPUT else file_kind(file)
    if kind not in (".jsonl", *DELIMITERS):
        raise ValueError(f"{file}: its ending is {kind or 'missing'}, known are .jsonl, .csv, .tsv, and these with .gz")
    lines = read_lines(file)
    rows = _jsonl(file, lines) if kind == ".jsonl" else _table(file, lines, DELIMITERS[kind])
    number = 0
    for number, row in enumerate(rows, 1):
        for column in columns:
            if column not in row:
                raise ValueError(
                    f"{file}, row {number}: there is no column {column!r}, it has {', '.join(map(str, row))}"
                )
        yield row
    if number == 0:
        raise ValueError(f"{file} is empty")


def read_texts(file: Path, columns: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The texts of `columns` (role -> column of the file), in that order, of each row."""
    for number, row in enumerate(read_rows(file, list(columns.values())), 1):
        for column in columns.values():
            _check_text(file, number, column, row[column])
        yield tuple(row[column] for column in columns.values())


class Place(NamedTuple):
    """A row, and where it stands, for messages."""

    file: Path
    number: int  # from 1
    row: Row


def read_places(files: Sequence[Path], columns: Sequence[str], format: str = "") -> Iterator[Place]:
    """The rows of all files, one file after the other."""
    return (Place(file, number, row) for file in files for number, row in enumerate(read_rows(file, columns), 1))


class TextCells:
    """Reads a column whose cells are texts, or lists of texts: what the first row has, all others must have."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.are_lists: bool | None = None  # not known before the first row

    def read(self, places: Sequence[Place]) -> tuple[list[str], np.ndarray]:
        """The texts of these rows one after the other, and how many each row has, [rows]. An empty list has none."""
        cells = [place.row[self.column] for place in places]
        if self.are_lists is None:
            self.are_lists = isinstance(cells[0], list)
        for (file, number, _), cell in zip(places, cells, strict=True):
            if self.are_lists and not isinstance(cell, list):
                given = f"{self.column!r} is {show(cell)}"
                raise ValueError(f"{file}, row {number}: {given}, but a list of texts is wanted, as in the first row")
            for text in cell if self.are_lists else (cell,):
                _check_text(file, number, self.column, text)
        if not self.are_lists:
            return cells, np.ones(len(cells), np.int64)
        return [text for cell in cells for text in cell], np.fromiter(map(len, cells), np.int64, len(cells))


def _check_text(file: Path, number: int, column: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{file}, row {number}: {column!r} is {show(text)}, but a text is wanted")
    if not is_unicode(text):
        raise ValueError(f"{file}, row {number}: {column!r} holds half a character (a lone surrogate)")


def show(cell: Any) -> str:
    """A cell as the file has it, if it is not long."""
    return json.dumps(cell, ensure_ascii=False)[:60]


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON escapes can spell what cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_kind(file: Path) -> str:
    """The ending that says what is inside, in small letters: .jsonl of rows.jsonl and of ROWS.JSONL.gz."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def open_stream(file: Path) -> BufferedIOBase:
    """The bytes of a file, decompressed if it ends in .gz, or of standard input."""
    if file == STANDARD_INPUT:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    return gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb")


def read_lines(file: Path) -> Iterator[str]:
    """Lines with their ends, of UTF-8 text; ValueError names the line that is not."""
    with open_stream(file) as stream:
        number = 0
        try:
            for number, line in enumerate(stream, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise ValueError(f"{file}, line {number} is not UTF-8 text: {e.reason}") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as e:
            raise ValueError(f"{file}, after line {number}: the compressed data is damaged ({e})") from None


def _jsonl(file: Path, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as e:
            raise ValueError(f"{file}, line {number} is not JSON: {e}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is not a JSON object with named columns: {line.strip()[:60]}")
        yield row


def _table(file: Path, lines: Iterator[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses a text of 128 KiB
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row.values() or None in row:  # too few cells, too many
                wanted = len(reader.fieldnames or ())
                raise ValueError(f"{file}, line {reader.line_num}: the row has not {wanted} cells as the header has")
            yield row
    except csv.Error as e:
        raise ValueError(f"{file}, line {reader.line_num}: {e}") from None
