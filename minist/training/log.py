"""What a run says while it trains: loss, speed, time left, figures of the batch, and a warning of collapse."""

import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minist import collectives
from minist.data.packed import Packed

LEGEND = 'log    loss, its parts and texts/s: means since the line before; lr, grad and "batch": of the last batch'
ALIKE = -0.04  # uniformity above: the mean cosine of different texts is about 0.99
APART = -0.2  # uniformity below: about 0.95
STATUS = Path("/proc/self/status")  # of Linux
LOOKS = 3  # some encoders start alike (RoBERTa's tokens share a direction) and part in the first steps


class Meter:
    """Averages since the last reading."""

    def __init__(self, total: int, step: int) -> None:
        self.total, self.first, self.started, self.watch = total, step, time.perf_counter(), CollapseWatch()
        self._reset()

    def _reset(self) -> None:
        self.steps, self.texts, self.tokens, self.since = 0, 0, 0, time.perf_counter()
        self.loss: Tensor | float = 0.0  # stays on the device, which a reading in each step would make wait
        self.parts: dict[str, Tensor | float] = {}

    def count(self, loss: Tensor, parts: Mapping[str, Tensor], columns: Sequence[Packed]) -> None:
        """One step is done: its loss, the parts that add up to it, and this rank's texts."""
        self.steps, self.loss = self.steps + 1, self.loss + loss.detach().double()
        for name, part in parts.items():
            self.parts[name] = self.parts.get(name, 0.0) + part.double()
        self.texts += sum(column.n for column in columns)
        self.tokens += sum(len(column.input_ids) for column in columns)

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Means since the last reading: loss, texts and tokens per second of all ranks together; the loss's parts."""
        seconds = time.perf_counter() - self.since
        own = torch.tensor([[self.texts, self.tokens]], device=torch.as_tensor(self.loss).device)
        texts, tokens = collectives.gather(own).sum(0).tolist()
        values = {"loss": float(self.loss) / self.steps}
        values |= {"texts_per_second": texts / seconds, "tokens_per_second": tokens / seconds}
        # a part counts as 0 in the steps of other losses, so that the parts add up to the loss
        parts = {name: float(part) / self.steps for name, part in self.parts.items()}
        self._reset()
        return values, parts

    def lines(self, main: Mapping[str, Any], parts: Mapping[str, float], batch: Mapping[str, Any]) -> list[str]:
        """For the terminal: the step with the time left, the loss's parts, figures of the last batch, a warning."""
        step = int(main["step"])
        left = int((time.perf_counter() - self.started) / (step - self.first) * (self.total - step))  # seconds
        optimization = f"loss {main['loss']:.4f}  lr {main['learning_rate']:.2e}  grad {main['grad_norm']:.2f}"
        speed = f"{main['texts_per_second']:,.0f} texts/s  {main['tokens_per_second']:,.0f} tokens/s"
        start = f"step {step:>{len(str(self.total))}}/{self.total}"
        found = [f"{start}  {optimization}  {speed}  {left // 60}:{left % 60:02d} left"]
        for title, figures in (("parts", parts), ("batch", batch)):
            texts = [f"{name} {v:.3f}" if isinstance(v, float) else f"{name} {v}" for name, v in figures.items()]
            if texts:
                found.append(f"{title:>{len(start)}}  {'  '.join(texts)}")
        return [*found, *filter(None, [self.watch.see(batch)])]


def peak_memory(device: torch.device) -> int:
    """Bytes, the most since `reset_peak_memory`: of tensors on a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # first what Linux says: there getrusage counts what the process held that has started this one, too
    if found := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # where it may not be written, the peak is that since the process began
        STATUS.with_name("clear_refs").write_text("5")


class CollapseWatch:
    """Says once that training has collapsed: all texts are embedded alike, and pairs are no longer told apart."""

    looks = 0  # that found it so

    def see(self, figures: Mapping[str, float]) -> str:
        spread = figures.get("uniformity", (ALIKE + APART) / 2)  # unknown: neither alike nor apart
        if spread < APART:
            self.looks = 0  # it may be said again
        alike = spread > ALIKE and figures.get("accuracy", 0.0) <= 0.5
        self.looks += alike
        if not alike or self.looks != LOOKS:
            return ""
        hint = "training has collapsed; try a lower learning rate or more warmup"
        return f"warning: all embeddings are alike (uniformity {spread:.3f}, 0 is the worst): {hint}"
