"""One text column of a data set on disk, a memory-mapped token stream, and the prompts that its texts begin with.

<stem>.ids          token ids of all texts, end to end: uint16, or int32 for a large vocabulary
<stem>.offsets.npy  int64 [texts + 1], where each text starts
<stem>.cut.npy      bool [texts], whether a text was cut at the maximum length
<stem>.rows.npy     int64 [rows + 1], the first text of each row; only where the cells are lists of texts"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minist.checks import pick
from minist.data.packed import Packed, ranges
from minist.data.rows import Column
from minist.data.tokenizer import Tokenizer


class ColumnSpec(NamedTuple):
    """Where the texts of a column come from, and how they become tokens."""

    source: Column  # the column in the files
    tokenizer: Tokenizer  # a model with routes has one for each role
    prompt: str = ""  # put before each text


def resolve_prompts(
    prompts: str | Mapping[str, Any], name: str, names: Sequence[str], columns: Sequence[str]
) -> dict[str, str]:
    """The prompt of each of `columns` of the data set `name`, one of `names`; "" where none is given. Four forms:
        "query: "                                       for every text
        {anchor = "query: ", positive = "passage: "}    {column: prompt}
        {nli = "classify: "}                            {data set: prompt}
        {nli = {anchor = "query: "}}                    {data set: {column: prompt}}
    What is both a data set and a column means the data set. ValueError for other keys, and a prompt that is no text."""
    if isinstance(prompts, Mapping):
        for key in prompts:
            pick("a key of prompts, a column or a data set,", key, dict.fromkeys([*columns, *names]))
        others = {key: prompt for key, prompt in prompts.items() if key not in names}
        prompts = prompts.get(name, others)  # a data set that is named takes its own entry and nothing else
    if isinstance(prompts, str):
        prompts = dict.fromkeys(columns, prompts)
    if not isinstance(prompts, Mapping) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ValueError(f"prompts of {name!r} are {prompts!r}: give a text, or a text for each column")
    for key in prompts:
        pick(f"a column in the prompts of {name!r}", key, dict.fromkeys(columns))
    return {column: prompts.get(column, "") for column in columns}


class TextColumn:
    """The texts of a column, to be taken by row, see Dataset; `meta` as `TextColumnWriter.save` gave it."""

    def __init__(self, stem: Path, meta: dict[str, Any]) -> None:
        self.offsets = np.load(f"{stem}.offsets.npy", mmap_mode="r")
        self.was_cut = np.load(f"{stem}.cut.npy", mmap_mode="r")
        self.rows = np.load(f"{stem}.rows.npy", mmap_mode="r") if meta["ragged"] else None
        empty = self.offsets[-1] == 0  # an empty file cannot be mapped
        self.ids = np.empty(0) if empty else np.memmap(f"{stem}.ids", meta["dtype"], "r")
        self.prompt_length: int = meta["prompt_length"]

    def __len__(self) -> int:  # texts, not rows
        return len(self.was_cut)

    def take(self, rows: Tensor) -> Packed:
        starts, lengths = spans(self.offsets, self.texts(rows))
        ids = self.ids[ranges(starts, lengths).numpy()]  # only these are read from the disk
        prompts = torch.full_like(lengths, self.prompt_length)
        return Packed.of(torch.from_numpy(ids.astype(np.int64)), lengths, prompt_lengths=prompts)

    def counts(self, rows: Tensor) -> Tensor | None:
        return None if self.rows is None else spans(self.rows, rows)[1]

    def tokens(self, rows: Tensor) -> Tensor:
        bounds = np.stack([rows.numpy(), rows.numpy() + 1])
        first, end = self.offsets[bounds if self.rows is None else self.rows[bounds]]
        return torch.from_numpy(end - first)

    def cut(self, rows: Tensor) -> int:
        return int(self.was_cut[self.texts(rows).numpy()].sum())

    def texts(self, rows: Tensor) -> Tensor:
        """The numbers of the texts of `rows`, row after row; where every cell is one text these are the rows."""
        return rows if self.rows is None else ranges(*spans(self.rows, rows))

    def describe(self) -> str:
        tokens = f"{len(self.ids) / max(len(self), 1):.0f} tokens"
        if self.rows is not None:
            tokens = f"lists of {len(self) / (len(self.rows) - 1):.1f} texts of {tokens}"
        cut = int(self.was_cut.sum())
        return f"{tokens}, {cut:,} cut" if cut else tokens


class TextColumnWriter:
    """Tokenizes texts, some rows at a time. Their ids go to the disk at once, 9 bytes a text stay in memory."""

    def __init__(self, stem: Path, spec: ColumnSpec) -> None:
        self.stem, self.tokenizer, self.prompt = stem, spec.tokenizer, spec.prompt
        self.dtype = np.dtype(np.uint16 if spec.tokenizer.vocab_size <= 2**16 else np.int32)  # mostly half the disk
        self.lengths: list[np.ndarray] = []
        self.was_cut: list[np.ndarray] = []
        Path(f"{stem}.ids").write_bytes(b"")  # there even if no text comes

    def write(self, texts: Sequence[str]) -> None:
        tokens = self.tokenizer(texts, self.prompt)
        with open(f"{self.stem}.ids", "ab") as stream:
            stream.write(tokens.input_ids.numpy().astype(self.dtype).data)
        self.lengths.append(tokens.lengths.numpy())
        self.was_cut.append(tokens.was_cut.numpy())

    def save(self, rows: np.ndarray | None) -> dict[str, Any]:
        """Write the rest; `rows` [rows + 1] where the cells are lists. Returns what `TextColumn` has to know."""
        np.save(f"{self.stem}.offsets.npy", offsets(self.lengths))
        np.save(f"{self.stem}.cut.npy", np.concatenate(self.was_cut))
        if rows is not None:
            np.save(f"{self.stem}.rows.npy", rows)
        length = self.tokenizer.prompt_length(self.prompt)
        return {"dtype": self.dtype.name, "ragged": rows is not None, "prompt_length": length}


def offsets(lengths: Sequence[np.ndarray]) -> np.ndarray:
    """Where each of N pieces starts, and the end of the last: int64 [N + 1], of their lengths in several arrays."""
    return np.concatenate([[0], *lengths]).cumsum(dtype=np.int64)


def spans(starts: np.ndarray, pieces: Tensor) -> tuple[Tensor, Tensor]:
    """Start and length of some of the pieces whose `offsets` are `starts` [N + 1]: [n] -> [n], [n]."""
    i = pieces.numpy()  # memory-mapped arrays take numpy's indices, and read those places alone
    return torch.from_numpy(starts[i]), torch.from_numpy(starts[i + 1] - starts[i])
