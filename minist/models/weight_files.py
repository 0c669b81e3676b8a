"""Weights of one folder: model.safetensors, whole or in shards, or an old pytorch_model.bin; written as safetensors."""

from collections.abc import Callable
from functools import partial
from os import fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minist.models.reading import is_file, read_table, reading

# the first that is there; nothing in a pickle is run
KINDS: dict[str, Callable[[Path], Any]] = {
    "model.safetensors": load_file,
    "pytorch_model.bin": partial(torch.load, map_location="cpu", weights_only=True),
}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Names and tensors, on the CPU."""
    for name, read in KINDS.items():
        if is_file(folder / name):
            return _read(read, folder / name)
        if is_file(folder / f"{name}.index.json"):
            return _read_shards(read, folder / f"{name}.index.json")
    raise ValueError(f"{folder}: no weights: neither {' nor '.join(KINDS)} is there")


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


def write_weights(state: dict[str, Tensor], folder: Path) -> None:
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})  # transformers 4 asks for the format
    except SafetensorError as e:  # a full disk, for instance
        raise OSError(f"{folder}/model.safetensors could not be written: {e}") from None
