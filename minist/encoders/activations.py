"""The activation functions that a config.json may name."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

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
    if name not in ACTIVATIONS:
        raise ValueError(f"{field} is {name!r}, known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
