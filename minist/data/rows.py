"""Rows of jsonl, json, csv, tsv and parquet files, or lines of text, one at a time; errors name file and row."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from minist.checks import listing, pick
from minist.files import check_file, parse_json

Column = str | int  # a name; or a place, the first is 0, in a table without a header
Row = dict[Any, Any]
STANDARD_INPUT = Path("-")  # as many tools write it
LARGEST = 3.4028234663852886e38  # beyond it a float32 is infinite
LARGEST_INTEGER = 2**53  # beyond it a float64 skips some
PARQUET_ROWS = 4096  # that are read at a time
DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


class Place(NamedTuple):
    """A row, and where it stands, for messages."""

    file: Path
    number: int  # from 1
    row: Row  # under our names
    columns: Mapping[Any, Column] = {}  # our names -> those of the file, which messages use

    def error(self, column: Column, rule: str) -> ValueError:
        """ "d.csv, row 7: 'score' is "x", but a number is wanted": the last part is `rule`."""
        cell = json.dumps(self.row[column], ensure_ascii=False, default=str)[:60]  # a parquet file may hold dates
        return ValueError(f"{self.file}, row {self.number}: {self.columns.get(column, column)!r} is {cell}, but {rule}")


def read_places(files: Iterable[Path], columns: Mapping[Any, Column], format: str = "") -> Iterator[Place]:
    """The rows of all files, one file after the other, with the keys of `columns`: our names -> columns of the file."""
    for file in files:
        for number, row in enumerate(read_rows(file, list(columns.values()), format), 1):
            yield Place(file, number, {name: row[column] for name, column in columns.items()}, columns)


def read_rows(file: Path, columns: Sequence[Column], format: str = "") -> Iterator[Row]:
    """Each row of `file`, with at least `columns`, under the names that the file has for them."""
    number = 0
    for number, row in enumerate(pick("format", format_of(file, format), READERS)(file, columns), 1):
        for column in columns:
            if column not in row:
                by_number = " (without a header they go by number, from 0)" if isinstance(column, str) else ""
                names = listing(row, near=str(column))
                raise ValueError(f"{file}, row {number}: there is no column {column!r}, it has {names}{by_number}")
        yield row
    if number == 0:
        raise ValueError(f"{file} is empty")


def read_texts(file: Path, columns: Mapping[str, Column], format: str = "") -> Iterator[list[str]]:
    """The texts of `columns`, in that order, of each row; a cell that is a list gives each of its texts."""
    for place in read_places([file], columns, format):
        yield [text for name in columns for text in check_texts(place, name, isinstance(place.row[name], list))]


def check_text(place: Place, column: Column) -> str:
    return check_texts(place, column, False)[0]


def check_texts(place: Place, column: Column, are_lists: bool) -> list[str]:
    """The texts in a cell: one, or where `are_lists` any number."""
    cell = place.row[column]
    if are_lists and not isinstance(cell, list):
        raise place.error(column, "a list of texts is wanted, as in the first row")
    texts = cell if are_lists else [cell]
    for text in texts:
        if not isinstance(text, str) or not is_unicode(text):
            rule = "it holds half a character (a lone surrogate)" if isinstance(text, str) else "a text is wanted"
            raise place._replace(row={column: text}).error(column, rule)  # shows this one of a list
    return texts


def check_number(place: Place, column: Column) -> int | float:
    """The number in a cell, which may be spelled as text, as every cell of a table is."""
    cell = place.row[column]
    number = parse_number(cell) if isinstance(cell, str) else cell
    rule = "a number is finite and not that large"
    if not isinstance(number, int | float):
        decimal = cell.replace(",", ".") if isinstance(cell, str) else ""
        rule = "a number is wanted" + (f": write {decimal}" if parse_number(decimal) else "")
    elif abs(number) <= (LARGEST_INTEGER if isinstance(number, int) else LARGEST):  # not so of NaN either
        return number
    raise place.error(column, rule)


def parse_number(text: str) -> int | float | None:
    """The number that `text` spells, None if it is none."""
    for number in (int, float):  # int first: a float rounds large numbers
        with suppress(ValueError):
            return None if "_" in text else number(text)  # 1_2 is a name, though Python reads it as 12
    return None


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON escapes, and a shell's arguments, can spell what cannot."""
    with suppress(UnicodeEncodeError):
        text.encode()
        return True
    return False


