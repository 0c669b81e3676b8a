"""A training set: text columns, tokenized once and kept on disk memory-mapped, and the labels of the rows.

<folder>/meta.json      rows, columns, label; there when the folder is complete
<folder>/0.*, 1.* ..    the text columns, see text_column.py; two columns with the same content share one
<folder>/keys.hashes    uint64, of the raw texts without prompts, row after row: equal texts have equal hashes
<folder>/keys.offsets   int64 [rows + 1], where the hashes of each row start
<folder>/labels.*       see labels.py
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.data.arrays import read_array
from minist.data.dataset_writer import DatasetWriter, contents
from minist.data.labels import ColumnLabels, FileLabels, is_label_file
from minist.data.packed import Packed
from minist.data.rows import file_kind, read_places
from minist.data.samplers import Keys
from minist.data.text_column import ColumnSpec, TextColumn
from minist.data.texts import Texts
from minist.files import complete_folder, read_json, write_json
from minist.progress import progress_bar

LAYOUT = 2  # of the folder; a new number where the files change, so that old folders are made again
CHUNK = 1024  # rows that are tokenized at a time


class Dataset:
    """Rows of text columns, in the order in which the loss takes them, with or without labels."""

    def __init__(self, folder: Path) -> None:
        """Open what `prepare_dataset` made."""
        self.folder = folder
        self.meta = read_json(folder / "meta.json")
        stored = [TextColumn(folder / str(i), meta) for i, meta in enumerate(self.meta["texts"])]
        self.names: list[str] = list(self.meta["columns"])
        self.columns = [stored[i] for i in self.meta["columns"].values()]
        self._labels = _open_labels(folder, self.meta["label"])

    def __len__(self) -> int:
        return self.meta["rows"]

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of their numbers; none where labels are numbers, or missing."""
        return self._labels.classes if self._labels else []

    def take(self, rows: Tensor) -> tuple[Packed, ...]:
        """The texts of `rows` [n] in every column; those of a cell that is a list stand one after the other."""
        return tuple(column.take(rows) for column in self.columns)

    def counts(self, rows: Tensor) -> tuple[Tensor | None, ...]:
        """Per column the number of texts in each row, [n] int64, or None where every cell is one text."""
        return tuple(column.counts(rows) for column in self.columns)

    def labels(self, rows: Tensor) -> Tensor | None:
        """[n] int64 for integers and classes, else [n] or [n, k] float32; lists are filled up with NaN."""
        return self._labels.take(rows) if self._labels else None

    def number_classes(self, classes: Sequence[str]) -> None:
        """Number the class names of the labels by their place in `classes`. ValueError if one is not there."""
        if isinstance(self._labels, ColumnLabels):
            self._labels.number_classes(classes)

    def tokens(self, rows: Tensor) -> Tensor:
        """Tokens of each of `rows` in all columns, [n] int64."""
        return torch.stack([column.tokens(rows) for column in self.columns]).sum(0)

    def cut(self, rows: Tensor) -> dict[str, int]:
        """Per column how many texts of `rows` were cut at the maximum length."""
        return {name: column.cut(rows) for name, column in zip(self.names, self.columns, strict=True)}

    def keys(self) -> Keys:
        """What samplers look at."""
        return Keys(
            read_array(self.folder / "keys.hashes", np.uint64),
            read_array(self.folder / "keys.offsets", np.int64),
            self._labels.per_row() if self._labels else None,
        )

    def describe(self) -> str:
        """What was read: rows, the columns with their mean lengths, how many texts were cut, the labels."""
        parts = [f"{name} {column.describe()}" for name, column in zip(self.names, self.columns, strict=True)]
        if self._labels:
            parts.append(f"label {self._labels.describe()}")
        return f"{len(self):,} rows: {'; '.join(parts)}"


def _open_labels(folder: Path, meta: dict[str, Any] | None) -> ColumnLabels | FileLabels | None:
    if meta is None:
        return None
    return FileLabels(Path(meta["file"])) if "file" in meta else ColumnLabels(folder, meta)


def prepare_dataset(
    files: Sequence[Path], columns: Mapping[str, ColumnSpec], label: str, cache: Path, format: str = "", wants: str = ""
) -> Path:
    """Make the data set in `dataset_folder`, which is returned, unless it is there.

    `columns` maps our names to what they hold. `label` names a column of the files, or a .npy file with a row for
    each of theirs, [rows] or [rows, D]; "" for none. ValueError names the file and the row that cannot be read,
    and then nothing stays on disk.
    """
    folder = dataset_folder(files, columns, label, cache, format, wants)
    if not (folder / "meta.json").exists():
        with complete_folder(folder) as partial:
            _write(files, columns, label, partial)
    return folder


def _write(files: Sequence[Path], columns: Mapping[str, ColumnSpec], label: str, folder: Path) -> None:
    expected = Texts(tuple(files)).count() or 0
    with DatasetWriter(folder, files, columns, label) as writer, progress_bar(expected, "rows", "tokenizing") as bar:
        places = read_places(files, writer.needed)
        while chunk := list(islice(places, CHUNK)):
            writer.write(chunk)
            bar.update(len(chunk))
    write_json(folder / "meta.json", writer.meta())


def dataset_folder(
    files: Sequence[Path], columns: Mapping[str, ColumnSpec], label: str, cache: Path, format: str = "", wants: str = ""
) -> Path:
    """The folder below `cache`: its name is a hash of the content of all files, the columns, tokenizers and label.

    ValueError where a file is missing.
    """
    # a label file is not copied, so its place counts too
    label_file = [Path(label).resolve()] if is_label_file(label) else []
    kinds = [file_kind(file) for file in files]
    settings = [
        LAYOUT,
        list(contents(columns).items()),
        kinds,
        str(label_file[0]) if label_file else label,
        format,
        wants,
    ]
    seal = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8)
    for file in [*files, *label_file]:
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        with open(file, "rb") as stream:
            seal.update(hashlib.file_digest(stream, "blake2b").digest())
    return cache / seal.hexdigest()
