"""Labels of a data set: a column of its files, or the rows of a .npy file.

<folder>/labels.values   float64, the numbers of all rows, end to end; of a class name its number in meta["names"]
<folder>/labels.offsets  int64 [rows + 1], where each row starts; only where the labels are lists of numbers
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.data.arrays import ArrayWriter, OffsetsWriter, read_array
from minist.data.packed import ranges
from minist.data.rows import DELIMITERS, Place, file_kind, read_rows, show

NUMBERS, NAMES, LISTS = "numbers", "class names", "lists of numbers"
LARGEST = float(np.finfo(np.float32).max)  # beyond it a float32 is infinite
LARGEST_INTEGER = 2**53  # beyond it a float64 skips some
BLOCK = 1 << 16  # rows of a .npy file that are checked at once


class ColumnLabels:
    """Labels from a column of the files."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        """`meta` as `LabelWriter.meta` gave it."""
        self.meta = meta
        self.values = read_array(folder / "labels.values", np.float64)
        self.offsets = read_array(folder / "labels.offsets", np.int64) if meta["kind"] == LISTS else None
        self.number_classes(sorted(meta["names"]))

    def number_classes(self, classes: Sequence[str]) -> None:
        """From now on the number of a class is its place in `classes`. ValueError if one is not there."""
        unknown = set(self.meta["names"]).difference(classes)
        if unknown or (classes and not self.meta["names"]):
            given = f"the class {min(unknown)!r}" if unknown else "numbers"
            raise ValueError(f"the labels have {given}, known are {', '.join(map(repr, classes)) or 'numbers'}")
        numbers = {name: i for i, name in enumerate(classes)}
        self.classes = list(classes)
        self.class_of = np.array([numbers[name] for name in self.meta["names"]], np.int64)

    def take(self, rows: Tensor) -> Tensor:
        """[n] int64 for integers and classes, else [n] float32; lists [n, k] float32, filled up with NaN."""
        if self.offsets is None:
            return torch.from_numpy(self._numbers(self.values[rows.numpy()]))
        starts = torch.from_numpy(self.offsets[rows.numpy()])
        lengths = torch.from_numpy(self.offsets[rows.numpy() + 1]) - starts
        values = torch.from_numpy(self.values[ranges(starts, lengths).numpy()])
        columns = torch.arange(int(lengths.max()) if len(lengths) else 0)
        table = torch.full((len(lengths), len(columns)), torch.nan)
        table[columns < lengths[:, None]] = values.float()
        return table

    def per_row(self) -> np.ndarray | None:
        """One number for each row, [rows]; None for lists."""
        return self._numbers(self.values) if self.offsets is None else None

    def _numbers(self, values: np.ndarray) -> np.ndarray:
        if self.classes:
            return self.class_of[values.astype(np.int64)]
        return values.astype(np.int64 if self.meta["integers"] else np.float32)

    def describe(self) -> str:
        """What the labels were taken for."""
        if self.classes:
            few = ", ".join(self.classes[:8]) + (", .." if len(self.classes) > 8 else "")
            return f"{len(self.classes)} classes ({few})"
        kind = "integers" if self.meta["integers"] and self.offsets is None else NUMBERS
        if self.offsets is not None:
            low, high = self.meta["lengths"]
            kind = f"lists of {low} numbers" if low == high else f"lists of {low} to {high} numbers"
        return f"{kind} from {self.meta['lowest']:g} to {self.meta['highest']:g}"


class FileLabels:
    """Labels from a .npy file, which stays where it is."""

    def __init__(self, file: Path) -> None:
        """ValueError if it holds no numbers, [rows] or [rows, D]."""
        self.file = file
        self.values = open_npy(file)
        self.classes: list[str] = []
        whole = self.values.ndim == 1 and self.values.dtype.kind in "iub"
        self.dtype = np.int64 if whole else np.float32

    def take(self, rows: Tensor) -> Tensor:
        """[n] int64 for integers, else [n] or [n, D] float32."""
        return torch.from_numpy(self.values[rows.numpy()].astype(self.dtype))

    def per_row(self) -> np.ndarray | None:
        """One number for each row, [rows]; None for vectors."""
        return self.values.astype(self.dtype) if self.values.ndim == 1 else None

    def describe(self) -> str:
        """What the labels were taken for."""
        if self.values.ndim == 2:
            return f"vectors of {self.values.shape[1]} numbers in {self.file.name}"
        return f"{'integers' if self.dtype == np.int64 else NUMBERS} in {self.file.name}"

    def check_finite(self) -> None:
        """ValueError names the first row that holds NaN or infinity."""
        for start in range(0, len(self.values), BLOCK):
            with np.errstate(over="ignore"):  # a float64 may be infinite as a float32
                block = self.values[start : start + BLOCK].astype(self.dtype)
            finite = np.isfinite(block.reshape(len(block), -1)).all(axis=1)
            if not finite.all():
                raise ValueError(f"{self.file}, row {start + int(finite.argmin()) + 1}: a label is not a finite number")

    def check_rows(self, rows: int) -> None:
        """ValueError if there is not one label for each of `rows`."""
        if len(self.values) != rows:
            raise ValueError(f"{self.file} has {len(self.values):,} rows, the files have {rows:,}: make one for each")


def is_label_file(label: str) -> bool:
    """Whether `label` is a .npy file rather than the name of a column."""
    return label.lower().endswith(".npy")


def open_npy(file: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped. ValueError if it holds no numbers, [rows] or [rows, D]."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(f"{file} is not a .npy file of numbers: {e}") from None
    if values.ndim not in (1, 2) or values.dtype.kind not in "iubf" or 0 in values.shape[1:]:
        shape = list(values.shape)
        raise ValueError(f"{file} holds {values.dtype} {shape}: labels are numbers, [rows] or [rows, D]")
    return values


class LabelWriter:
    """Writes the labels of a column, some rows at a time. The first row says what kind they are."""

    def __init__(self, folder: Path, files: Sequence[Path], column: str) -> None:
        self.column = column
        self.parsed = _tables_of_numbers(files, column)
        self.folder = folder
        self.offsets: OffsetsWriter | None = None  # where the labels are lists
        self.streams = ExitStack()
        self.kind = ""
        self.names: dict[str, int] = {}  # class name -> its number, in the order of appearance
        self.integers = True
        self.bounds, self.lengths = [math.inf, -math.inf], [math.inf, -math.inf]

    def __enter__(self) -> "LabelWriter":
        self.values = self.streams.enter_context(ArrayWriter(self.folder / "labels.values", np.float64))
        return self

    def __exit__(self, *error: object) -> None:
        self.streams.close()

    def write(self, places: Sequence[Place]) -> None:
        """Append the labels of these rows. ValueError names the row whose label is none."""
        labels = [self._read(place) for place in places]
        values = [value for label in labels for value in label]
        self.integers = self.integers and all(isinstance(value, int) for value in values)
        self.bounds = _widen(self.bounds, values)
        self.values.append(np.array(values, np.float64))
        if self.kind == LISTS:
            lengths = [len(label) for label in labels]
            self.lengths = _widen(self.lengths, lengths)
            self.offsets = self.offsets or self.streams.enter_context(OffsetsWriter(self.folder / "labels.offsets"))
            self.offsets.extend(np.array(lengths, np.int64))

    def _read(self, place: Place) -> list[float]:
        cell = place.row[self.column]
        if place.file in self.parsed:
            cell = parse_number(cell)
        kind = _kind(cell)
        self.kind = self.kind or kind
        if not kind:
            raise _error(place, self.column, cell, "a label is a number, a class name or a list of numbers")
        if kind != self.kind:
            raise _error(place, self.column, cell, f"the labels before are {self.kind}")
        if kind == NAMES:
            return [self.names.setdefault(cell, len(self.names))]
        numbers = cell if kind == LISTS else [cell]
        for number in numbers:
            if not abs(number) <= (LARGEST_INTEGER if isinstance(number, int) else LARGEST):  # NaN neither
                raise _error(place, self.column, cell, "a label is finite and not that large")
        return numbers

    def meta(self) -> dict[str, Any]:
        """What `ColumnLabels` has to know."""
        lowest, highest = self.bounds if self.bounds[0] <= self.bounds[1] else (0, 0)  # no numbers in any list
        return {
            "kind": self.kind,
            "integers": self.integers,
            "names": list(self.names),
            "lowest": lowest,
            "highest": highest,
            "lengths": self.lengths if self.kind == LISTS else None,
        }


def _error(place: Place, column: str, cell: Any, rule: str) -> ValueError:
    return ValueError(f"{place.file}, row {place.number}: {column} is {show(cell)}, but {rule}")


def _widen(bounds: list[float], values: Sequence[float]) -> list[float]:
    return [min(bounds[0], *values), max(bounds[1], *values)] if values else bounds


def _kind(cell: Any) -> str:
    """What a cell is as a label; "" if it is none. true and false are numbers."""
    if isinstance(cell, int | float):
        return NUMBERS
    if isinstance(cell, str) and cell:
        return NAMES
    if isinstance(cell, list) and all(isinstance(value, int | float) for value in cell):
        return LISTS
    return ""


def _tables_of_numbers(files: Sequence[Path], column: str) -> set[Path]:
    """The csv and tsv files, if all their labels are numbers; else none of them, as they are class names."""
    tables = [file for file in files if file_kind(file) in DELIMITERS]
    cells = (row[column] for file in tables for row in read_rows(file, [column]))
    return set(tables) if all(parse_number(cell) is not None for cell in cells) else set()


def parse_number(text: str) -> int | float | None:
    """The number that `text` spells, None if it is none. 1_2 is a name, though Python reads it as 12."""
    for number in (int, float):
        try:
            return None if "_" in text else number(text)
        except ValueError:
            continue
    return None
