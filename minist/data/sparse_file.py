"""Sparse embeddings written into one file, by one or several processes, as embedding_file.py does dense ones.
    corpus.npz     the matrix [texts, V] as scipy.sparse.load_npz reads it, and np.load: row i has the numbers
                   data[indptr[i] : indptr[i + 1]] in the columns indices[indptr[i] : indptr[i + 1]]
    corpus.jsonl   for each text {"token": weight, ..}, the largest first
How much a text takes is not known before: a block has a file of its own beside its record, and all are then joined,
<block>.rows    int32: how many numbers each row has, their columns; float32: they themselves"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch

from minist.data.embedding_file import EmbeddingFile, header
from minist.data.text_column import offsets
from minist.files import complete_file, read_json

SPARSE_FORMATS = (".npz", ".jsonl")


class SparseFile(EmbeddingFile):
    """The result `output` while it is made, of rows [n, V], coalesced sparse tensors; `names` [V] of the columns."""

    def __init__(self, output: Path, names: Sequence[str]) -> None:
        super().__init__(output, len(names), np.dtype("<f4"), "sparse")
        self.names = names

    def _put(self, block: str, first: int, rows: Any) -> bytes:
        counts, columns = torch.bincount(rows.indices()[0], minlength=len(rows)), rows.indices()[1]
        content = b"".join(x.numpy().tobytes() for x in (counts.int(), columns.int(), rows.values().float()))
        (self.folder / f"{block}.rows").write_bytes(content)  # whole or not, says the record, which comes after it
        return content

    def _get(self, block: str, record: dict[str, Any]) -> bytes:
        return (self.folder / f"{block}.rows").read_bytes()

    def _rows(self) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Counts [n] int32, columns int32 and weights float32 of one block at a time, in the order of the texts."""
        for block in self.blocks:
            count = read_json(self.folder / f"{block}.done")["rows"]
            content = np.fromfile(self.folder / f"{block}.rows", "<i4")
            columns, weights = np.split(content[count:], 2)
            yield content[:count], columns, weights.view("<f4")

    def finish(self, rows: int) -> None:
        """Join the blocks that were waited for, and give the file its name."""
        with complete_file(self.result) as partial:
            if self.output.suffix == ".jsonl":
                with open(partial, "w", encoding="utf-8", newline="\n") as stream:
                    stream.writelines(self._lines())
            else:
                starts = offsets([counts for counts, _, _ in self._rows()])
                total = (int(starts[-1]),)
                with ZipFile(partial, "w") as archive:  # not compressed, as other programs can then map it
                    add_member(archive, "indices", "<i4", total, (columns for _, columns, _ in self._rows()))
                    add_member(archive, "indptr", "<i8", (rows + 1,), [starts])
                    add_member(archive, "format", "|S3", (), [np.array(b"csr")])
                    add_member(archive, "shape", "<i8", (2,), [np.array([rows, self.width])])
                    add_member(archive, "data", "<f4", total, (weights for _, _, weights in self._rows()))
        self._publish()

    def _lines(self) -> Iterable[str]:
        for counts, columns, weights in self._rows():
            ends = counts.cumsum()
            for start, end in zip(ends - counts, ends, strict=True):
                order = start + np.argsort(-weights[start:end], kind="stable")  # of equal ones the lower column first
                found = zip(columns[order].tolist(), weights[order].tolist(), strict=True)
                yield json.dumps({self.names[column]: weight for column, weight in found}, ensure_ascii=False) + "\n"


def add_member(archive: ZipFile, name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    """Write an array into an .npz, piece by piece. Without a date: the same content is the same bytes."""
    with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
        stream.write(header(".npy", shape, np.dtype(dtype)))
        stream.writelines(piece.tobytes() for piece in pieces)
