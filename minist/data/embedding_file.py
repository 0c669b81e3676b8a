"""Writing embeddings into one file by one or several processes, block by block, so that a killed run can go on.

While it is written, the result of `corpus.npy` is a folder beside it:
    .corpus.npy.unfinished/settings.json   how the rows are made
    .corpus.npy.unfinished/rows            128 bytes for the header, then the rows
    .corpus.npy.unfinished/<block>.claim   a process has taken this block of texts upon it: who makes the file, has it
    .corpus.npy.unfinished/<block>.done    its rows are written: where, how many, and their checksum
    .corpus.npy.unfinished/result          the finished file before it gets its name
    .corpus.npy.finished.json              stays, and says at --resume that nothing is left to do
Nobody waits for a share of another process: who is free takes the next block. A block is named by its first row and a
hash of its texts, so --resume keeps exactly what was made of the same texts, even where an input was mended since.
Rows are written, not memory-mapped: a full disk is then an error with a message, and written pages are not our memory.
"""

import hashlib
import json
import math
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from minist.data.texts import Text
from minist.files import complete_file, read_json, write_json

HEADER = 128  # bytes; both formats allow to fill theirs up with spaces
READ = 4096  # rows at a time when a result is converted
POLL = 0.2  # seconds between two looks at the folder
FORMATS = (".npy", ".safetensors", ".jsonl")
SAFETENSORS_TYPES = {"<f4": "F32", "|i1": "I8", "|u1": "U8"}


