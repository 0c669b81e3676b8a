"""WeightedLayerPooling: a learned average over the encoder's layers, before the pooling over tokens."""

from collections.abc import Iterable
from functools import reduce
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from minist.checks import number
from minist.module import Module


class WeightedLayerPooling(Module):
    """sum of w_l h_l over sum of w_l, for the layers l = first_layer .. L; layer 0 is the embedding layer. All weights
    start at 1, the plain average. Source: sentence-transformers, after ELMo (Peters et al. 2018, arXiv:1802.05365)."""

    takes, gives = ("layers",), "tokens"
    config_keys = (
        ("word_embedding_dimension", "in_width"),
        ("num_hidden_layers", "num_layers"),
        ("layer_start", "first_layer"),
    )

    def __init__(self, width: int, num_layers: int, first_layer: int = 4) -> None:
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
