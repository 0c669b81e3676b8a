"""What the encoders do with their layers, whatever is in them."""

from collections import deque
from collections.abc import Iterator, Sequence

from torch import Tensor


def last(states: Iterator[Tensor]) -> Tensor:
    """The last of `states`; none of the earlier ones is kept alive."""
    return deque(states, maxlen=1).pop()


def check_layers(numbers: Sequence[int], count: int) -> None:
    """ValueError unless `numbers` are some of the layers 0 .. count-1, each once and in their order."""
    given = list(numbers)
    if not given or given != sorted(set(given) & set(range(count))):
        raise ValueError(f"keep_layers: given are {given}, allowed are rising numbers from 0 to {count - 1}")
