"""Files of a model folder are somebody's: whatever they hold, a reader gets it, or one plain sentence."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minist.module import WeightError


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a ValueError that begins with `what`, the file that is read: so a value of another
    kind need not be looked for before it is used. OSErrors stay what they are."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, OverflowError) as e:
        raise ValueError(sentence(what, e)) from e


def sentence(what: Path, error: Exception) -> str:
    match error:
        case WeightError():
            return f"{what.parent}: {error}"  # the config.json beside them is not to blame
        case UnicodeError():
            return f"{what} holds a text that is no UTF-8"
        case json.JSONDecodeError():
            return f"{what} is not JSON: {error}"
        case ValueError():
            return f"{what}: {error}"
        case RecursionError():
            return f"{what} is nested too deep"
        case KeyError():
            return f"{what} is not as a saved model has it: {error} is missing"
    return f"{what} is not as a saved model has it: a value in it is of another kind"


def is_file(path: Path) -> bool:
    """Whether the file is there. ValueError where something else has its name."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")  # from a named pipe, reading waits for ever
    return path.exists()


def read_value(file: Path) -> Any:
    """The content of a JSON file. OSError where there is none."""
    is_file(file)
    with reading(file):
        return json.loads(file.read_text("utf-8"))


def read_table(file: Path) -> dict[str, Any]:
    """The content of a JSON file that must hold a table."""
    content = read_value(file)
    with reading(file):
        return content | {}  # what can be joined with a table is one


def read_optional(file: Path) -> dict[str, Any]:
    """The same; empty where there is no file."""
    return read_table(file) if is_file(file) else {}
