"""Files that appear under their final name only when they are complete, and files that others give us."""

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; it becomes `path` when the block succeeds, and is removed when it fails."""
    with _beside(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)  # one step: others see the old file or the new one, never a part


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """The same for a folder of our own. If another process made it meanwhile, theirs stays: it may be in use."""
    with _beside(path) as partial:
        yield partial
        try:
            partial.rename(path)
        except OSError:  # a folder that is there and not empty cannot be replaced, which is what we want
            if not path.is_dir():
                raise


@contextmanager
def files_into(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to write to; when the block succeeds its files move into `folder`, each of them whole.
    Files of other names stay. A file in the root goes last, so that what names the others comes after them."""
    target = folder.resolve()  # it may be a git clone; "." has no name, and a link stays a link
    target.mkdir(parents=True, exist_ok=True)
    with _beside(target / "model") as partial:
        yield partial
        files = [file for file in partial.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: (-len(file.parts), file.suffix == ".json", file)):
            final = target / file.relative_to(partial)
            final.parent.mkdir(parents=True, exist_ok=True)
            file.replace(final)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """An empty folder on the same disk as `path`, so that a rename out of it is one step; gone afterwards."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")  # two machines may share process ids
    partial.mkdir(parents=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_file(path: Path) -> None:
    """ValueError unless `path` is a file: a folder has no lines, and reading a named pipe would wait for ever."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file, but one is wanted" if path.exists() else f"there is no file {path}")


def parse_json(text: str | bytes, where: str | Path) -> Any:
    """What JSON holds; ValueError starts with `where`, and says where in it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # lists a thousand deep are too many for Python's reader
        raise ValueError(f"{where} is not JSON: {e}") from None


def read_json(path: Path) -> Any:
    return parse_json(path.read_bytes(), path)  # bytes: what is no UTF-8 text is an error of JSON too


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped. ValueError for anything else, an .npz among it."""
    check_file(path)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)  # a pickle could run any code
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(f"{path} is not a .npy file of numbers: {e}") from None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path} is an .npz, several arrays in one file: save the one that is meant with np.save")
    return found
