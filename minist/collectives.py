"""What ranks exchange in a training step: embeddings forward, gradients backward.

The arithmetic of W ranks: rank r takes the r-th contiguous share of a batch's rows, `gather` gives every rank the
embeddings of all of them, so every rank computes the same global loss. Backward through `gather` hands each rank the
gradient of its own rows times W, and the average over ranks divides by W again: the parameters get exactly the
gradient that one process would have computed."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minist.distributed import any_rank, exchange, rank, world_size


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, [n_r, ..] -> [n_0 + .. + n_W-1, ..]; ranks may hold different numbers."""
    if not dist.is_initialized():
        return x
    counts = x.new_empty(world_size(), dtype=torch.long)
    exchange(dist.all_gather, list(counts.split(1)), torch.tensor([len(x)], device=x.device))
    return _Gather.apply(x, counts.tolist())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = x.new_zeros(max(counts), *x.shape[1:])  # all_gather wants equal shapes
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        exchange(dist.all_gather, parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = grad.split(ctx.counts)[rank()]  # every rank has the whole gradient: nothing is exchanged
        return own * len(ctx.counts), None  # times W, since the average over ranks divides by W


def wrap(model: nn.Module, *, has_routes: bool) -> nn.Module:
    """DDP round `model`: its gradients are averaged over ranks while backward still makes others.
    DDP waits for a gradient of every parameter. A rank without rows gives zeros, as our modules keep their weights in
    the graph without texts too, see attention.py; but of routes a batch may use one alone: then DDP must look."""
    if not dist.is_initialized() or not any(p.requires_grad for p in model.parameters()):
        return model
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=has_routes)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over ranks in one exchange. One that a rank lacks counts as zero, if another rank has it."""
    trained = [p for p in parameters if p.requires_grad]
    if not dist.is_initialized() or not trained:
        return
    wanted = any_rank([p.grad is not None for p in trained], trained[0].device)  # ranks must exchange the same ones
    used = [p for p, is_wanted in zip(trained, wanted, strict=True) if is_wanted]
    for dtype in dict.fromkeys(p.dtype for p in used):  # a set has another order on another rank
        alike = [p for p in used if p.dtype == dtype]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in alike])
        exchange(dist.all_reduce, flat)
        flat /= world_size()
        for p, part in zip(alike, flat.split([p.numel() for p in alike]), strict=True):
            p.grad = part.view_as(p)  # a view: the old gradients are let go


def same_start(parameters: Sequence[nn.Parameter]) -> None:
    for p in parameters if dist.is_initialized() else ():
        exchange(dist.broadcast, p.data, 0)  # all ranks get those of rank 0
