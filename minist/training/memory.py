"""Memory of a run: what weights and optimizer take, and what the process holds, as CUDA or Linux counts it."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minist.training.checkpoint import Trained

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


class Bytes(NamedTuple):
    weights: int
    gradients: int  # of what is trained
    optimizer: int  # AdamW's two means of each

    @property
    def state(self) -> int:
        return self.gradients + self.optimizer  # that is not there before the first step


def bytes_of(trained: Trained) -> Bytes:
    everything = [*trained.model.parameters(), *trained.losses.parameters()]
    gradients = _size(p for p in everything if p.requires_grad)
    return Bytes(_size(everything), gradients, 2 * gradients)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def peak(device: torch.device) -> int:
    """Bytes held at most since `reset_peak`; 0 on a system that does not say."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # where it may not be written, the peak is that since the process began
        RESET.write_text("5")


def _status(field: str) -> int:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)  # "VmRSS:   123 kB"


def local_ranks(device: torch.device) -> int:
    """Ranks that share the memory of `device`."""
    return 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def text_of(size: int) -> str:
    return f"{size / 2**20:,.0f} MB" if size < 10 * 2**30 else f"{size / 2**30:,.0f} GB"
