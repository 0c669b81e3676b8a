"""LoRA (Hu et al. 2021, arXiv:2106.09685): train a small change of a linear layer, whose own weights stay as they are.

    y = W x + b + scale B A dropout(x)        A [r, in], B [out, r], scale = alpha / r

A change of W [out, in] has as many numbers as W; this one is of rank r, and has r (in + out). For each number that is
trained, AdamW keeps two more: so the optimizer's memory, and what is saved, shrink to a hundredth. B is 0 at first, and
the model unchanged. Trained, W + scale B A is a plain layer again, which costs nothing more to use.

Our encoders have query, key and value in one layer, checkpoints have three: each of these parts has its own A and B, or
none. A scale of alpha / sqrt(r) lets large ranks learn as fast as small ones (rsLoRA, Kalajdzievski 2023,
arXiv:2312.03732)."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.checks import pick
from minist.encoders.dropout import Dropout
from minist.encoders.encoder import Encoder
from minist.encoders.weights import checkpoint_names
from minist.module import unfilled


class LowRank(nn.Module):
    """The change of one linear layer, or of a part of it: x [T, in] -> scale B A dropout(x) [T, out]."""

    def __init__(self, a: Tensor, b: Tensor, alpha: float, rslora: bool, dropout: float) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(a), nn.Parameter(b)  # [r, in], [out, r]
        self.rank, self.alpha, self.rslora = len(a), alpha, rslora
        self.scale = alpha / (math.sqrt(self.rank) if rslora else self.rank)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.A), self.B) * self.scale

    def product(self) -> Tensor:
        """[out, in], what is to be added to the weight."""
        return (self.scale * self.B @ self.A).detach()


class LoraLinear(nn.Linear):
    """A linear layer [T, in] -> [T, out] with the changes of its parts, which are stacked along `out`."""

    lora: Any  # by the names of the parts that are changed

    def __init__(self, plain: nn.Linear, parts: Sequence[str], changes: Mapping[str, LowRank]) -> None:
        with unfilled():
            super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None)
        self.weight, self.bias = plain.weight, plain.bias  # under their names: a checkpoint's table still fits
        self.parts, self.lora = parts, nn.ModuleDict(changes)
        self.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x).chunk(len(self.parts), dim=-1)
        changed = [z + self.lora[part](x) if part in self.lora else z for part, z in zip(self.parts, y, strict=True)]
        return torch.cat(changed, dim=-1) if len(changed) > 1 else changed[0]

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer of W + scale B A."""
        for part, rows in zip(self.parts, self.weight.chunk(len(self.parts)), strict=True):
            if part in self.lora:
                rows += self.lora[part].product()
        with unfilled():
            plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)


def linear_layers(encoder: Encoder) -> Iterator[tuple[str, nn.Linear, list[str]]]:
    """Each linear layer, where it is in the encoder, and what a checkpoint calls it, or the parts of it."""
    for path, layer in list(encoder.named_modules()):
        if isinstance(layer, nn.Linear):
            names = checkpoint_names(f"{path}.weight", encoder.weights)
            yield path, layer, [name.removesuffix(".weight") for name in names]


def last(name: str) -> str:
    return name.rpartition(".")[2]


def in_layer(name: str) -> str:
    """encoder.layer.3.attention.self.query -> attention.self.query"""
    return re.sub(r".*\.\d+\.", "", name)


def is_target(name: str, targets: Sequence[str]) -> bool:
    """Whether PEFT would adapt a layer of that name: it, or its end behind a point, is among the targets."""
    return any(f".{name}".endswith(f".{target}") for target in targets)


def put_on(encoder: Encoder, base: Path, changes: Mapping[str, LowRank]) -> None:
    """Change the layers that a checkpoint calls so. `base`: the folder of the encoder's own weights."""
    for path, layer, names in linear_layers(encoder):
        if own := {last(name): changes[name].to(layer.weight) for name in names if name in changes}:
            encoder.set_submodule(path, LoraLinear(layer, [last(name) for name in names], own))
    encoder.adapter = base


def new_changes(
    encoder: Encoder, rank: int, alpha: float, dropout: float, rslora: bool, targets: Sequence[str]
) -> dict[str, LowRank]:
    """A change for each layer whose name in a checkpoint ends in one of `targets`, of all if there are none; A drawn by
    torch's seed as PEFT draws it, B 0. ValueError for a target that the encoder has not."""
    layers = {name: (layer, len(names)) for _, layer, names in linear_layers(encoder) for name in names}
    pieces = [in_layer(name).split(".") for name in layers]
    ends = dict.fromkeys(".".join(words[-n:]) for words in pieces for n in range(1, len(words) + 1))
    for target in targets:
        pick("a target of LoRA", target, ends)
    changes = {}
    for name, (layer, parts) in layers.items():
        if not targets or is_target(name, targets):
            a = nn.init.kaiming_uniform_(torch.empty(rank, layer.in_features), a=math.sqrt(5))
            changes[name] = LowRank(a, torch.zeros(layer.out_features // parts, rank), alpha, rslora, dropout)
    return changes


def changes_of(encoder: Encoder) -> dict[str, LowRank]:
    """The changes that an encoder has, by the names of the layers in a checkpoint."""
    found = [(layer, name) for _, layer, names in linear_layers(encoder) for name in names]
    return {n: layer.lora[last(n)] for layer, n in found if isinstance(layer, LoraLinear) and last(n) in layer.lora}


def target_names(encoder: Encoder, changed: Sequence[str]) -> list[str]:
    """What adapter_config.json calls these layers: by their ends, as a person would, if those say the same."""
    names = [name for _, _, names in linear_layers(encoder) for name in names]
    ends = list(dict.fromkeys(map(in_layer, changed)))
    return ends if [name for name in names if is_target(name, ends)] == list(changed) else list(changed)


def merge(encoder: Encoder) -> None:
    """Make the changes part of the weights: a plain encoder, that does the same."""
    for path, layer, _ in linear_layers(encoder):
        if isinstance(layer, LoraLinear):
            encoder.set_submodule(path, layer.merged())
    encoder.adapter = None
