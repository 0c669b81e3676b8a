"""Writing embeddings row by row into one file, by one or several processes, so that a killed run can go on.

While it is written, the result of `corpus.npy` is a folder beside it:

    .corpus.npy.unfinished/settings.json   what the rows were made from and how
    .corpus.npy.unfinished/rows            128 bytes for the header, then the rows
    .corpus.npy.unfinished/done.json       how many blocks of rows are complete; replaced after each

The header comes last, when the number of rows is known, and then the file gets its name. Rows are written, not
memory-mapped: a full disk is then an error with a message, and written pages do not count as the process's memory.
Reading the result back memory-mapped is `np.load("corpus.npy", mmap_mode="r")`.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from minist.files import complete_file, read_json, write_json

HEADER = 128  # bytes; both formats allow to fill theirs up with spaces
READ = 4096  # rows at a time when a result is converted
FORMATS = (".npy", ".safetensors", ".jsonl")
SAFETENSORS_TYPES = {"<f4": "F32", "|i1": "I8", "|u1": "U8"}


class EmbeddingFile:
    """The result `output` while it is made, of rows of `width` numbers of type `dtype`.

    Several processes may write; one, the leader, starts, counts and finishes.
    """

    def __init__(self, output: Path, width: int, dtype: np.dtype) -> None:
        self.output, self.width, self.dtype = output, width, dtype
        self.folder = output.with_name(f".{output.name}.unfinished")
        self.row_bytes = width * dtype.itemsize
        self.blocks = self.rows = self.cut = 0  # complete so far

    def start(self, settings: dict[str, Any], resume: bool) -> None:
        """Make the folder, or with `resume` go on in the one that is there. ValueError if that has other settings."""
        if resume and (self.folder / "settings.json").exists():  # written last
            found = read_json(self.folder / "settings.json")
            other = [key for key in settings | found if found.get(key) != settings.get(key)]
            if other:
                given, before = json.dumps(settings.get(other[0])), json.dumps(found.get(other[0]))
                raise ValueError(
                    f"--resume: {other[0]} is {given}, but {self.output} was begun with {before}: "
                    "give the same, or leave out --resume to start again"
                )
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "rows").touch()
        self.commit()
        write_json(self.folder / "settings.json", settings)

    def open(self) -> None:
        """Learn what is complete; after `start`, in every process."""
        done = read_json(self.folder / "done.json")
        self.blocks, self.rows, self.cut = done["blocks"], done["rows"], done["cut"]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """An interruption or a full disk leaves complete blocks of rows for --resume; a wrong input leaves nothing."""
        try:
            yield
        except BaseException as e:
            if self.blocks and not isinstance(e, ValueError):
                print(f"{self.rows} texts are done and kept: --resume goes on from there", file=sys.stderr)
            else:
                self.discard()
            raise

    def write(self, first: int, rows: np.ndarray) -> None:
        """Put `rows` [n, width] at row number `first`."""
        assert rows.dtype == self.dtype and rows.shape[1] == self.width
        with open(self.folder / "rows", "r+b") as stream:
            stream.seek(HEADER + first * self.row_bytes)
            stream.write(rows.tobytes())
            stream.flush()
            os.fsync(stream.fileno())

    def complete_block(self, rows: int, cut: int) -> None:
        """All processes have written the next block, of `rows` rows, of which `cut` came from texts that were cut."""
        self.blocks, self.rows, self.cut = self.blocks + 1, self.rows + rows, self.cut + cut

    def commit(self) -> None:
        """Remember what is complete; one process does."""
        with complete_file(self.folder / "done.json") as partial:
            write_json(partial, {"blocks": self.blocks, "rows": self.rows, "cut": self.cut})

    def read(self) -> Iterator[np.ndarray]:
        """The rows in order, some thousands at a time."""
        with open(self.folder / "rows", "rb") as stream:
            stream.seek(HEADER)
            for start in range(0, self.rows, READ):
                count = min(READ, self.rows - start)
                yield np.frombuffer(stream.read(count * self.row_bytes), self.dtype).reshape(count, self.width)

    def finish(self) -> None:
        """Write the header, and give the file its name."""
        rows = self.folder / "rows"
        with open(rows, "r+b") as stream:
            stream.truncate(HEADER + self.rows * self.row_bytes)  # a killed run may have written more than was counted
            stream.write(header(self.output.suffix, self.rows, self.width, self.dtype))
        rows.replace(self.output)
        self.discard()

    def finish_with(self, chunks: Iterator[np.ndarray], width: int, dtype: np.dtype) -> None:
        """The same with other rows in place of the ones written, `chunks` [n, width] of type `dtype`."""
        with complete_file(self.output) as partial, open(partial, "wb") as stream:
            if self.output.suffix == ".jsonl":
                for chunk in chunks:
                    stream.writelines(f'{{"embedding": {json.dumps(row)}}}\n'.encode() for row in chunk.tolist())
            else:
                stream.write(header(self.output.suffix, self.rows, width, dtype))
                for chunk in chunks:
                    stream.write(chunk.astype(dtype).tobytes())
        self.discard()

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def header(suffix: str, rows: int, width: int, dtype: np.dtype) -> bytes:
    """The first HEADER bytes of an .npy or .safetensors file."""
    if suffix == ".npy":
        stream = BytesIO()
        about = {"descr": dtype.str, "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(stream, about)
        content = stream.getvalue()
    else:
        place = {
            "dtype": SAFETENSORS_TYPES[dtype.str],
            "shape": [rows, width],
            "data_offsets": [0, rows * width * dtype.itemsize],
        }
        text = json.dumps({"embeddings": place}, separators=(",", ":")).encode().ljust(HEADER - 8)
        content = len(text).to_bytes(8, "little") + text
    assert len(content) == HEADER
    return content
