"""Texts of a stream as rectangles, for kernels that want [texts, H, length, D/H].

Texts that lie next to each other and are equally or similarly long share one. The model sorts texts by length, so
rectangles are few, and hold little that is no text."""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

# texts share a rectangle if the function says the same of their lengths; its length is a multiple of the number
Layout = tuple[Callable[[int], int], int]
EQUAL: Layout = int, 1  # training on a CPU: backward would copy all padding once more
ROUNDED: Layout = (lambda length: -(-length // 16)), 16  # a CPU's kernel takes 16 keys at a time, then one by one
DOUBLED: Layout = (lambda length: length and max(length - 1, 31).bit_length()), 1  # a GPU wants few and large kernels


class Rectangle(NamedTuple):
    """The next `tokens` of the stream, which are `n` texts, as [n, longest]."""

    tokens: int
    n: int
    longest: int
    ends: Tensor | int  # where each text ends in its row, [n, 1, 1, 1]; a number where all fill theirs
    taken: Tensor | None = None  # [n longest] the token that stands in each place; None where that is the stream
    places: Tensor | None = None  # [tokens] the place of each token


@lru_cache(maxsize=4)  # found by identity: all layers ask for the same texts, and only the first waits for the GPU
@torch.inference_mode(False)  # else these tensors could not be used where gradients are computed
def rectangles(cu_seqlens: Tensor, layout: Layout) -> list[Rectangle]:
    """All texts, in their order. `cu_seqlens` [N+1]: where each starts, and the end."""
    found, move = [], partial(Tensor.to, device=cu_seqlens.device)
    for _, group in groupby(cu_seqlens.diff().tolist(), layout[0]):
        lengths = list(group)
        tokens, n, longest = sum(lengths), len(lengths), -(-max(lengths) // layout[1]) * layout[1]  # rounded up
        if min(lengths) == longest:  # such texts fill their rectangle as they are
            found.append(Rectangle(tokens, n, longest, longest))
            continue
        ends, at = torch.tensor(lengths)[:, None], torch.arange(longest)
        # behind a text's end its last token stands again, which nobody sees: faster than zeros
        taken = (ends.cumsum(0) - ends + torch.minimum(at, ends - 1)).flatten()
        places = (at < ends).flatten().nonzero()[:, 0]
        found.append(Rectangle(tokens, n, longest, *map(move, (ends.view(-1, 1, 1, 1), taken, places))))
    return found
