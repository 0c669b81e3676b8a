"""What the encoders do with their layers, whatever is in them."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minist.data.packed import Packed


def run_layer(layer: nn.Module, recompute: bool, x: Tensor, packed: Packed, *more: object) -> Tensor:
    """`layer(x, packed, ..)`, [T, D] -> [T, D]. With `recompute` backward keeps only `x`, and runs the layer a second
    time with the same dropout: less memory for a third more time (Chen et al. 2016, arXiv:1604.06174)."""
    if recompute and torch.is_grad_enabled():
        y: Tensor = checkpoint(layer, x, packed, *more, use_reentrant=False, preserve_rng_state=True)
    else:
        y = layer(x, packed, *more)
    return y


def last(states: Iterator[Tensor]) -> Tensor:
    """The last of `states`; none of the earlier ones is kept alive."""
    return deque(states, maxlen=1).pop()


def check_layers(numbers: Sequence[int], count: int) -> None:
    """ValueError unless `numbers` are some of the layers 0 .. count-1, each once and in their order."""
    given = list(numbers)
    if not given or given != sorted(set(given) & set(range(count))):
        raise ValueError(f"keep_layers: given are {given}, allowed are rising numbers from 0 to {count - 1}")