def file_kind(file: Path) -> str:
    """The ending that says what is inside, in small letters: .jsonl of rows.jsonl and of ROWS.JSONL.gz."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def format_of(file: Path, given: str, otherwise: str = "") -> str:
    """A key of READERS: `given`, or what the ending says, or `otherwise`. ValueError where all say nothing."""
    kind, known = file_kind(file).replace(".ndjson", ".jsonl"), [f".{name}" for name in READERS if name != "txt"]
    found = given or (kind[1:] if kind in known else otherwise)  # .txt may be a table, or lines
    if not found and file != STANDARD_INPUT:
        about = f"its ending is {kind or 'missing'}, known are {', '.join(known)}, also with .gz"
        raise ValueError(f"{file}: {about}: give its format")
    return found or "jsonl"


def open_stream(file: Path) -> BufferedIOBase:
    """The bytes of a file, decompressed if it ends in .gz, or of standard input."""
    if file == STANDARD_INPUT:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    check_file(file)
    return gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb")


def read_lines(file: Path, keep_ends: bool = False) -> Iterator[str]:
    """Lines of UTF-8 text; ValueError names the line that is not."""
    with open_stream(file) as stream:
        number = 0
        try:
            for number, line in enumerate(stream, 1):  # at \n alone: a text may hold other line ends
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")  # Excel puts a mark before the first
                yield text if keep_ends else text.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as e:
            raise ValueError(f"{file}, line {number} is not UTF-8 text: {e.reason}") from None
        except DAMAGED_GZIP as e:
            raise ValueError(f"{file}, after line {number}: the compressed data is damaged ({e})") from None


def _jsonl(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    for number, line in enumerate(read_lines(file), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise ValueError(f"{where} is not a JSON object with named columns: {line.strip()[:60]}")
        if any(line.count(f'"{column}"') > 1 for column in columns):  # a name twice: Python keeps the last silently
            names = json.loads(line, object_pairs_hook=lambda pairs: [name for name, _ in pairs])  # slow, and seldom
            _check_once(where, names, columns)
        yield row


def _json(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    text = "".join(read_lines(file, keep_ends=True))
    rows = parse_json(text, file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file} is JSON, but not a list of objects with named columns; jsonl has one on each line")
    if any(text.count(f'"{column}"') > len(rows) for column in columns):  # a name twice, as above
        json.loads(text, object_pairs_hook=lambda pairs: _check_once(str(file), [name for name, _ in pairs], columns))
    return iter(rows)


def _table(file: Path, columns: Sequence[Column], *, quoted: bool) -> Iterator[Row]:
    """Rows of cells below a header; without a header if all `columns` are numbers, which are the names then."""
    names: list[Any] = []
    for number, cells in _cells(file, quoted):
        if not names and columns and all(isinstance(column, int) for column in columns):
            names = list(range(len(cells)))  # the first line is a row
        elif not names:
            names = cells
            _check_once(str(file), names, columns)
            continue
        if len(cells) != len(names):
            raise ValueError(f"{file}, line {number}: the row has {len(cells)} cells, not {len(names)} as the first")
        yield dict(zip(names, cells, strict=True))


def _cells(file: Path, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells. In tsv a quote is a letter like any other: no cell holds a tab or a line end."""
    if not quoted:
        yield from ((number, line.split("\t")) for number, line in enumerate(read_lines(file), 1) if line)
        return
    csv.field_size_limit(sys.maxsize)  # the default refuses a text of 128 KiB
    reader = csv.reader(read_lines(file, keep_ends=True), strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as e:
        raise ValueError(f"{file}, line {reader.line_num}: {e}") from None


def _check_once(where: str, names: Sequence[Any], columns: Iterable[Column]) -> None:
    for column in columns:
        if names.count(column) > 1:
            raise ValueError(f"{where}: {names.count(column)} columns are called {column!r}: give each its own name")


def open_parquet(file: Path) -> Any:
    check_file(file)
    try:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(file)
    except ImportError:
        raise ValueError(f"{file} is parquet, which needs pyarrow: pip install pyarrow, or make it jsonl") from None
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{file} is no parquet file: {e}") from None


def read_parquet(file: Path, columns: Sequence[Column]) -> Iterator[Row]:
    """`columns` of each row; lists and numbers as Python's own."""
    table = open_parquet(file)
    names = table.schema_arrow.names
    for column in columns:
        if names.count(column) != 1:
            many = "several columns are called" if column in names else "there is no column"
            raise ValueError(f"{file}: {many} {column!r}, it has {listing(names, near=str(column))}")
    import pyarrow  # here, not above: whoever has no parquet needs none

    try:
        for batch in table.iter_batches(PARQUET_ROWS, columns=list(columns)):  # only these are read from the disk
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{file}: {listing(map(repr, columns))} is damaged: {str(e).partition(chr(10))[0]}") from None


READERS: dict[str, Callable[[Path, Sequence[Column]], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": partial(_table, quoted=True),
    "tsv": partial(_table, quoted=False),
    "parquet": read_parquet,
    "txt": lambda file, columns: ({"text": text, 0: text} for text in read_lines(file)),  # a table of one column
}
