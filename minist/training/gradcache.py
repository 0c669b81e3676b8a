"""GradCache (Gao et al. 2021, arXiv:2101.06983): the gradient of a large batch's loss in the memory of a small one.

All activations of a large batch would have to be kept for backward. But the loss sees only embeddings, so the chain
rule can be cut there, in three phases:

    1. embed all texts, mini-batch by mini-batch, and keep nothing but the embeddings       [N, D]
    2. the loss of all embeddings, and its gradient with respect to each of them            [N, D]
    3. embed each mini-batch again, now with its graph, and push its part of that gradient through

It costs a second forward pass, gives exactly the gradient of one pass over the whole batch, and holds for every
loss, since no loss knows of it. Dropout must draw the same masks in phases 1 and 3: each mini-batch has a seed."""

from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor

from minist.data.packed import Packed

Embed = Callable[[Packed, int], tuple[Tensor, ...]]  # (n texts, number of their column) -> [n, D], and outputs [n, ..]
LossOf = Callable[[list[tuple[Tensor, ...]]], Tensor]  # what `embed` gives, of each column -> scalar
Passes = Callable[[int], int]


def gradcache(
    embed: Embed, columns: Sequence[Packed], loss: LossOf, max_tokens: int, seed: int, passes: Passes = int
) -> Tensor:
    """Adds the gradient of `loss` to all parameters, and returns its value.
    A mini-batch has at most `max_tokens` tokens, or one text, or none where a rank has no rows: its gradient is then
    zero, not missing. `seed` and the next few numbers are those of the dropout. `passes` says how many mini-batches of
    a column, if need be without texts, are made of the n that there are: as many, unless ranks have to agree."""
    seeds = count(seed)
    mini_batches = []
    for column in columns:
        split = column.split(max_tokens) or [column]
        split += [column.slice(0, 0)] * (passes(len(split)) - len(split))
        mini_batches.append([(part, next(seeds)) for part in split])

    with torch.no_grad():  # phase 1: no graph, so no activations are kept
        embeddings = [
            tuple(map(torch.cat, zip(*(_seeded(embed, part, c, own) for part, own in parts), strict=True)))
            for c, parts in enumerate(mini_batches)
        ]
    for x in (x for column in embeddings for x in column):
        x.requires_grad_()

    value = loss(embeddings)  # phase 2
    value.backward()

    # phase 3
    gradients = [[torch.zeros_like(x) if x.grad is None else x.grad for x in column] for column in embeddings]
    del embeddings  # from here on only their gradients count
    for c, (parts, cached) in enumerate(zip(mini_batches, gradients, strict=True)):
        pieces = zip(*(gradient.split([part.n for part, _ in parts]) for gradient in cached), strict=True)
        for (part, own), piece in zip(parts, pieces, strict=True):
            pairs = zip(_seeded(embed, part, c, own), piece, strict=True)  # the same dropout masks as in phase 1
            if live := [(x, g) for x, g in pairs if x.requires_grad]:  # else all weights on the way are frozen
                torch.autograd.backward([x for x, _ in live], [g for _, g in live])
    return value.detach()


def _seeded(embed: Embed, part: Packed, c: int, seed: int) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    return embed(part, c)
