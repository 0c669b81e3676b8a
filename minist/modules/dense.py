"""Modules that act on each vector by itself, [.., D] -> [.., D']: mostly on text vectors, after the pooling. And one
that mixes what an encoder's layers give of each token, before it."""

from collections.abc import Iterable
from functools import reduce
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from minist.checks import number, pick
from minist.module import Module

TANH = "torch.nn.modules.activation.Tanh"
# as a saved config.json spells them; left out are those that need arguments or more than one vector
ACTIVATIONS: dict[str, type[nn.Module]] = {
    f"torch.nn.modules.activation.{name}": vars(activations)[name]
    for name in activations.__all__
    if name not in ("MultiheadAttention", "Threshold", "GLU", "Softmax2d")
} | {"torch.nn.modules.linear.Identity": nn.Identity}


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
        """`activation` is spelled as in a saved config.json. ValueError for one that is not known."""
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

    takes = ("tokens", "embeddings")
    has_config = has_weights = False

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


class WeightedLayerPooling(Module):
    """sum of w_l h_l over sum of w_l, for the layers l = first_layer .. L; layer 0 is the embedding layer.

    All weights start at 1, the plain average. Source: sentence-transformers; the idea of ELMo (Peters et al.
    2018, arXiv:1802.05365), whose weights are a softmax."""

    takes, gives = ("layers",), "tokens"
    config_keys = (
        ("word_embedding_dimension", "in_width"),
        ("num_hidden_layers", "num_layers"),
        ("layer_start", "first_layer"),
    )

    def __init__(self, width: int, num_layers: int, first_layer: int = 4) -> None:
        """`num_layers` is L, the encoder's. ValueError where no layer is left."""
        super().__init__()
        number("layer_start", first_layer, 0, num_layers)
        self.in_width, self.num_layers, self.first_layer = width, num_layers, first_layer
        self.layer_weights = nn.Parameter(torch.ones(num_layers + 1 - first_layer))

    def forward(self, hidden_states: Iterable[Tensor]) -> Tensor:
        """The L + 1 hidden states of the encoder, [T, D] each -> [T, D]."""
        layers = islice(hidden_states, self.first_layer, None)
        weighted = (weight * x for weight, x in zip(self.layer_weights, layers, strict=True))
        total = reduce(torch.add, weighted)  # each is added as it comes, so that none is kept for its own sake
        return total / self.layer_weights.sum()  # no softmax: a weight may become negative

    @classmethod
    def arguments(cls, config: dict[str, Any]) -> tuple[Any, ...]:
        width = config.get("embedding_dimension") or config["word_embedding_dimension"]  # of version 6, of version 5
        return super().arguments(config | {"word_embedding_dimension": width})
