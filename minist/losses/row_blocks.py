"""Sums over the rows of a score matrix that is never whole in memory.

n rows with m candidates have n * m scores: 4 GB in fp32 at 32,768 pairs, and backward keeps several such matrices.
But a row's part of the loss needs its own row of scores only, and the gradient of a sum is the sum of the gradients.
So a block of rows is scored at a time, its gradient is taken at once, and its scores are forgotten."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from minist.losses.base import Tensors

SCORES_PER_BLOCK = 2**22  # 16 MB in fp32, a few times: for the scores and what becomes of them
ROWS_PER_BLOCK = 128  # at least: their scores take no more room than embeddings of width 128, and fewer rows are slow
Part = Callable[[slice, Tensors, Tensors], Tensor]


def sum_over_rows(part: Part, own: Tensors, shared: Tensors, scores_per_row: int) -> Tensor:
    """`part(slice(0, n), own, shared)`, in blocks of rows: it must be a sum over rows. `own` are tensors [n, ..] of
    which a block sees its rows, `shared` those that it sees whole. Its gradient can be had once, not twice."""
    n, size = len(own[0]), max(ROWS_PER_BLOCK, SCORES_PER_BLOCK // scores_per_row)
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    if len(blocks) == 1:
        return part(blocks[0], own, shared)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*own, *shared)):
        return _SumOfBlocks.apply(part, blocks, len(own), *own, *shared)
    return torch.stack([part(block, [x[block] for x in own], shared) for block in blocks]).sum()


def same_row(block: slice, rows: Tensor) -> Tensor:
    """Which texts belong to which row of a block of b rows: [m] rows of the texts -> [b, m]."""
    return torch.arange(block.start, block.stop, device=rows.device)[:, None] == rows


class _SumOfBlocks(torch.autograd.Function):
    """Forward takes the gradient along with the value; backward has only to scale it."""

    @staticmethod
    def forward(ctx: Any, part: Part, blocks: Sequence[slice], count: int, *tensors: Tensor) -> Tensor:
        own, shared = tensors[:count], [x.detach().requires_grad_(x.requires_grad) for x in tensors[count:]]
        # a slice in the graph would have a gradient of full size for each block; these are written in place
        gradients = [torch.zeros_like(x) if x.requires_grad else None for x in own]
        result = torch.zeros((), dtype=own[0].dtype, device=own[0].device)
        for block in blocks:
            rows = [x[block].detach().requires_grad_(x.requires_grad) for x in own]  # detached: backward stops here
            with torch.enable_grad():  # forward of a Function runs without
                value = part(block, rows, shared)
                value.backward()  # adds up in the shared leaves, block after block
            result += value.detach()  # and with it the block's scores are forgotten
            for gradient, x in zip(gradients, rows, strict=True):
                if gradient is not None and x.grad is not None:  # None: the block does not use it
                    gradient[block] = x.grad
        ctx.save_for_backward(*gradients, *[x.grad for x in shared])
        return result

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *[None if x is None else outer[0] * x for x in ctx.saved_tensors]  # as forward's
