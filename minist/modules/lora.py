"""LoRA (Hu et al. 2021, arXiv:2106.09685): train a small change of a linear layer, whose own weights stay as they are.

    y = W x + b + scale B A dropout(x)        A [r, in], B [out, r], scale = alpha / r

A change of W [out, in] has as many numbers as W; this one is of rank r, and has r (in + out). For each number that is
trained, AdamW keeps two more: so the optimizer's memory, and what is saved, shrink to a hundredth. B is 0 at first, and
the model unchanged. Trained, W + scale B A is a plain layer again, which costs nothing more to use.

Our encoders have query, key and value in one layer, checkpoints have three: each of these parts has its own A and B, or
none."""

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
from minist.encoders.linear import Linear
from minist.encoders.weights import checkpoint_names
from minist.module import unfilled


class LowRank(nn.Module):
    """The change of one linear layer, or of a part of it: x [T, in] -> scale B A dropout(x) [T, out]."""

    def __init__(self, a: Tensor, b: Tensor, alpha: float, dropout: float) -> None:
        super().__init__()
        self.A, self.B = nn.Parameter(a), nn.Parameter(b)  # [r, in], [out, r]
        self.rank, self.alpha, self.scale = len(a), alpha, alpha / len(a)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(self.dropout(x), self.A), self.B) * self.scale

    def product(self) -> Tensor:
        return (self.scale * self.B @ self.A).detach()  # [out, in], what is to be added to the weight


class LoraLinear(Linear):
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
            plain = Linear(self.in_features, self.out_features, bias=self.bias is not None)
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)


def linear_layers(encoder: Encoder) -> Iterator[tuple[str, nn.Linear, dict[str, str]]]:
    """Each linear layer, where it is in the encoder, and its parts, with what a checkpoint calls them."""
    for path, layer in list(encoder.named_modules()):
        if isinstance(layer, nn.Linear):
            names = [name.removesuffix(".weight") for name in checkpoint_names(f"{path}.weight", encoder.weights)]
            yield path, layer, {name.rpartition(".")[2]: name for name in names}


def sizes_of(encoder: Encoder) -> dict[str, tuple[int, int]]:
    """Of each linear layer, by its name in a checkpoint, the widths of what it takes and gives."""
    layers = [(layer, names.values()) for _, layer, names in linear_layers(encoder)]
    return {name: (layer.in_features, layer.out_features // len(names)) for layer, names in layers for name in names}


def new_changes(
    encoder: Encoder, rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> dict[str, LowRank]:
    """A change for each layer whose name in a checkpoint ends in one of `targets`, of all if there are none; A drawn by
    torch's seed as PEFT draws it, B 0. ValueError for a target that the encoder has not."""
    sizes, ends = sizes_of(encoder), tuple(f".{target}" for target in targets)  # of whole words
    for target, end in zip(targets, ends, strict=True):
        if not any(f".{name}".endswith(end) for name in sizes):
            pick("a target of LoRA", target, dict.fromkeys(re.sub(r".*\.\d+\.", "", name) for name in sizes))
    changes = {}
    for name, (inputs, outputs) in sizes.items():
        if not targets or f".{name}".endswith(ends):
            a = nn.init.kaiming_uniform_(torch.empty(rank, inputs), a=math.sqrt(5))
            changes[name] = LowRank(a, torch.zeros(outputs, rank), alpha, dropout)
    return changes


def put_on(encoder: Encoder, base: Path, changes: Mapping[str, LowRank]) -> None:
    """Change the layers that a checkpoint calls so. `base`: the folder of the encoder's own weights."""
    for path, layer, names in linear_layers(encoder):
        if own := {part: changes[name].to(layer.weight) for part, name in names.items() if name in changes}:
            encoder.set_submodule(path, LoraLinear(layer, list(names), own))
    encoder.adapter = base


def changes_of(encoder: Encoder) -> dict[str, LowRank]:
    """The changes that an encoder has, by the names of the layers in a checkpoint."""
    changed = [(layer.lora, names) for _, layer, names in linear_layers(encoder) if isinstance(layer, LoraLinear)]
    return {name: own[part] for own, names in changed for part, name in names.items() if part in own}


def merge(encoder: Encoder) -> None:
    """Make the changes part of the weights: a plain encoder, that does the same."""
    for path, layer, _ in linear_layers(encoder):
        if isinstance(layer, LoraLinear):
            encoder.set_submodule(path, layer.merged())
    encoder.adapter = None
