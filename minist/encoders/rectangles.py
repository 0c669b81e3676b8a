"""Texts of a stream as rectangles, for kernels that want [texts, H, length, D/H].

Texts that lie next to each other and are equally or similarly long share one. The model sorts texts by length, so
rectangles are few, and hold little that is no text."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Which texts share a rectangle."""

    kind: Callable[[int], int]  # those of whose lengths it says the same
    multiple: int = 1  # a rectangle's length is a multiple of that
    most_scores: int = 2**62  # n longest^2 of several texts


def _sixteens(length: int) -> int:
    return -(-length // 16)


EQUAL = Layout(int)  # with gradients on a CPU: backward would copy all padding once more
ROUNDED = Layout(_sixteens, 16)  # a CPU's kernel takes 16 keys at a time, then one by one
CACHED = Layout(_sixteens, 1, 2**16)  # the scores of 12 heads are 3 MB, about what two cores have near them
DOUBLED = Layout(lambda length: max(length - 1, 31).bit_length())  # a GPU wants few and large kernels


class Rectangle(NamedTuple):
    """The next `n` texts, as [n, longest]."""

    n: int
    longest: int
    ends: Tensor | int  # where each text ends in its row, [n, 1, 1, 1]; a number where all fill theirs


class Rectangles(NamedTuple):
    """All texts that have tokens, and how to come to their rectangles, P places in all, from the stream and back."""

    shapes: list[Rectangle]
    taken: Tensor | None  # [P] the token that stands in each place; None where the places are the stream
    places: Tensor | None  # [T] the place of each token

    @property
    def num_places(self) -> int:
        """P"""
        return sum(n * longest for n, longest, _ in self.shapes)

    def split(self, spread: Tensor) -> list[Tensor]:
        """[P, ..] -> for each rectangle [n, longest, ..], views."""
        parts = spread.split([n * longest for n, longest, _ in self.shapes])  # slices have a slow backward
        return [part.unflatten(0, shape[:2]) for part, shape in zip(parts, self.shapes, strict=True)]

    def spread(self, stream: Tensor) -> list[Tensor]:
        """[T, ..] -> for each rectangle [n, longest, ..]."""
        return self.split(stream if self.taken is None else stream.index_select(0, self.taken))

    def gather(self, spread: Tensor) -> Tensor:
        """[P, ..] -> [T, ..]"""
        return spread if self.places is None else spread.index_select(0, self.places)


@lru_cache(maxsize=4)  # found by identity: all layers ask for the same texts, and only the first waits for the GPU
@torch.inference_mode(False)  # else these tensors could not be used where gradients are computed
def rectangles(cu_seqlens: Tensor, layout: Layout) -> Rectangles:
    """All texts, in their order. `cu_seqlens` [N+1]: where each starts, and the end."""
    shapes, taken, places, at_token, at_place = [], [], [], 0, 0
    for lengths in _groups(cu_seqlens.diff().tolist(), layout):
        n, longest = len(lengths), -(-max(lengths) // layout.multiple) * layout.multiple  # rounded up
        ends, at = torch.tensor(lengths)[:, None], torch.arange(longest)
        # behind a text's end its last token stands again, which nobody sees: faster than zeros
        taken.append((at_token + ends.cumsum(0) - ends + torch.minimum(at, ends - 1)).flatten())
        places.append(at_place + (at < ends).flatten().nonzero()[:, 0])
        full = min(lengths) == longest
        shapes.append(Rectangle(n, longest, longest if full else ends.view(-1, 1, 1, 1).to(cu_seqlens.device)))
        at_token, at_place = at_token + sum(lengths), at_place + n * longest
    if at_token == at_place:  # no padding: nothing has to move
        return Rectangles(shapes, None, None)
    return Rectangles(shapes, *(torch.cat(x).to(cu_seqlens.device) for x in (taken, places)))


def _groups(lengths: list[int], layout: Layout) -> Iterator[list[int]]:
    """The lengths of the texts of each rectangle. A text without tokens is in none: its scores would be NaN."""
    for _, group in groupby(filter(None, lengths), layout.kind):
        alike = list(group)
        some = max(1, layout.most_scores // max(alike) ** 2)
        yield from (alike[i : i + some] for i in range(0, len(alike), some))
