"""The texts of one or several inputs, read one at a time: lines, or one column of files with columns."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from minist.data import rows
from minist.data.parquet import count_parquet
from minist.data.rows import STANDARD_INPUT, Column, format_of
from minist.files import check_file

T = TypeVar("T")
# a block of texts is the share of work that a process takes at once: about 500,000 tokens
BLOCK_TEXTS, BLOCK_CHARACTERS = 8192, 1 << 21


@dataclass(frozen=True)
class Texts:
    """`inputs`: files, .gz among them, or "-" for standard input.

    `column` holds the text of a file with columns, None where lines are texts: split on \\n alone, a \\r before it is
    dropped; an empty line is a text too. `format` says what the files are, "": their endings do.
    """

    inputs: tuple[Path, ...]
    column: Column | None = None
    format: str = ""

    def format_of(self, file: Path) -> str:
        """A format of rows.py; what has no ending that is known is lines, and standard input with a column is jsonl."""
        return format_of(file, self.format, "" if file == STANDARD_INPUT and self.column is not None else "txt")

    def check(self) -> None:
        """ValueError where an input is missing, or what it is and `column` do not go together."""
        if self.inputs.count(STANDARD_INPUT) > 1:
            raise ValueError("standard input, -, can be read only once")
        for file in self.inputs:
            kind = self.format_of(file)
            if file != STANDARD_INPUT:
                check_file(file)
            if (kind == "txt") != (self.column is None):
                wanted = "has no columns: leave --column out, or name a --format" if kind == "txt" else "has columns"
                raise ValueError(f"{file} is read as {kind}, which {wanted}: name the one with the text, --column")

    def __iter__(self) -> Iterator[str]:
        """Every text of every input, in order. ValueError names file and line of what is none."""
        for file in self.inputs:
            if self.column is None:
                yield from rows.read_lines(file)
            else:
                places = rows.read_places([file], {self.column: self.column}, self.format_of(file))
                yield from (rows.check_text(place, self.column) for place in places)

    def count(self) -> int | None:
        """How many there are, for a progress bar: a table whose cells hold line ends has fewer. None if not known."""
        total = 0
        for file in self.inputs:
            kind = self.format_of(file)
            if file == STANDARD_INPUT or kind == "json":
                return None
            try:
                header = kind in ("csv", "tsv") and isinstance(self.column, str)  # by number there is none
                # at least 0: an empty file has no header either
                total += count_parquet(file) if kind == "parquet" else max(0, _count_lines(file) - header)
            except (gzip.BadGzipFile, EOFError, zlib.error):
                return None  # damaged: reading will say where
        return total

    def blocks(self) -> Iterator[list[str]]:
        """All texts, some thousands at a time; blocks take about equally long to embed."""
        return chunks(self, BLOCK_TEXTS, BLOCK_CHARACTERS, len)


def chunks(texts: Iterable[T], most: int, characters: int, length: Callable[[T], int]) -> Iterator[list[T]]:
    """`texts` in order, `most` at a time, fewer where they are long: each chunk ends when it has `characters`."""
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += length(text)
        if len(chunk) == most or size >= characters:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _count_lines(file: Path) -> int:
    with rows.open_stream(file) as stream:
        return sum(1 for _ in stream)
