"""A training set: text columns, tokenized once and kept on disk as memory-mapped token streams.

<folder>/meta.json       rows, columns, how many texts were cut
<folder>/<column>.ids      token ids of all texts, end to end (uint16, or int32 for a large vocabulary)
<folder>/<column>.offsets  int64 [rows + 1], where each text starts
<folder>/<column>.hashes   uint64 [rows], of the raw text: equal texts have equal hashes
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minist.data.packed import Packed, ranges
from minist.data.rows import read_texts
from minist.data.tokenizer import Tokenized, Tokenizer
from minist.files import complete_folder, read_json, write_json
from minist.progress import progress_bar

KINDS = ("ids", "offsets", "hashes")
CHUNK = 4096  # rows that are tokenized at a time


class Column:
    """One text column."""

    def __init__(self, stem: Path, dtype: str) -> None:
        self.ids = np.memmap(f"{stem}.ids", dtype, "r")
        self.offsets = np.memmap(f"{stem}.offsets", np.int64, "r")
        self.hashes = np.memmap(f"{stem}.hashes", np.uint64, "r")

    def take(self, rows: Tensor) -> Packed:
        """The texts `rows` [N], in that order."""
        starts = torch.from_numpy(self.offsets[rows.numpy()])
        lengths = torch.from_numpy(self.offsets[rows.numpy() + 1]) - starts
        ids = self.ids[ranges(starts, lengths).numpy()]
        return Packed.of(torch.from_numpy(ids.astype(np.int64)), lengths)


class ColumnWriter:
    """Writes the files of one column, chunk by chunk."""

    def __init__(self, stem: Path, dtype: type) -> None:
        self.stem, self.dtype, self.end = stem, dtype, 0

    def __enter__(self) -> "ColumnWriter":
        with ExitStack() as stack:
            self.ids, self.offsets, self.hashes = (
                stack.enter_context(open(f"{self.stem}.{kind}", "wb")) for kind in KINDS
            )
            self.streams = stack.pop_all()  # closed in __exit__
        self.offsets.write(np.zeros(1, np.int64).tobytes())
        return self

    def __exit__(self, *error: object) -> None:
        self.streams.close()

    def write(self, texts: Sequence[str], tokens: Tokenized) -> int:
        """Append texts; returns how many of them were cut."""
        offsets = self.end + tokens.lengths.numpy().cumsum()
        self.ids.write(tokens.input_ids.numpy().astype(self.dtype).tobytes())
        self.offsets.write(offsets.tobytes())
        self.hashes.write(np.array([text_hash(text) for text in texts], np.uint64).tobytes())
        self.end = int(offsets[-1])
        return int(tokens.was_cut.sum())


class Dataset:
    """Rows of several text columns, in the order in which the loss takes them."""

    def __init__(self, folder: Path) -> None:
        self.meta = read_json(folder / "meta.json")
        self.names: list[str] = self.meta["columns"]
        self.columns = [Column(folder / name, self.meta["dtype"]) for name in self.names]

    def __len__(self) -> int:
        return self.meta["rows"]

    def take(self, rows: Tensor) -> tuple[Packed, ...]:
        """The given rows of every column."""
        return tuple(column.take(rows) for column in self.columns)

    def hashes(self) -> np.ndarray:
        """Hashes of the raw texts, [rows, columns] uint64."""
        return np.stack([column.hashes for column in self.columns], axis=1)

    def describe(self) -> str:
        """Rows, and per column the mean length and how many texts were cut."""
        parts = []
        for name, column in zip(self.names, self.columns, strict=True):
            cut = f", {self.meta['cut'][name]:,} cut" if self.meta["cut"][name] else ""
            parts.append(f"{name} {len(column.ids) / len(self):.0f} tokens{cut}")
        return f"{len(self):,} rows: {'; '.join(parts)}"


def prepare_dataset(files: Sequence[Path], columns: Mapping[str, str], tokenizer: Tokenizer, cache: Path) -> Path:
    """Tokenize `columns` (our name -> name in the file) of `files` into a folder below `cache`, unless it is there.

    The folder's name is a hash of the files' content, the columns and the tokenizer.
    """
    seal = hashlib.blake2b(digest_size=8)
    seal.update(json.dumps([columns, tokenizer.max_length]).encode())
    seal.update(tokenizer.to_json().encode())
    for file in files:
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        with open(file, "rb") as stream:
            seal.update(hashlib.file_digest(stream, "blake2b").digest())
    folder = cache / seal.hexdigest()
    if not (folder / "meta.json").exists():
        with complete_folder(folder, marker="meta.json") as partial:
            _tokenize(files, columns, tokenizer, partial)
    return folder


def _tokenize(files: Sequence[Path], columns: Mapping[str, str], tokenizer: Tokenizer, folder: Path) -> None:
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32
    cut, rows = dict.fromkeys(columns, 0), 0
    with ExitStack() as stack, progress_bar(0, "rows", "tokenizing") as bar:
        writers = {name: stack.enter_context(ColumnWriter(folder / name, dtype)) for name in columns}
        for chunk in _chunks(files, columns):
            for name, texts in zip(columns, zip(*chunk, strict=True), strict=True):
                cut[name] += writers[name].write(texts, tokenizer(texts))
            rows += len(chunk)
            bar.update(len(chunk))
    meta = {"rows": rows, "columns": list(columns), "dtype": np.dtype(dtype).name, "cut": cut}
    write_json(folder / "meta.json", meta)


def _chunks(files: Sequence[Path], columns: Mapping[str, str]) -> Iterator[list[tuple[str, ...]]]:
    rows = (texts for file in files for texts in read_texts(file, columns))
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def text_hash(text: str) -> int:
    """64 bits of a text: two different ones among a million agree with a chance of 1 in 40 million."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
