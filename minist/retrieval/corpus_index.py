"""What a search in a file of texts needs, kept in a folder: each start embeds only the texts that are new.

    docs.txt.index/format.json                        which version of minist reads it
    docs.txt.index/bm25-<corpus>/                     see bm25.py; of the corpus with this hash
    docs.txt.index/<model>-<seal>/model.json          which model; the seal is a hash of its weights and settings
    docs.txt.index/<model>-<seal>/0.pt, 1.pt ..       blocks of texts: their hashes and their embeddings [n, D]
    docs.txt.index/<model>-<seal>/inverted-<corpus>/  of a sparse model, see sparse_index.py

A block gets its name when it is whole: a run that is killed loses one, and the next run makes the same blocks."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minist.checks import pick
from minist.data.rows import Place, check_text, format_of, read_rows
from minist.data.texts import chunks
from minist.files import check_file, complete_file, complete_folder, read_json, write_json
from minist.progress import progress_bar
from minist.retrieval.bm25 import BM25
from minist.retrieval.embedding_cache import seal
from minist.retrieval.pipeline import SCALES
from minist.retrieval.sparse_index import SparseIndex

FORMAT = {"format": 1}
BLOCK_TEXTS, BLOCK_CHARACTERS = 2048, 1 << 19  # the most that a kill loses: seconds of a CPU's work


class Document(NamedTuple):
    """A text of the corpus."""

    text: str
    number: int  # of its line or row, from 1: blank ones count, though they are no documents
    id: Any  # None where the file has none


def read_documents(file: Path, column: str) -> Iterator[Document]:
    """Lines; or of each row `column`, where that is "" the column text, after title if there is one."""
    kind, name = format_of(file, "", "txt"), column or "text"
    if column and kind == "txt":
        raise ValueError(f"{file} is read as lines of text, which have no columns: leave out --column")
    for i, row in enumerate(read_rows(file, [name], kind), 1):
        text, title = check_text(Place(file, i, row), name), "" if column else row.get("title")
        if text.strip():
            yield Document(f"{title} {text}" if title else text, i, row.get("_id", row.get("id")))


class CorpusIndex:
    """The documents of a file, and their index in `folder`; `say` takes a line for the person who waits.

    index = CorpusIndex(Path("docs.txt"), "", Path("docs.txt.index"), print)
    with index.locked():
        embeddings = index.dense("path/to/model", model)  # [len(index.documents), D]"""

    def __init__(self, file: Path, column: str, folder: Path, say: Callable[[str], object]) -> None:
        check_file(file)
        self.file, self.folder, self.say, self.stamp = file, folder, say, stamp(file)
        self.documents = list(read_documents(file, column))
        if not self.documents:
            raise ValueError(f"{file} holds no text: all of its lines are blank")
        self.texts = [document.text for document in self.documents]
        self.keys = [hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in self.texts]
        self.hash = hashlib.blake2b("".join(self.keys).encode(), digest_size=12).hexdigest()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Where it is made, by one process at a time. ValueError for a folder of another version, or of a person; and
        at the end if the corpus is not what it was."""
        import fcntl  # which Windows has not; the system opens the lock of a process that is killed

        self.folder.mkdir(parents=True, exist_ok=True)
        lock, about = self.folder / "lock", self.folder / "format.json"
        if not about.exists() and any(file != lock and file.suffix != ".partial" for file in self.folder.iterdir()):
            raise ValueError(f"{self.folder} holds other files than an index: name a new folder by --index")
        is_fixed = lock.exists() and not os.access(lock, os.W_OK)  # all may be there, where nobody may write
        with open(lock, "rb" if is_fixed else "ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"another process makes {self.folder}: waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not about.exists():
                with complete_file(about) as partial:
                    write_json(partial, FORMAT)
            if (found := read_json(about)) != FORMAT:
                what = f"{self.folder} was written by another version of minist: it has {found}, not {FORMAT}"
                raise ValueError(f"{what}: delete this folder, and it is made anew")
            for left in list(self.folder.rglob(".*.partial")):  # of killed runs: nobody else writes now
                shutil.rmtree(left, ignore_errors=True)  # one inside another is gone already
            yield
        if stamp(self.file) != self.stamp:
            raise ValueError(f"{self.file} has changed meanwhile: run it again: what is embedded is kept")

    def bm25(self) -> BM25:
        return BM25.load(self._of_corpus(self.folder, "bm25", lambda place: BM25(self.texts).save(place)))

    def dense(self, name: str, model: Any) -> Tensor:
        """Embeddings [N, D] of the documents by a model called `name`."""
        return self._rows(self._embedded(name, model))

    def sparse(self, name: str, model: Any) -> SparseIndex:
        """The same of a sparse model; of unit length if it compares by cosine."""
        scale = pick("the similarity of a sparse model", model.similarity_name, SCALES)
        folder, index = self._embedded(name, model), SparseIndex(model.width, "")
        stem = f"inverted-{model.similarity_name}"
        made = self._of_corpus(folder, stem, lambda place: index.save(place, [scale(self._rows(folder))]))
        return SparseIndex.load(made, "")

    def _of_corpus(self, folder: Path, stem: str, make: Callable[[Path], None]) -> Path:
        """What is made of the whole corpus, if it is not there; that of an earlier corpus is deleted."""
        if not (place := folder / f"{stem}-{self.hash}").exists():
            make(place)
            for other in set(folder.glob(f"{stem}-*")) - {place}:
                shutil.rmtree(other)
        return place

    def _embedded(self, name: str, model: Any) -> Path:
        """The folder of a model, in which all texts of the corpus are embedded."""
        prompt, most = model.find_prompt(None, None, "document"), vars(model).get("max_active_dims")
        about = {"model": name, "gives": model.gives, "max_active_dims": most}
        short = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(name).name)
        folder = self.folder / f"{short}-{seal(model, 'document', prompt, [])}-{most or 'all'}"
        for other in self.folder.glob("*/model.json"):
            if other.parent != folder and read_json(other) == about:
                self.say(f"the model {name} has changed: all texts are embedded anew")
                shutil.rmtree(other.parent)
        if not folder.exists():
            with complete_folder(folder) as partial:
                write_json(partial / "model.json", about)
        stored = {key for block in blocks(folder) for key in read_block(block)["keys"]}
        new = {key: text for key, text in zip(self.keys, self.texts, strict=True) if key not in stored}
        with progress_bar(len(new), "texts", f"embedding by {name}") as bar:
            for part in map(dict, chunks(new.items(), BLOCK_TEXTS, BLOCK_CHARACTERS, lambda item: len(item[1]))):
                rows, _ = model.embed(list(part.values()), prompt, 0, bar.update, "document")
                write_block(folder, list(part), rows if rows.is_sparse else rows[:, : model.out_width])
        return folder

    def _rows(self, folder: Path) -> Tensor:
        """The embeddings of all documents in their order. Where most of what is stored belongs to no text any more,
        one block takes the place of all."""
        before = blocks(folder)
        found = [read_block(block) for block in before]
        keys, rows = [key for block in found for key in block["keys"]], torch.cat([block["rows"] for block in found])
        numbers, wanted = {key: i for i, key in enumerate(keys)}, list(dict.fromkeys(self.keys))
        if len(keys) > 2 * len(wanted):
            write_block(folder, wanted, rows.index_select(0, torch.tensor([numbers[key] for key in wanted])))
            for block in before:  # a run that is killed here leaves texts twice, and the next one does this again
                block.unlink()
        return rows.index_select(0, torch.tensor([numbers[key] for key in self.keys]))


def stamp(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns  # one of them changes when the file does


def blocks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), key=lambda block: int(block.stem))


def read_block(block: Path) -> dict[str, Any]:
    try:
        return torch.load(block, mmap=True)
    except (RuntimeError, UnpicklingError, EOFError):  # a disk may lose what was written before the power failed
        raise ValueError(f"{block} is damaged: delete it, and its texts are embedded again") from None


def write_block(folder: Path, keys: list[str], rows: Tensor) -> None:
    """Embeddings, dense or sparse, in a block after those there are."""
    last = max((int(block.stem) for block in blocks(folder)), default=-1)
    torch.save({"keys": keys, "rows": rows.clone()}, content := BytesIO())  # a clone, else all that it is a part of
    with complete_file(folder / f"{last + 1}.pt") as partial:
        partial.write_bytes(content.getvalue())  # not by torch, which hides the OSError of a full disk