class EmbeddingFile:
    """The result `output` while it is made, of rows of `width` numbers of type `dtype`; a leader starts and ends it."""

    def __init__(self, output: Path, width: int, dtype: np.dtype, kind: str = "embedding") -> None:
        """`kind` "score": of one number in each row [N] is written, and not [N, 1]."""
        self.output, self.width, self.dtype, self.kind = output, width, dtype, kind
        self.folder = output.with_name(f".{output.name}.unfinished")
        self.finished = output.with_name(f".{output.name}.finished.json")
        self.stream, self.result = self.folder / "rows", self.folder / "result"
        self.row_bytes = width * dtype.itemsize

    def start(self, settings: dict[str, Any], inputs: Any, resume: bool) -> bool:
        """Make the folder, or with `resume` go on in the one that is there; the leader does. Whether all is done.
        `inputs` must agree only where the output is complete: else blocks are. ValueError for other settings."""
        self.about, begun = {"settings": settings, "inputs": inputs}, self.folder / "settings.json"
        if resume and self.finished.exists():
            found = read_json(self.finished)
            self._compare(found["settings"] | {"inputs": found["inputs"]}, settings | {"inputs": inputs})
            if self.result.exists():
                self.result.replace(self.output)  # a run was killed just before it
            if self.output.exists() and self.output.stat().st_size == found["bytes"]:
                self.discard()
                return True
        if resume and begun.exists():  # written last
            self._compare(read_json(begun), settings)
            self._keep_what_is_whole()
        else:
            self.discard()
            self.finished.unlink(missing_ok=True)
            with self.kept():  # an interrupt leaves nothing half begun
                self.folder.mkdir(parents=True)
                self.stream.touch()
                write_json(begun, settings)
        return False

    def _compare(self, found: dict[str, Any], settings: dict[str, Any]) -> None:
        for key in settings | found:
            if found.get(key) != settings.get(key):
                given, before = json.dumps(settings.get(key)), json.dumps(found.get(key))
                way = "give the same, or leave out --resume to start again"
                raise ValueError(f"--resume: {key} is {given}, but {self.output} was begun with {before}: {way}")

    def _keep_what_is_whole(self) -> None:
        """Forget the claims of a killed run, and each record whose rows are not there as it says."""
        if self.result.exists() and not self.stream.exists():
            self.result.replace(self.stream)  # it was killed while finishing
        self.stream.touch()
        for claim in self.folder.glob("*.claim"):
            claim.unlink()
        for file in self.folder.glob("*.done"):
            with suppress(ValueError, KeyError, TypeError, OSError):  # of a record that is damaged itself
                record = read_json(file)
                if zlib.crc32(self._get(file.stem, record), record["rows"]) == record["crc"]:
                    continue
            file.unlink()  # its block is made again

    def claim(self, block: str) -> bool:
        """Whether this process is to make the block: nobody has, and nobody is about to."""
        with suppress(FileExistsError, FileNotFoundError):  # another's claim; without the folder all is finished
            if not (self.folder / f"{block}.done").exists():
                (self.folder / f"{block}.claim").touch(exist_ok=False)  # only one process can create a file
                return True
        return False

    def write(self, block: str, first: int, rows: Any, cut: int) -> None:
        """Keep `rows` [n, width], an array, of which the first is number `first`; `cut` of their texts were cut."""
        content = self._put(block, first, rows)
        with complete_file(self.folder / f"{block}.done") as partial:
            checksum = zlib.crc32(content, len(rows))  # begun with their number, so that it holds for this number alone
            write_json(partial, {"first": first, "rows": len(rows), "cut": cut, "crc": checksum})

    def _put(self, block: str, first: int, rows: Any) -> bytes:
        assert rows.dtype == self.dtype and rows.shape[1] == self.width
        content: bytes = rows.tobytes()
        with open(self.stream, "r+b") as stream:  # not "ab": blocks come in any order, and leave holes for others
            stream.seek(HEADER + first * self.row_bytes)
            stream.write(content)
        return content

    def _get(self, block: str, record: dict[str, Any]) -> bytes:
        with open(self.stream, "rb") as stream:
            stream.seek(HEADER + record["first"] * self.row_bytes)
            return stream.read(record["rows"] * self.row_bytes)

    def wait_for(self, blocks: Sequence[str]) -> int:
        """Until all are done, by whomever; the number of texts that were cut."""
        self.blocks, cut = blocks, 0
        for record in (self.folder / f"{block}.done" for block in blocks):
            while not record.exists():
                time.sleep(POLL)
            cut += read_json(record)["cut"]
        return cut

    @contextmanager
    def kept(self) -> Iterator[None]:
        """An error leaves the blocks that are done for --resume; where there is none it leaves nothing."""
        try:
            yield
        except BaseException:
            if rows := sum(read_json(file)["rows"] for file in self.folder.glob("*.done")):
                print(f"{rows} texts are done and kept: --resume goes on from there", file=sys.stderr)
            else:
                self.discard()
            raise

    def read(self, rows: int) -> Iterator[np.ndarray]:
        """The first `rows` in order, some thousands at a time."""
        with open(self.stream, "rb") as stream:
            stream.seek(HEADER)
            for start in range(0, rows, READ):
                count = min(READ, rows - start)
                yield np.fromfile(stream, self.dtype, count * self.width).reshape(count, self.width)

    def finish(self, rows: int) -> None:
        """Write the header, and give the file its name."""
        with open(self.stream, "r+b") as stream:
            stream.truncate(HEADER + rows * self.row_bytes)  # a killed run may have written more than is wanted now
            stream.write(header(self.output.suffix, self._shape(rows, self.width), self.dtype, self.kind))
        self.stream.replace(self.result)
        self._publish()

    def finish_with(self, chunks: Iterable[np.ndarray], rows: int, width: int, dtype: np.dtype) -> None:
        """The same with other rows in place of the ones written, `chunks` [n, width] of type `dtype`."""
        with complete_file(self.result) as partial, open(partial, "wb") as stream:
            if self.output.suffix == ".jsonl":
                for chunk in chunks:
                    shown = chunk.reshape(self._shape(*chunk.shape)).tolist()
                    stream.writelines(f'{{"{self.kind}": {json.dumps(row)}}}\n'.encode() for row in shown)
            else:
                stream.write(header(self.output.suffix, self._shape(rows, width), dtype, self.kind))
                stream.writelines(chunk.astype(dtype).tobytes() for chunk in chunks)
        self._publish()

    def _shape(self, rows: int, width: int) -> tuple[int, ...]:
        return (rows,) if self.kind == "score" and width == 1 else (rows, width)

    def _publish(self) -> None:
        with complete_file(self.finished) as partial:  # before the rename: --resume then knows what the result is
            write_json(partial, self.about | {"bytes": self.result.stat().st_size})
        self.result.replace(self.output)
        self.discard()

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def block_name(first: int, texts: Sequence[Text]) -> str:
    """Of the block that starts at row `first`, the same for the same texts or pairs."""
    parts = [part for text in texts for part in ([text] if isinstance(text, str) else text)]
    seal = hashlib.blake2b(repr(list(map(len, parts))).encode(), digest_size=12)  # where each text ends counts too
    seal.update("".join(parts).encode())
    return f"{first}-{seal.hexdigest()}"


def header(suffix: str, shape: tuple[int, ...], dtype: np.dtype, kind: str = "embedding") -> bytes:
    """The first HEADER bytes of an .npy or .safetensors file."""
    if suffix == ".npy":
        stream = BytesIO()
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        content = stream.getvalue()
    else:
        places = [0, math.prod(shape) * dtype.itemsize]
        tensor = {"dtype": SAFETENSORS_TYPES[dtype.str], "shape": list(shape), "data_offsets": places}
        text = json.dumps({f"{kind}s": tensor}, separators=(",", ":")).encode().ljust(HEADER - 8)
        content = len(text).to_bytes(8, "little") + text
    assert len(content) == HEADER, "else the rows would not start where they were written"
    return content
