"""Files of a model folder are somebody's: whatever they hold, a reader gets it, or one plain sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from minist.files import read_json
from minist.module import WeightError


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """ValueErrors inside begin with `what`, the file or folder that is read, and a value of another kind than a saved
    model has is one too: it need not be looked for before it is used."""
    try:
        yield
    except WeightError as e:
        raise ValueError(f"{what.parent}: {e}") from None
    except UnicodeError:
        raise ValueError(f"{what} has a name that is no text") from None  # half of a pair of \\u.. escapes
    except ValueError as e:
        raise ValueError(f"{what}: {e}") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deep") from None
    except KeyError as e:
        raise ValueError(f"{what} is not as a saved model has it: {e} is missing") from None
    except (TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as e:
        raise ValueError(f"{what} is not as a saved model has it: a value in it is of another kind") from e


def is_file(path: Path) -> bool:
    """Whether the file is there. ValueError where something else has its name: from a named pipe, reading waits."""
    if path.is_file() or not path.exists():
        return path.is_file()
    raise ValueError(f"{path} is no file")


def read_value(file: Path) -> Any:
    """The content of a JSON file. OSError where there is none."""
    is_file(file)
    try:
        return read_json(file)
    except RecursionError:
        raise ValueError(f"{file} is nested too deep") from None


def read_table(file: Path) -> dict[str, Any]:
    """The content of a JSON file that must hold a table."""
    content = read_value(file)
    if type(content) is not dict:
        raise ValueError(f"{file} is not as a saved model has it: it holds no table of names and values")
    return content


def read_optional(file: Path) -> dict[str, Any]:
    """The same; empty where there is no file."""
    return read_table(file) if is_file(file) else {}


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`; ValueError where that would lead out of the folder."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it names the path {relative!r}, which leaves the model folder")
    return folder / path
