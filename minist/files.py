"""Files that appear under their final name only when they are complete."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; renamed when the block succeeds, removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def complete_folder(path: Path, marker: str) -> Iterator[Path]:
    """The same for a folder. One that stands there is replaced, if it holds the file `marker` or nothing.

    ValueError for any other folder: it is somebody's, and not ours to delete.
    """
    if path.exists() and not (path / marker).exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(f"{path} exists and has no {marker}, so it is not overwritten: name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError says which file is broken, and where."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as e:
        raise ValueError(f"{path} is not JSON: {e}") from None


def write_json(path: Path, content: Any) -> None:
    """Write `content` with an indent of 2."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
