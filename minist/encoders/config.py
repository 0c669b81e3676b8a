"""The fields of a config.json, with checks: it is somebody's file, and its numbers decide what is built."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from reprlib import repr as shortened
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from minist.checks import pick

LARGEST = 10**7  # of a whole number; the product of two is still a number of weights that torch can count

# a field must be as its default is: type of the default -> (what is allowed, does a value fit)
KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: type(value) is bool),
    str: ("a text", lambda value: type(value) is str),
    int: (f"a whole number from 1 to {LARGEST}", lambda value: type(value) is int and 1 <= value <= LARGEST),
    float: ("a number from 0", lambda value: type(value) in (int, float) and 0 <= value < math.inf),
}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # exact, by the error function
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,  # its first name
}


def activation(name: str, field: str = "hidden_act") -> Callable[[Tensor], Tensor]:
    """The function called `name`; ValueError lists those there are. `field`: where config.json names it."""
    return pick(field, name, ACTIVATIONS)


def check_values(config: Any, width: str, heads: str, act: str, parts: int = 1) -> None:
    """ValueError where a field of the dataclass `config` is another kind of thing than its default, or out of range,
    `width` no multiple of `heads` (times `parts`), or `act` no activation; these three are the names of fields."""
    values = vars(config)
    for field in fields(config):
        if field.default is None or field.name == "pad_token_id":  # most encoders only hand it on, and it may be null
            continue
        allowed, fits = KINDS[type(field.default)]
        if not fits(values[field.name]):
            raise ValueError(f"{field.name} is {shortened(values[field.name])}, it must be {allowed}")
    if values[width] % (parts * values[heads]):
        raise ValueError(f"{width} {values[width]} is no multiple of {'twice ' * (parts == 2)}{heads} {values[heads]}")
    activation(values[act], act)


@dataclass(frozen=True)
class EncoderConfig:
    """What BERT, RoBERTa and MPNet say of their shape, under the names in config.json; the numbers are BERT's."""

    vocab_size: int = 30522
    hidden_size: int = 768  # D
    num_hidden_layers: int = 12  # L
    num_attention_heads: int = 12  # H
    intermediate_size: int = 3072  # inside the perceptron
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02  # standard deviation of the random start
    pad_token_id: int | None = 0  # nothing is padded here; RoBERTa counts positions from it

    def __post_init__(self) -> None:
        check_values(self, "hidden_size", "num_attention_heads", "hidden_act")

    @property
    def max_length(self) -> int:
        """Longest text that has a position for every token."""
        return self.max_position_embeddings
