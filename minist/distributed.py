"""All of torch.distributed that the project uses. One process is simply a world of one.

The arithmetic of W ranks: rank r takes the r-th contiguous share of a batch's rows, `gather` gives
every rank the embeddings of all of them, so every rank computes the same global loss. Backward
through `gather` hands each rank the gradient of its own rows times W, and DDP's average over ranks
divides by W again: the parameters get exactly the gradient that one process would have computed.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start() -> tuple[int, int, torch.device]:
    """Join the process group that torchrun describes. Returns rank, world size W, and this rank's device."""
    rank, world, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return rank, max(world, 1), device


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of ranks, W."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 to W-1."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def wrap(model: nn.Module) -> nn.Module:
    """DDP round `model`: gradients are averaged over ranks during backward."""
    return nn.parallel.DistributedDataParallel(model) if dist.is_initialized() else model


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of `module`, a loss with parameters of its own, over ranks."""
    for parameter in module.parameters():
        if dist.is_initialized() and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def total(value: float) -> float:
    """The sum of `value` over ranks."""
    return float(sum(gather_objects(value)))


def gather_objects(value: Any) -> list[Any]:
    """One python object from each rank, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, [n_r, ..] -> [n_0 + .. + n_W-1, ..]; ranks may hold different numbers."""
    if not dist.is_initialized():
        return x
    counts = gather_objects(len(x))
    return _Gather.apply(x, counts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = grad.split(ctx.counts)[rank()]
        return own * len(ctx.counts), None
