"""Modules that act on each vector by itself, [.., D] -> [.., D']: mostly on text vectors, after the pooling."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from minist.checks import number, pick
from minist.module import Module

TANH = "torch.nn.modules.activation.Tanh"
# those that need neither arguments nor more than one vector, as a saved config.json spells them
NAMES = set(activations.__all__) - {"MultiheadAttention", "Threshold", "GLU", "Softmax2d"}
ACTIVATIONS = {f"torch.nn.modules.activation.{name}": vars(activations)[name] for name in sorted(NAMES)}
ACTIVATIONS["torch.nn.modules.linear.Identity"] = nn.Identity


class Dense(Module):
    """activation(W x + b), and with `residual` that plus x, or plus R x where the widths differ."""

    takes = ("tokens", "embeddings")
    config_keys = (
        ("in_features", "in_width"),
        ("out_features", "out_width"),
        ("bias", "has_bias"),
        ("activation_function", "activation_name"),
    )

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str = TANH, residual: bool = False
    ) -> None:
        super().__init__()
        self.in_width, self.out_width, self.has_bias, self.has_residual = in_features, out_features, bias, residual
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation_name, act = activation, pick("activation_function", activation, ACTIVATIONS)
        self.activation_function = act()  # files have this name: an activation may have a parameter, as PReLU has
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation_function(self.linear(x))
        if not self.has_residual:
            return out
        return out + (x if self.in_width == self.out_width else self.residual(x))  # behind the activation

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, weights = super().to_folder()
        residual = {"use_residual": True} if self.has_residual else {}  # a key that older versions do not know
        return config | residual, weights

    @classmethod
    def arguments(cls, config: dict[str, Any]) -> tuple[Any, ...]:
        return *super().arguments(config), config.get("use_residual", False)


class Normalize(Module):
    """x / |x|, so that the dot product of two embeddings is their cosine."""

    takes, has_config, has_weights = ("tokens", "embeddings"), False, False

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)  # with a least length: zeros, of a text without tokens, stay zeros


class LayerNorm(Module):
    """Each vector to mean 0 and variance 1, then scaled and shifted by dimension (Ba et al. 2016, arXiv:1607.06450)."""

    config_keys = (("dimension", "in_width"),)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_width = width
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Dropout(Module):
    """In training, each number is zero with probability `p`; nothing otherwise."""

    has_weights, config_keys = False, (("dropout", "dropout.p"),)

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.dropout = nn.Dropout(number("dropout", p, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x)
