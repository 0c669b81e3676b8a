"""The texts of one or several inputs, read one at a time: lines, or one column of jsonl, csv, tsv or parquet."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from minist.data.parquet import count_parquet, read_parquet
from minist.data.rows import STANDARD_INPUT, file_kind, open_stream, read_lines, read_texts

TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Texts:
    """`inputs`: files, .gz among them, or "-" for standard input; `field` of jsonl, `column` of a table; else lines.

    Split on \\n alone, a \\r before it is dropped; an empty line is a text too.
    """

    inputs: tuple[Path, ...]
    field: str | None = None
    column: str | None = None

    def check(self) -> None:
        """ValueError where an input is missing, or its ending and `field` or `column` do not go together."""
        for file in self.inputs:
            kind = file_kind(file)
            if file == STANDARD_INPUT and self.column:
                raise ValueError("standard input is read as lines, or as jsonl with --field, but not with --column")
            if file != STANDARD_INPUT and not file.is_file():
                raise ValueError(f"there is no file {file}")
            if kind == ".jsonl" and not self.field:
                raise ValueError(f"{file} is jsonl: name the field that holds the text with --field")
            if kind in TABLES and not self.column:
                raise ValueError(f"{file} is a table: name the column that holds the text with --column")
            if self.field and kind != ".jsonl" and file != STANDARD_INPUT:
                raise ValueError(f"--field is for jsonl, but {file} is not: leave it out, or use --column for a table")
            if self.column and kind not in TABLES:
                raise ValueError(f"--column is for {', '.join(TABLES)}, but {file} is none of them")

    def __iter__(self) -> Iterator[str]:
        """Every text of every input, in order. ValueError names file and line of what is none."""
        for file in self.inputs:
            if file_kind(file) == ".parquet":
                yield from read_parquet(file, self.column or "")
            elif name := self.field or self.column:
                yield from (text for (text,) in read_texts(file, {"text": name}))
            else:
                yield from (line.removesuffix("\n").removesuffix("\r") for line in read_lines(file))

    def count(self) -> int | None:
        """How many there are, for a progress bar: a table whose cells hold line ends has fewer. None if not known."""
        total = 0
        for file in self.inputs:
            if file == STANDARD_INPUT:
                return None
            if file_kind(file) == ".parquet":
                total += count_parquet(file)
            else:
                try:
                    total += max(0, _count_lines(file) - (file_kind(file) in TABLES))
                except (gzip.BadGzipFile, EOFError, zlib.error):
                    return None  # reading will say where it is damaged
        return total

    def chunks(self, size: int) -> Iterator[list[str]]:
        """`size` texts at a time."""
        texts = iter(self)
        while chunk := list(islice(texts, size)):
            yield chunk


def _count_lines(file: Path) -> int:
    """As `read_lines` counts: what stands after the last line end is a line too."""
    count, last = 0, b"\n"
    with open_stream(file) as stream:
        while block := stream.read(1 << 20):
            count, last = count + block.count(b"\n"), block
    return count + (not last.endswith(b"\n"))


def text_inputs(names: Sequence[str]) -> tuple[Path, ...]:
    """File names of a command line; ValueError if standard input is named twice."""
    if names.count("-") > 1:
        raise ValueError("standard input, -, can be read only once")
    return tuple(map(Path, names))
