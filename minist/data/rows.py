"""Rows of jsonl, csv and tsv files, plain or .gz, one at a time; every error names file and line."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

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
        texts = tuple(row[column] for column in columns.values())
        for column, text in zip(columns.values(), texts, strict=True):
            if isinstance(text, str) and not is_unicode(text):
                raise ValueError(f"{file}, row {number}: {column!r} holds half a character (a lone surrogate)")
            if not isinstance(text, str):
                raise ValueError(f"{file}, row {number}: {column!r} is {json.dumps(text)[:60]}, but a text is wanted")
        yield texts


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
