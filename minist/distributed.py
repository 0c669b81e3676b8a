"""All of torch.distributed that the project uses. One process is simply a world of one.

The arithmetic of W ranks: rank r takes the r-th contiguous share of a batch's rows, `gather` gives every rank the
embeddings of all of them, so every rank computes the same global loss. Backward through `gather` hands each rank the
gradient of its own rows times W, and the average over ranks divides by W again: the parameters get exactly the
gradient that one process would have computed.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

LIMIT = timedelta(minutes=10)  # for a collective: a rank that is so late has died
_patient: Any = None  # the process group of `barrier`: what takes any time, as an evaluation, is waited for there


def start(limit: timedelta = LIMIT) -> tuple[int, int, torch.device]:
    """Join the process group that torchrun describes. Returns rank, world size W, and this rank's device."""
    global _patient
    rank, world, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=limit)
        _patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))  # of the CPU: a GPU's own has the limit
    return rank, max(world, 1), device


def stop() -> None:
    """Leave the process group, all ranks together: one that leaves early may crash on its way out."""
    if dist.is_initialized():
        barrier()
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def prepare_once(file: Path, make: Callable[[], object]) -> None:
    """The first process of each machine calls `make`, unless `file` is there; the others wait until it is."""
    if os.environ.get("LOCAL_RANK", "0") == "0" and not file.exists():
        make()
    while not file.exists():  # not in a collective: it may take hours
        time.sleep(0.1)


def barrier() -> None:
    """Wait for all ranks, however long they take; one that died ends the wait with a ConnectionError."""
    if dist.is_initialized():
        work = _exchange(dist.barrier, _patient, True)  # True: do not wait in there
        while not work.is_completed():  # asked again and again, so that python hears a signal meanwhile
            time.sleep(0.002)
        _exchange(work.wait)


def _exchange(collective: Callable[..., Any], *arguments: Any) -> Any:
    """Call a collective: what fails in it is the connection to another rank, and not this rank's work."""
    try:
        return collective(*arguments)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # of this rank, and seen late: a GPU works ahead
        raise
    except RuntimeError as e:
        reason = str(e).strip().partition("\n")[0]
        raise ConnectionError(f"rank {rank()} lost another rank: {reason}") from e


@contextmanager
def contact(what: str) -> Iterator[None]:
    """A lost rank was lost at `what`, and so its ConnectionError says; all other errors stay as they are."""
    try:
        yield
    except ConnectionError as e:
        raise ConnectionError(str(e).replace("another rank:", f"another rank at {what}:", 1)) from e


def wrap(model: nn.Module, *, has_routes: bool) -> nn.Module:
    """DDP round `model`: its gradients are averaged over ranks while backward still makes others.

    DDP waits for a gradient of every parameter. A rank without rows gives zeros, since our modules keep their weights
    in the graph without texts too, see attention.py; but of routes a batch may use one alone, and then DDP must look.
    """
    if not dist.is_initialized() or not any(p.requires_grad for p in model.parameters()):
        return model
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=has_routes)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over ranks in one exchange. One that a rank lacks counts as zero, if another rank has it."""
    if not dist.is_initialized():
        return
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    wanted = any_rank([p.grad is not None for p in trained], trained[0].device)  # ranks must exchange the same ones
    used = [p for p, is_wanted in zip(trained, wanted, strict=True) if is_wanted]
    for dtype in dict.fromkeys(p.dtype for p in used):  # a set has another order on another rank
        alike = [p for p in used if p.dtype == dtype]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in alike])
        _exchange(dist.all_reduce, flat)
        flat /= world_size()
        for p, part in zip(alike, flat.split([p.numel() for p in alike]), strict=True):
            p.grad = part.view_as(p)  # a view: the old gradients are let go


def same_start(parameters: Sequence[nn.Parameter]) -> None:
    """Those of rank 0 on all ranks."""
    for p in parameters if dist.is_initialized() else ():
        _exchange(dist.broadcast, p.data, 0)


def any_rank(wishes: Sequence[bool], device: torch.device) -> list[bool]:
    """For each wish, whether a rank has it."""
    found = torch.tensor(wishes, dtype=torch.int32, device=device)
    if dist.is_initialized():
        _exchange(dist.all_reduce, found, dist.ReduceOp.MAX)
    return [bool(x) for x in found.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """One python object from each rank, in rank order, on every rank."""
    values = [value] * world_size()
    if dist.is_initialized():
        _exchange(dist.all_gather_object, values, value)
    return values


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, [n_r, ..] -> [n_0 + .. + n_W-1, ..]; ranks may hold different numbers."""
    if not dist.is_initialized():
        return x
    counts = x.new_empty(world_size(), dtype=torch.long)
    _exchange(dist.all_gather, list(counts.split(1)), torch.tensor([len(x)], device=x.device))
    return _Gather.apply(x, counts.tolist())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = x.new_zeros(max(counts), *x.shape[1:])  # all_gather wants equal shapes
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        _exchange(dist.all_gather, parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = grad.split(ctx.counts)[rank()]  # every rank has the whole gradient: nothing is exchanged
        return own * len(ctx.counts), None  # times W, since the average over ranks divides by W
