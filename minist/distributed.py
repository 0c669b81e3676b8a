"""The processes of a run: who they are, how they start, wait for one another, and end. One alone is a world of one."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LIMIT = timedelta(minutes=10)  # for a collective: a rank that is so late has died
_patient: Any = None  # the process group of `barrier`: what takes any time, as an evaluation, is waited for there


def start(limit: timedelta = LIMIT) -> tuple[int, int, torch.device]:
    """Join the process group that torchrun describes. Returns rank, world size W, and this rank's device.
    On a CPU, ranks share its cores."""
    global _patient
    rank, world, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        there = torch.cuda.device_count()
        if here > there:
            advice = "start as many processes, or hide the GPUs: CUDA_VISIBLE_DEVICES= torchrun .."
            raise ValueError(f"{here} processes of this machine share {there} GPU: {advice}")
        torch.cuda.set_device(device)
    else:  # ranks with more threads than there are cores, as OMP_NUM_THREADS may ask, take turns: twice the time
        torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // here)))
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=limit)
        _patient = dist.new_group(backend="gloo", timeout=timedelta(days=30))  # of the CPU: a GPU's own has the limit
    return rank, max(world, 1), device


def stop() -> None:
    if dist.is_initialized():
        barrier()  # all ranks leave together: one that leaves early may crash on its way out
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
        work = exchange(dist.barrier, _patient, True)  # True: do not wait in there
        while not work.is_completed():  # asked again and again, so that python hears a signal meanwhile
            time.sleep(0.002)
        exchange(work.wait)


def exchange(collective: Callable[..., Any], *arguments: Any) -> Any:
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


def any_rank(wishes: Sequence[bool], device: torch.device) -> list[bool]:
    found = torch.tensor(wishes, dtype=torch.int32, device=device)
    if dist.is_initialized():
        exchange(dist.all_reduce, found, dist.ReduceOp.MAX)
    return [bool(x) for x in found.tolist()]
