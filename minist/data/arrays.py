"""Arrays on disk without a header: written piece by piece, read memory-mapped."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike


class ArrayWriter:
    """A one-dimensional array that grows in a file; a context manager, as the file is."""

    def __init__(self, file: Path, dtype: DTypeLike) -> None:
        self.stream, self.dtype = open(file, "wb"), dtype  # noqa: SIM115  closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def append(self, values: ArrayLike) -> None:
        """Write `values` [n] behind those before."""
        self.stream.write(np.ascontiguousarray(values, self.dtype).data)


class OffsetsWriter(ArrayWriter):
    """Where each of N pieces starts, and the end of the last: int64 [N + 1], written from their lengths."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, np.int64)
        self.end = 0
        self.append([0])

    def extend(self, lengths: np.ndarray) -> None:
        """Add pieces of these lengths [n]."""
        ends = self.end + lengths.cumsum(dtype=np.int64)
        self.append(ends)
        self.end = int(ends[-1]) if len(ends) else self.end


def read_array(file: Path, dtype: DTypeLike) -> np.ndarray:
    """The whole file, memory-mapped: only what is indexed is read."""
    return np.memmap(file, dtype, "r") if file.stat().st_size else np.empty(0, dtype)  # an empty file has no map
