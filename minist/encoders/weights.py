"""Checkpoint weights to parameters and back, by a table of names, with every name and shape checked.

A table maps a module of ours to that of a Hugging Face checkpoint, `{i}` being a layer's number. "a.query|key|value"
are three modules a.query, a.key and a.value, which are one here, stacked along the first axis."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minist.module import WeightError, checked, on_cpu


def initialize(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """BERT's random start: matrices normal(0, std), biases 0, norms 1."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std, generator=generator)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def draw(module: nn.Module, std: float, place: int = 0) -> None:
    """The same, of torch's seed and `place` alone: it does not depend on what was drawn before."""
    initialize(module, std, torch.Generator().manual_seed(torch.initial_seed() + place))


def checkpoint_names(parameter: str, table: dict[str, str]) -> list[str]:
    """`layers.3.qkv.bias` -> the names of its parts in a checkpoint."""
    module, _, kind = parameter.rpartition(".")
    number = "".join(re.findall(r"\.(\d+)\.", module))  # of the layer, if it is in one
    path, dot, parts = table[module.replace(f".{number}.", ".{i}.", 1)].format(i=number).rpartition(".")
    return [f"{path}{dot}{part}.{kind}" for part in parts.split("|")]


def load_weights(module: nn.Module, state: dict[str, Tensor], table: dict[str, str]) -> None:
    """Fill `module`, which may be on the meta device, from the checkpoint `state`, as float32. ValueError names a
    weight that is missing, has another shape, or belongs to no parameter."""
    loaded, known = {}, set()
    for ours, parameter in module.named_parameters():
        theirs = checkpoint_names(ours, table)
        shape = (parameter.shape[0] // len(theirs), *parameter.shape[1:])
        parts = [checked(state, name, shape) for name in theirs]
        loaded[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]  # no copy where there is nothing to join
        known.update(theirs)
    roots = {name.split(".")[0] for name in known}  # heads and poolers lie under other roots, and are not read here
    unknown = sorted(n for n in state.keys() - known if n.split(".")[0] in roots and not n.endswith("position_ids"))
    if unknown:
        raise WeightError(f"the checkpoint holds {unknown[0]}, but by its config.json the encoder has no such weight")
    module.load_state_dict(loaded, assign=True)  # assign: parameters on the meta device have no memory to copy to


def save_weights(module: nn.Module, table: dict[str, str]) -> dict[str, Tensor]:
    """The parameters of `module` under their checkpoint names, on the CPU."""
    state: dict[str, Tensor] = {}
    for ours, parameter in module.named_parameters():
        names = checkpoint_names(ours, table)
        state |= {name: on_cpu(part) for name, part in zip(names, parameter.chunk(len(names)), strict=True)}
    return state


def modernize(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Strip `prefix` (of the encoder inside a ...ForMaskedLM), and write weight and bias for gamma and beta."""
    if any(name.startswith(prefix) for name in state):
        state = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    return {re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)): t for name, t in state.items()}  # TF's names
