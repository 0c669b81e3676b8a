"""Weights of one folder: model.safetensors, whole or in shards, or an old pytorch_model.bin; written as safetensors."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minist.files import read_json

INDEX = "model.safetensors.index.json"  # which shard holds which weight


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Names and tensors, on the CPU. Nothing in a pickle is run. ValueError for no weights, or damaged ones."""
    try:
        if (folder / "model.safetensors").exists():
            return load_file(folder / "model.safetensors")
        if (folder / INDEX).exists():
            return _read_shards(folder)
        if (folder / "pytorch_model.bin").exists():
            return _checked(_read_pickle(folder / "pytorch_model.bin"), folder)
    except (SafetensorError, RuntimeError) as e:
        raise ValueError(f"{folder}: the weights are damaged: {str(e).partition(chr(10))[0]}") from None
    raise ValueError(f"{folder}: no weights: neither model.safetensors nor pytorch_model.bin is there")


def _read_shards(folder: Path) -> dict[str, Tensor]:
    index = read_json(folder / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map of names and files")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise ValueError(f"{folder / INDEX} names the file {shard!r}, which leaves the model folder")
        if not (folder / shard).exists():
            raise ValueError(f"{folder}: the shard {shard} of the weights is missing")
        state |= load_file(folder / shard)
    missing = sorted(places.keys() - state.keys())
    if missing:
        raise ValueError(f"{folder}: the weight {missing[0]} is not in {places[missing[0]]}, as {INDEX} says")
    return state


def _read_pickle(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as e:  # of a damaged pickle almost any: EOFError, IndexError, KeyError, struct.error ..
        raise RuntimeError(str(e) or type(e).__name__) from None


def _checked(state: Any, folder: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{folder}: the weights are no table of names and tensors")
    return state


def write_weights(state: dict[str, Tensor], folder: Path) -> None:
    """Write model.safetensors."""
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})  # transformers 4 asks for the format
    except SafetensorError as e:  # a full disk, for instance
        raise OSError(f"{folder}/model.safetensors could not be written: {e}") from None


def fill_module(module: nn.Module, folder: Path) -> None:
    """Read all parameters of `module` from `folder`, as float32. ValueError names one that does not fit."""
    state, known = read_weights(folder), dict(module.named_parameters())
    kind = type(module).__name__
    for name in sorted(state.keys() - known.keys()):
        raise ValueError(
            f"{folder}: the weight {name} belongs to no {kind} of this shape, which has {', '.join(known)}"
        )
    for name, parameter in known.items():
        if name not in state or state[name].shape != parameter.shape:
            given = list(state[name].shape) if name in state else "missing"
            raise ValueError(f"{folder}: {name} is {given}, by its config.json it has shape {list(parameter.shape)}")
    module.load_state_dict({name: t.float() for name, t in state.items()})


def write_module(module: nn.Module, folder: Path) -> None:
    """Write all parameters of `module` under their own names."""
    write_weights({name: p.detach().cpu().contiguous() for name, p in module.named_parameters()}, folder)
