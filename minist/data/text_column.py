"""One text column of a data set on disk: a memory-mapped token stream.

<stem>.ids      token ids of all texts, end to end: uint16, or int32 for a large vocabulary
<stem>.offsets  int64 [texts + 1], where each text starts
<stem>.cut      bool [texts], whether a text was cut at the maximum length
<stem>.rows     int64 [rows + 1], the first text of each row; only where the cells are lists of texts
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minist.data.arrays import ArrayWriter, OffsetsWriter, read_array
from minist.data.packed import Packed, ranges
from minist.data.tokenizer import Tokenizer


class ColumnSpec(NamedTuple):
    """Where the texts of a column come from, and how they become tokens."""

    source: str  # name of the column in the files
    tokenizer: Tokenizer  # a model with routes has one for each role
    prompt: str = ""  # put before each text


class TextColumn:
    """The texts of a column, to be taken by row."""

    def __init__(self, stem: Path, meta: dict[str, Any]) -> None:
        """`meta` as `TextColumnWriter.meta` gave it."""
        self.ids = read_array(stem.with_suffix(".ids"), meta["dtype"])
        self.offsets = read_array(stem.with_suffix(".offsets"), np.int64)
        self.was_cut = read_array(stem.with_suffix(".cut"), np.bool_)
        self.rows = read_array(stem.with_suffix(".rows"), np.int64) if meta["ragged"] else None
        self.prompt_length: int = meta["prompt_length"]
        self.cut_in_all: int = meta["cut"]

    def __len__(self) -> int:
        return len(self.was_cut)

    def take(self, rows: Tensor) -> Packed:
        """The texts of `rows` [n], in that order; those of one cell stand one after the other."""
        texts = self.texts(rows).numpy()
        starts = torch.from_numpy(self.offsets[texts])
        lengths = torch.from_numpy(self.offsets[texts + 1]) - starts
        ids = self.ids[ranges(starts, lengths).numpy()]
        prompts = torch.full_like(lengths, self.prompt_length)
        return Packed.of(torch.from_numpy(ids.astype(np.int64)), lengths, prompt_lengths=prompts)

    def counts(self, rows: Tensor) -> Tensor | None:
        """Texts in each of `rows`, [n] int64; None where every cell is one text."""
        if self.rows is None:
            return None
        return torch.from_numpy(self.rows[rows.numpy() + 1] - self.rows[rows.numpy()])

    def tokens(self, rows: Tensor) -> Tensor:
        """Tokens in all texts of each of `rows`, [n] int64."""
        first, end = rows.numpy(), rows.numpy() + 1
        if self.rows is not None:
            first, end = self.rows[first], self.rows[end]
        return torch.from_numpy(self.offsets[end] - self.offsets[first])

    def cut(self, rows: Tensor) -> int:
        """How many texts of `rows` were cut at the maximum length."""
        return int(self.was_cut[self.texts(rows).numpy()].sum())

    def texts(self, rows: Tensor) -> Tensor:
        """The numbers of the texts of `rows`, row after row."""
        counts = self.counts(rows)
        if self.rows is None or counts is None:
            return rows
        return ranges(torch.from_numpy(self.rows[rows.numpy()]), counts)

    def describe(self) -> str:
        """Mean length, mean number of texts in a cell that is a list, and how many texts were cut."""
        tokens = f"{len(self.ids) / max(len(self), 1):.0f} tokens"
        if self.rows is not None:
            tokens = f"lists of {len(self) / (len(self.rows) - 1):.1f} texts of {tokens}"
        return f"{tokens}, {self.cut_in_all:,} cut" if self.cut_in_all else tokens


class TextColumnWriter:
    """Tokenizes texts and writes the files of one column, some rows at a time."""

    def __init__(self, stem: Path, spec: ColumnSpec) -> None:
        self.stem, self.tokenizer, self.prompt = stem, spec.tokenizer, spec.prompt
        self.dtype = np.uint16 if spec.tokenizer.vocab_size <= 2**16 else np.int32
        self.cut = 0
        self.rows: OffsetsWriter | None = None  # the first rows say whether there is one
        self.streams = ExitStack()

    def __enter__(self) -> "TextColumnWriter":
        self.ids = self.streams.enter_context(ArrayWriter(self.stem.with_suffix(".ids"), self.dtype))
        self.offsets = self.streams.enter_context(OffsetsWriter(self.stem.with_suffix(".offsets")))
        self.was_cut = self.streams.enter_context(ArrayWriter(self.stem.with_suffix(".cut"), np.bool_))
        return self

    def __exit__(self, *error: object) -> None:
        self.streams.close()

    def write(self, texts: Sequence[str], counts: np.ndarray, ragged: bool) -> None:
        """Append rows that have `counts` [rows] texts each; `ragged` where the cells are lists."""
        tokens = self.tokenizer(texts, self.prompt)
        self.ids.append(tokens.input_ids.numpy())
        self.offsets.extend(tokens.lengths.numpy())
        self.was_cut.append(tokens.was_cut.numpy())
        self.cut += int(tokens.was_cut.sum())
        if ragged:
            self.rows = self.rows or self.streams.enter_context(OffsetsWriter(self.stem.with_suffix(".rows")))
            self.rows.extend(counts)

    def meta(self) -> dict[str, Any]:
        """What `TextColumn` has to know."""
        return {
            "dtype": np.dtype(self.dtype).name,
            "ragged": self.rows is not None,
            "prompt_length": self.tokenizer.prompt_length(self.prompt),
            "cut": self.cut,
        }
