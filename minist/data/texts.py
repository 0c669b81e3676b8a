"""The texts of some inputs, read one at a time: lines, or one column of files with columns, or two for pairs."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from minist.checks import listing
from minist.data import rows
from minist.data.rows import STANDARD_INPUT, Column, format_of
from minist.files import check_file

T = TypeVar("T")
Text = str | tuple[str, str]  # a pair goes through the encoder as one sequence: [CLS] a [SEP] b [SEP]
# how people call the two columns of pairs, in small letters
FIRST = ["query", "question", "anchor", "premise", "sentence1", "sentence_a", "text1", "text_a", "question1"]
SECOND = ["document", "passage", "text", "answer", "positive", "context", "hypothesis"]
SECOND += ["sentence2", "sentence_b", "text2", "text_b", "question2"]
BLOCK_TEXTS, BLOCK_CHARACTERS = 8192, 1 << 21  # the share of work that a process takes at once: about 500,000 tokens


@dataclass(frozen=True)
class Texts:
    """`inputs`: files, or "-" for standard input; `columns` hold the texts, one or the two of pairs. None where lines
    are texts: split on \\n alone, a \\r before it is dropped; an empty line is one too. `format` "": as they end."""

    inputs: tuple[Path, ...]
    columns: tuple[Column, ...] = ()
    format: str = ""

    def format_of(self, file: Path) -> str:
        """A format of rows.py; what has no ending that is known is lines, and standard input with a column is jsonl."""
        return format_of(file, self.format, "" if file == STANDARD_INPUT and self.columns else "txt")

    def check(self) -> None:
        """ValueError where an input is missing, or what it is and `columns` do not go together."""
        if self.inputs.count(STANDARD_INPUT) > 1:
            raise ValueError("standard input, -, can be read only once")
        for file in self.inputs:
            kind = self.format_of(file)
            if file != STANDARD_INPUT:
                check_file(file)
            if (kind == "txt") == bool(self.columns):
                way = "has columns: name the one with the text, --column"
                if kind == "txt":
                    way = "has no columns: leave --column out, or name a --format"
                raise ValueError(f"{file} is read as {kind}, which {way}")

    def __iter__(self) -> Iterator[Text]:
        """Every text or pair of every input, in order. ValueError names file and line of what is none."""
        for file in self.inputs:
            if not self.columns:
                yield from rows.read_lines(file)
                continue
            for place in rows.read_places([file], {column: column for column in self.columns}, self.format_of(file)):
                first, *second = (rows.check_text(place, column) for column in self.columns)
                yield (first, second[0]) if second else first

    def pair_columns(self) -> tuple[Column, Column]:
        """Where pairs are, as the first input looks: under names that people use for them, else the two columns of a
        table that has no others, and no header. ValueError where that is not so."""
        file, names, is_table = self.inputs[0], list[str](), self.format_of(self.inputs[0]) in ("csv", "tsv")
        if self.format_of(file) != "txt" and file != STANDARD_INPUT:
            row = next(rows.read_rows(file, [0, 1] if is_table else [], self.format_of(file)))  # by number: no header
            names = list(map(str, row.values() if is_table else row))
        first, second = ([name for name in names if name.lower() in known] for known in (FIRST, SECOND))
        if len(first) == len(second) == 1:
            return first[0], second[0]
        if is_table and len(names) == 2 and not first and not second:
            return 0, 1
        found = f"the columns {listing(names)}" if names else "no columns that can be looked at"
        raise ValueError(f"{file} has {found}: name the two of a pair by --column, twice")

    def count(self) -> int | None:
        """How many there are, for a progress bar: a table whose cells hold line ends has fewer. None if not known."""
        total = 0
        for file in self.inputs:
            kind = self.format_of(file)
            if file == STANDARD_INPUT or kind == "json":
                return None
            if kind == "parquet":
                total += rows.open_parquet(file).metadata.num_rows
                continue
            header = kind in ("csv", "tsv") and isinstance(self.columns[0], str)  # by number there is none
            try:
                with rows.open_stream(file) as stream:
                    total += max(0, sum(1 for _ in stream) - header)  # at least 0: an empty file has no header either
            except rows.DAMAGED_GZIP:
                return None  # reading will say where
        return total

    def blocks(self) -> Iterator[list[Text]]:
        """All texts, some thousands at a time; blocks take about equally long to embed."""
        return chunks(self, BLOCK_TEXTS, BLOCK_CHARACTERS, length_of)


def length_of(text: Text) -> int:
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


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


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
