"""What the steps of a run cost: their time, by a clock, and the memory of the largest, as CUDA or Linux counts it.

The steps are those of train.py, with a learning rate of 0: nothing is left out, and no weight changes. A batch that is
too large to be tried is reckoned by a part of it."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minist import distributed
from minist.data.samplers import Place
from minist.models.device import total_memory
from minist.progress import progress_bar
from minist.training.checkpoint import Trained
from minist.training.run import Run

Trial = tuple[int, float]  # tokens of a step, and seconds
TakeStep = Callable[[Run, Place], Any]  # that of train.py
PART, LEAST = 2048, 4  # tokens of a batch that is too large to be tried whole; rows of it at least, on each rank
TIMED = 5  # steps of each data set
STEP_SECONDS, SECONDS = 8.0, 15.0  # of one step that is tried whole, and of all that are timed
FULL = 0.8  # of the machine's memory: a batch that needs more is not tried
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


class Measured(NamedTuple):
    """What the steps of a run cost."""

    seconds: float  # of all of them
    steps: int  # that were timed
    whole: bool  # whole batches, or parts of them, by which the whole was reckoned
    rate: float  # tokens per second
    peak: int  # bytes that a rank holds at most; 0: the system does not say
    largest: Place  # the step with the most tokens
    tokens: int  # of it


def measure(run: Run, take_step: TakeStep, places: Sequence[Place]) -> Measured:
    """The largest batch for the memory, and the first ones for the time: whole, unless they are too large to try."""
    for group in run.trained.optimizer.param_groups:
        group["initial_lr"] = 0.0  # with which train.py's steps leave the weights as they are
    totals = [max(1, int(tokens_of(run, place).sum())) for place in places]
    largest, tokens = places[totals.index(max(totals))], max(totals)
    start = held(run.device)
    attempt(run, take_step, largest, PART // 4)  # the first step of a process is slow
    reset_peak(run.device)
    tried, seconds = attempt(run, take_step, largest, PART)
    most = run.setup.max_tokens or tokens  # of which activations are held at once
    fixed = start + bytes_of(run.trained).state
    needed = fixed + int(max(0, peak(run.device) - fixed) * max(1.0, min(most, tokens) / min(most, tried)))
    too_large = needed * local_ranks(run.device) > FULL * total_memory(run.device)
    whole = not any(distributed.any_rank([too_large, tokens * seconds / tried > STEP_SECONDS], run.device))
    if whole:
        attempt(run, take_step, largest, tokens)
        needed = peak(run.device)
    timed = time_steps(run, take_step, places, tokens if whole else PART)
    rates = {i: sum(s for _, s in tried) / sum(n for n, _ in tried) for i, tried in timed.items()}
    mean = sum(rates.values()) / len(rates)  # seconds of a token; of a set that no step was left for
    total = sum(rates.get(place.dataset, mean) * n for place, n in zip(places, totals, strict=True))
    all_steps, count = total * run.batches.total / len(places), sum(map(len, timed.values()))
    return Measured(all_steps, count, whole, sum(totals) / total, needed, largest, tokens)


def time_steps(run: Run, take_step: TakeStep, places: Sequence[Place], most: int) -> dict[int, list[Trial]]:
    """The first steps of each data set; the sets take turns, in case that time runs out."""
    firsts = [[place for place in places if place.dataset == i][:TIMED] for i in range(len(run.tasks))]
    turns = [place for places in zip_longest(*firsts) for place in places if place]
    found: dict[int, list[Trial]] = {}
    started = time.perf_counter()
    with progress_bar(len(turns), "steps", "timing") as bar:
        for place in turns:
            found.setdefault(place.dataset, []).append(attempt(run, take_step, place, most))
            bar.update(1)
            if distributed.any_rank([time.perf_counter() - started > SECONDS], run.device)[0]:
                break
    return found


def attempt(run: Run, take_step: TakeStep, place: Place, most: int) -> Trial:
    """One step on the first rows of a batch that have no more than `most` tokens: their tokens, and seconds."""
    lengths = tokens_of(run, place)
    rows = max(LEAST * distributed.world_size(), int((lengths.cumsum(0) <= most).sum()))
    started = time.perf_counter()
    take_step(run, place._replace(rows=place.rows[:rows]))
    return max(1, int(lengths[:rows].sum())), time.perf_counter() - started


def tokens_of(run: Run, place: Place) -> Tensor:
    return run.tasks[place.dataset].rows.dataset.tokens(place.rows)  # [rows]


class Bytes(NamedTuple):
    """What a run holds whatever its batches are."""

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
