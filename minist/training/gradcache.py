"""GradCache: the gradient of a loss over a large batch in the memory of a small one.

Gao et al. 2021, arXiv:2101.06983.

A contrastive loss wants many texts in a batch, and all their activations would have to be kept for backward.
But the loss sees only embeddings, so the chain rule can be cut there, in three phases:

    1. embed all texts, mini-batch by mini-batch, and keep nothing but the embeddings       [N, D]
    2. the loss of all embeddings, and its gradient with respect to each of them            [N, D]
    3. embed each mini-batch again, now with its graph, and push its part of that gradient through

It costs a second forward pass, gives exactly the gradient of one pass over the whole batch, and holds for every
loss, since no loss knows of it. Dropout must draw the same masks in phases 1 and 3: each mini-batch has a seed.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minist.data.packed import Packed

Embed = Callable[[Packed, int], Tensor]  # (n texts, number of their column) -> [n, D]


def gradcache(
    embed: Embed,
    columns: Sequence[Packed],
    loss: Callable[[list[Tensor]], Tensor],
    max_tokens: int,
    seed: int,
) -> Tensor:
    """Adds the gradient of `loss` to all parameters, and returns its value.

    `embed(texts, c)` gives the embeddings of texts of column c. A mini-batch has at most `max_tokens` tokens, or
    one text, or none where a rank has no rows: its gradient is then zero, not missing. `loss` takes the embeddings
    of each column, as it would without mini-batches. `seed` and the next few numbers are those of the dropout.
    """
    parts = [(part, c) for c, column in enumerate(columns) for part in column.split(max_tokens) or [column]]
    numbers = [c for _, c in parts]

    with torch.no_grad():
        outputs = [_seeded(embed, part, c, seed + i) for i, (part, c) in enumerate(parts)]
    leaves = [
        torch.cat([x for x, n in zip(outputs, numbers, strict=True) if n == c]).requires_grad_()
        for c in range(len(columns))
    ]
    del outputs

    value = loss(leaves)
    value.backward()

    gradients = torch.cat([leaf.new_zeros(leaf.shape) if leaf.grad is None else leaf.grad for leaf in leaves])
    for i, (part, c) in enumerate(parts):
        gradient, gradients = gradients[: part.n], gradients[part.n :]
        _seeded(embed, part, c, seed + i).backward(gradient)
    return value.detach()


def _seeded(embed: Embed, part: Packed, c: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return embed(part, c)
