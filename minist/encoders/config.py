"""Checks of what a config.json says: it is somebody's file, and its numbers decide what is built."""

import math
from collections.abc import Callable
from dataclasses import fields
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
    "swish": F.silu,
}


def activation(name: str, field: str = "hidden_act") -> Callable[[Tensor], Tensor]:
    """The function called `name`; ValueError lists those there are. `field`: where config.json names it."""
    return pick(field, name, ACTIVATIONS)


def check_values(config: Any) -> None:
    """ValueError where a field of the dataclass `config` is another kind of thing than its default, or out of range.

    Left out are fields whose default is None, and pad_token_id, which most encoders only hand on.
    """
    for field in fields(config):
        if field.default is None or field.name == "pad_token_id":
            continue
        value, (allowed, fits) = vars(config)[field.name], KINDS[type(field.default)]
        if not fits(value):
            raise ValueError(f"{field.name} is {shortened(value)}, it must be {allowed}")


def check_heads(width: int, heads: int, names: tuple[str, str] = ("hidden_size", "num_attention_heads")) -> None:
    """ValueError unless `heads` vectors of the same length make up `width`; `names` are those of the two fields."""
    if width % heads:
        raise ValueError(f"{names[0]} {width} is no multiple of {names[1]} {heads}")


def check_positions(positions: int, padding_id: int) -> None:
    """ValueError unless the table of `positions` has room for a token: the places up to `padding_id` are no token's."""
    if positions < padding_id + 2:
        raise ValueError(f"max_position_embeddings is {positions}, it must be {padding_id + 2} or more")
