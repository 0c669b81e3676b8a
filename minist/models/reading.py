"""Files of a model folder are somebody's: whatever they hold, a reader gets it, or one plain sentence.

Weights are in model.safetensors, whole or in shards, or in an old pytorch_model.bin; written as safetensors."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minist.module import WeightError

# what the first kind of error that fits is called to a person
SENTENCES: dict[type[Exception], str] = {
    WeightError: "{what.parent}: {error}",  # the config.json beside them is not to blame
    UnicodeError: "{what} holds a text that is no UTF-8",
    json.JSONDecodeError: "{what} is not JSON: {error}",
    ValueError: "{what}: {error}",
    RecursionError: "{what} is nested too deep",
    KeyError: "{what} is not as a saved model has it: {error} is missing",
    Exception: "{what} is not as a saved model has it: a value in it is of another kind",
}
# files of weights, the first that is there; nothing in a pickle is run
KINDS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": load_file,
    "pytorch_model.bin": partial(torch.load, map_location="cpu", weights_only=True),
}


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a ValueError that begins with `what`, the file that is read: so a value of another
    kind need not be looked for before it is used. OSErrors stay what they are."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, OverflowError) as e:
        sentence = next(sentence for kind, sentence in SENTENCES.items() if isinstance(e, kind))
        raise ValueError(sentence.format(what=what, error=e)) from e


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
    content = read_value(file)
    with reading(file):
        return content | {}  # what can be joined with a table is one, all else an error


def read_optional(file: Path) -> dict[str, Any]:
    return read_table(file) if is_file(file) else {}  # no file: as if it said nothing


def read_weights(folder: Path, kinds: Mapping[str, Callable[[Path], Any]] = KINDS) -> dict[str, Tensor]:
    for name, read in kinds.items():
        if is_file(folder / name):
            return _read(read, folder / name)
        if is_file(folder / f"{name}.index.json"):
            return _read_shards(read, folder / f"{name}.index.json")
    raise ValueError(f"{folder}: no weights: neither {' nor '.join(kinds)} is there")


def _read(read: Callable[[Path], Any], file: Path) -> dict[str, Tensor]:
    try:
        return {str(name): tensor.detach() for name, tensor in read(file).items()}
    except Exception as e:  # of a damaged pickle almost any: EOFError, IndexError, KeyError, struct.error ..
        reason = (str(e) or type(e).__name__).partition("\n")[0]
        raise ValueError(f"{file.parent}: the weights are damaged: {reason}") from None


def _read_shards(read: Callable[[Path], Any], index: Path) -> dict[str, Tensor]:
    folder, state, content = index.parent, dict[str, Tensor](), read_table(index)
    with reading(index):
        places = {str(name): fspath(shard) for name, shard in content["weight_map"].items()}
    for shard in sorted(set(places.values())):
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise ValueError(f"{index} names the file {shard!r}, which leaves the model folder")
        state |= _read(read, folder / shard)
    for name in sorted(places.keys() - state.keys()):
        raise ValueError(f"{folder}: the weight {name} is not in {places[name]}, as {index.name} says")
    return state


def write_weights(state: dict[str, Tensor], folder: Path, name: str = "model.safetensors", note: str = "") -> None:
    """`note` is one to be read by read_note."""
    about = {"format": "pt"} | ({"note": note} if note else {})  # transformers 4 asks for the format
    try:
        save_file(state, folder / name, metadata=about)
    except SafetensorError as e:  # a full disk, for instance
        raise OSError(f"{folder / name} could not be written: {e}") from None


def read_note(file: Path) -> str:
    if not is_file(file):
        return ""
    with safe_open(file, "pt") as weights:
        return (weights.metadata() or {}).get("note", "")
