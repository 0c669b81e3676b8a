"""Labels of a data set: a column of its files, or the rows of a .npy file.

<folder>/labels.npy          [rows], or the numbers of all rows end to end; of a class name its number in meta["names"]
<folder>/labels.offsets.npy  int64 [rows + 1], where each row starts; only where the labels are lists of numbers"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.checks import listing
from minist.data.packed import ranges
from minist.data.rows import Column, Place, check_number, format_of, parse_number, read_rows
from minist.data.text_column import offsets, spans
from minist.files import read_npy

NUMBERS, NAMES, LISTS = "numbers", "class names", "lists of numbers"
BLOCK = 1 << 16  # rows of a .npy file that are checked at once


class Labels:
    """The labels of all rows, memory-mapped; `meta` as `LabelWriter.save` or `check_label_file` gave it."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.meta = meta
        self.values = read_npy(Path(meta["file"] or folder / "labels.npy"))
        self.offsets = read_npy(folder / "labels.offsets.npy") if meta["kind"] == LISTS else None
        self.dtype = _dtype(self.values)
        self.number_classes(sorted(meta["names"]))

    def number_classes(self, classes: Sequence[str]) -> None:
        """From now on the number of a class is its place in `classes`. ValueError if one is not there."""
        unknown = set(self.meta["names"]).difference(classes)
        if unknown or (classes and not self.meta["names"]):
            given = f"the class {min(unknown)!r}" if unknown else NUMBERS
            known = listing(map(repr, classes)) if classes else NUMBERS
            raise ValueError(f"the labels have {given}, known are {known}")
        self.classes, numbers = list(classes), {name: i for i, name in enumerate(classes)}
        # files number names as they appear, which differs between the rows of training and of an evaluation
        self.class_of = np.array([numbers[name] for name in self.meta["names"]], np.int64)

    def take(self, rows: Tensor) -> Tensor:
        """[n] int64 for integers and classes, else [n] or [n, D] float32; lists [n, k] float32, filled up with NaN."""
        if self.offsets is None:
            return torch.from_numpy(self._numbers(self.values[rows.numpy()]))
        starts, lengths = spans(self.offsets, rows)
        columns = torch.arange(int(lengths.max()) if len(lengths) else 0)
        table = torch.full((len(lengths), len(columns)), torch.nan)
        table[columns < lengths[:, None]] = torch.from_numpy(self.values[ranges(starts, lengths).numpy()])
        return table

    def per_row(self) -> np.ndarray | None:
        """One number for each row, [rows]; None for lists and vectors."""
        return self._numbers(self.values) if self.offsets is None and self.values.ndim == 1 else None

    def _numbers(self, values: np.ndarray) -> np.ndarray:
        return self.class_of[values] if self.classes else values.astype(self.dtype)

    def describe(self) -> str:
        if self.classes:
            few = ", ".join(self.classes[:8]) + (", .." if len(self.classes) > 8 else "")
            return f"{len(self.classes)} classes ({few})"
        kind = "integers" if self.dtype == np.int64 else NUMBERS
        if self.meta["file"]:
            kind = kind if self.values.ndim == 1 else f"vectors of {self.values.shape[1]} numbers"
            return f"{kind} in {Path(self.meta['file']).name}"
        if self.offsets is not None:
            lengths = np.diff(self.offsets)
            low, high = lengths.min(), lengths.max()
            kind = f"lists of {low if low == high else f'{low} to {high}'} numbers"
        lowest, highest = (self.values.min(), self.values.max()) if len(self.values) else (0, 0)  # of empty lists
        return f"{kind} from {lowest:g} to {highest:g}"


def _dtype(values: np.ndarray) -> np.dtype[Any]:
    whole = values.ndim == 1 and values.dtype.kind in "iub"  # vectors are embeddings of a teacher, whatever their type
    return np.dtype(np.int64 if whole else np.float32)


class LabelWriter:
    """Reads the labels of a column, some rows at a time. The first row says what kind they are; `wants`: dataset.py."""

    def __init__(self, files: Sequence[Path], column: Column, wants: str, format: str) -> None:
        self.column, self.wants = column, wants
        tables = [file for file in files if format_of(file, format) in ("csv", "tsv")]  # where everything is text
        cells = (row[column] for file in tables for row in read_rows(file, [column], format))  # a pass before the pass
        spelled = (parse_number(cell) is not None for cell in cells)
        self.numbers_in_text = "numbers" in wants or (bool(tables) and all(spelled))  # else they name classes
        self.kind = ""  # until the first row
        self.names: dict[str, int] = {}  # class name -> its number, in the order of appearance
        self.values: list[np.ndarray] = []  # of each call, end to end
        self.lengths: list[np.ndarray] = []  # 1, but where labels are lists

    def write(self, places: Sequence[Place]) -> None:
        labels = [self._read(place) for place in places]
        self.lengths.append(np.array([len(label) for label in labels]))
        self.values.append(np.array([value for label in labels for value in label]))  # of integers as long as all are

    def _read(self, place: Place) -> list[int | float]:
        cell, kind = place.row[self.column], ""  # true and false are numbers, 1 and 0
        if isinstance(cell, int | float) or (isinstance(cell, str) and self.numbers_in_text):
            kind = NUMBERS
        elif isinstance(cell, list) and all(isinstance(value, int | float) for value in cell):
            kind = LISTS
        elif isinstance(cell, str) and cell:
            kind = NAMES
        self.kind = self.kind or kind
        if not kind or kind != self.kind:
            known = f"a label is a number, {'' if 'numbers' in self.wants else 'a class name '}or a list of numbers"
            raise place.error(self.column, f"the labels before are {self.kind}" if kind else known)
        if kind == NAMES:
            return [self.names.setdefault(cell, len(self.names))]  # the next number for a name that is new
        values = cell if kind == LISTS else [cell]
        return [check_number(place._replace(row={self.column: value}), self.column) for value in values]

    def save(self, folder: Path) -> dict[str, Any]:
        values = np.concatenate(self.values)
        # lists are floats even of integers, since NaN may have to fill them up
        np.save(folder / "labels.npy", values.astype(np.float32 if self.kind == LISTS else _dtype(values)))
        if self.kind == LISTS:
            np.save(folder / "labels.offsets.npy", offsets(self.lengths))
        return {"file": "", "kind": self.kind, "names": list(self.names)}


def check_label_file(file: Path) -> dict[str, Any]:
    """ValueError unless a .npy file holds finite numbers or vectors. Returns what `Labels` has to know."""
    values = read_npy(file)
    if values.ndim not in (1, 2) or values.dtype.kind not in "iubf" or 0 in values.shape[1:]:
        raise ValueError(f"{file} holds {values.dtype} {list(values.shape)}: labels are numbers, [rows] or [rows, D]")
    for start in range(0, len(values), BLOCK):  # a teacher's vectors may be larger than the memory
        with np.errstate(over="ignore"):  # a float64 may be infinite as a float32
            block = values[start : start + BLOCK].astype(_dtype(values))
        finite = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
        if not finite.all():
            raise ValueError(f"{file}, row {start + int(finite.argmin()) + 1}: a label is not a finite number")
    return {"file": str(file.resolve()), "kind": NUMBERS, "names": [], "rows": len(values)}


def is_label_file(label: Column) -> bool:
    return isinstance(label, str) and label.lower().endswith(".npy")
