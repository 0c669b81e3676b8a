"""What a search in a file of texts needs, kept in a folder: each start embeds only the texts that are new.

    docs.txt.index/index.json                         {"format": 1}
    docs.txt.index/bm25-<corpus>/                     see bm25.py; of the corpus with this hash
    docs.txt.index/<model>-<seal>/model.json          which model; the seal is a hash of its weights and settings
    docs.txt.index/<model>-<seal>/0.npz               a block of texts: their hashes, and embeddings [n, D]; of sparse
    docs.txt.index/<model>-<seal>/1.npz                   ones the places and the weights
    docs.txt.index/<model>-<seal>/inverted-<corpus>/  of a sparse model, see sparse_index.py

A block gets its name when it is whole: a run that is killed loses one, and the next run makes the same blocks.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minist.checks import number
from minist.data.rows import Place, check_text, format_of, read_rows
from minist.data.texts import chunks
from minist.files import check_file, complete_file, complete_folder, read_json, write_json
from minist.progress import progress_bar
from minist.retrieval.bm25 import BM25
from minist.retrieval.embedding_cache import seal
from minist.retrieval.search import sparse_unit
from minist.retrieval.sparse_index import SparseIndex

FORMAT = {"format": 1}
BLOCK_TEXTS, BLOCK_CHARACTERS = 2048, 1 << 19  # the most that a kill loses: seconds of a CPU's work
KEY = 16  # bytes of a hash


class Document(NamedTuple):
    """A text of the corpus."""

    text: str
    number: int  # of its line or row, from 1: blank ones count, though they are no documents
    id: Any  # None where the file has none


def read_corpus(file: Path, column: str) -> Iterator[Document]:
    """Its lines; or of each row `column`, where that is "" the column text, after title if there is one."""
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
        self.file, self.folder, self.say, self.stamp = file, folder, say, _stamp(file)
        self.documents = list(read_corpus(file, column))
        number(f"the number of texts in {file}", len(self.documents), 1)
        self.texts = [document.text for document in self.documents]
        self.keys = [hashlib.blake2b(text.encode(), digest_size=KEY).digest() for text in self.texts]
        self.hash = hashlib.blake2b(b"".join(self.keys), digest_size=12).hexdigest()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Where it is built, by one process at a time. ValueError for a folder of another format, or of a person, and
        at the end if the corpus is not what it was."""
        import fcntl  # which Windows has not; the system opens the lock of a process that is killed

        self.folder.mkdir(parents=True, exist_ok=True)
        lock, about = self.folder / "lock", self.folder / "index.json"
        with open(lock, "rb" if lock.exists() else "ab") as stream:  # "rb": all may be there, where nobody may write
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"another process builds {self.folder}: waiting for it")
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not about.exists():
                if any(file != lock and file.suffix != ".partial" for file in self.folder.iterdir()):
                    raise ValueError(f"{self.folder} is no index, and holds other files: name a new folder by --index")
                with complete_file(about) as partial:
                    write_json(partial, FORMAT)
            if (found := read_json(about)) != FORMAT:
                what = f"{self.folder} was written by another version of minist: it is {found}, not {FORMAT}"
                raise ValueError(f"{what}: delete this folder, and it is built anew")
            for left in self.folder.rglob(".*.partial"):  # of killed runs: nobody else writes now
                shutil.rmtree(left)
            yield
        if _stamp(self.file) != self.stamp:
            raise ValueError(f"{self.file} has changed meanwhile: run it again: what is embedded is kept")

    def bm25(self) -> BM25:
        return BM25.load(self._of_corpus(self.folder, "bm25", lambda place: BM25(self.texts).save(place)))

    def dense(self, name: str, model: Any) -> Tensor:
        """Embeddings [N, D] of the documents by a model called `name`."""
        return self._rows(self._embedded(name, model), model)

    def sparse(self, name: str, model: Any) -> SparseIndex:
        """The same of a sparse model; of unit length if it compares by cosine."""
        folder, scale = self._embedded(name, model), sparse_unit if model.similarity_name == "cosine" else torch.clone

        def build(place: Path) -> None:
            SparseIndex(model.width, "").save(place, [scale(self._rows(folder, model))])

        return SparseIndex.load(self._of_corpus(folder, f"inverted-{model.similarity_name}", build), "")

    def _of_corpus(self, folder: Path, stem: str, build: Callable[[Path], None]) -> Path:
        """What is built of the whole corpus, if it is not there; that of an earlier corpus is deleted."""
        if not (place := folder / f"{stem}-{self.hash}").exists():
            build(place)
            for other in set(folder.glob(f"{stem}-*")) - {place}:
                shutil.rmtree(other)
        return place

    def _embedded(self, name: str, model: Any) -> Path:
        """The folder of a model, in which all texts of the corpus are embedded."""
        prompt = model.find_prompt(None, None, "document")
        about = {"model": name, "gives": model.gives, "max_active_dims": vars(model).get("max_active_dims")}
        own = f"{seal(model, 'document', prompt, [])}-{about['max_active_dims'] or 'all'}"
        folder = self.folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', Path(name).name)}-{own}"
        for other in self.folder.glob("*/model.json"):
            if other.parent != folder and read_json(other) == about:
                self.say(f"the model {name} has changed: all texts are embedded anew")
                shutil.rmtree(other.parent)
        if not folder.exists():
            with complete_folder(folder) as partial:
                write_json(partial / "model.json", about)
        stored = {key for block in _blocks(folder) for key in _keys(np.load(block))}
        new = {key: text for key, text in zip(self.keys, self.texts, strict=True) if key not in stored}
        with progress_bar(len(new), "texts", f"embedding by {name}") as bar:
            for part in map(dict, chunks(new.items(), BLOCK_TEXTS, BLOCK_CHARACTERS, lambda item: len(item[1]))):
                rows, _ = model.embed(list(part.values()), prompt, 0, bar.update, "document")
                _write(folder, part, rows if rows.is_sparse else rows[:, : model.out_width])
        return folder

    def _rows(self, folder: Path, model: Any) -> Tensor:
        """The embeddings of all documents in their order. It makes one block of all where most belong to no text."""
        blocks, keys, rows = _blocks(folder), list[bytes](), list[Tensor]()
        for block in map(np.load, blocks):
            keys += (own := _keys(block))
            if model.gives == "sparse":
                places, weights = torch.from_numpy(block["places"]).long(), torch.from_numpy(block["weights"])
                shape = (len(own), model.width)
                rows.append(torch.sparse_coo_tensor(places, weights, shape, check_invariants=True).coalesce())
            else:
                rows.append(torch.from_numpy(block["rows"]))
        numbers, found, wanted = {key: i for i, key in enumerate(keys)}, torch.cat(rows), dict.fromkeys(self.keys)
        if len(keys) > 2 * len(wanted):
            _write(folder, wanted, found.index_select(0, torch.tensor([numbers[key] for key in wanted])))
            for file in blocks:  # killed here, the next run finds some texts twice, and does this again
                file.unlink()
        return found.index_select(0, torch.tensor([numbers[key] for key in self.keys]))


def _stamp(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns


def _blocks(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"), key=lambda block: int(block.stem))


def _keys(block: Mapping[str, np.ndarray]) -> list[bytes]:
    return [key.tobytes() for key in block["keys"]]


def _write(folder: Path, keys: Iterable[bytes], rows: Tensor) -> None:
    """A block of embeddings, dense or sparse, after those there are."""
    number = max((int(block.stem) for block in _blocks(folder)), default=-1) + 1
    parts: dict[str, Any] = {"rows": rows}
    if rows.is_sparse:
        parts = {"places": rows.coalesce().indices().int(), "weights": rows.coalesce().values()}
    bytes_ = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY)
    with complete_file(folder / f"{number}.npz") as partial:
        np.savez(partial, keys=bytes_, **{name: part.numpy() for name, part in parts.items()})
