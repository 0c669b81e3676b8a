"""What a run says of itself while it trains: loss, speed, time left."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from minist import distributed
from minist.data.packed import Packed

MAIN = ("step", "loss", "learning_rate", "grad_norm", "texts_per_second", "tokens_per_second")


class Meter:
    """Counts steps, and averages since the last reading."""

    def __init__(self, total: int, step: int) -> None:
        self.total, self.first, self.started = total, step, time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self.losses: list[Tensor] = []  # left on the device: reading each would make every step wait for it
        self.texts, self.tokens, self.since = 0, 0, time.perf_counter()

    def count(self, loss: Tensor, columns: Sequence[Packed]) -> None:
        """One step is done: its loss, and this rank's texts."""
        self.losses.append(loss.detach())
        self.texts += sum(column.n for column in columns)
        self.tokens += sum(len(column.input_ids) for column in columns)

    def leave_out(self, seconds: float) -> None:
        """Time that went by without training, as in an evaluation: texts per second do not count it."""
        self.since += seconds

    def read(self) -> dict[str, float]:
        """Mean loss, texts and tokens per second of all ranks since the last reading. All ranks call it together."""
        seconds = time.perf_counter() - self.since
        values = {
            "loss": sum(loss.item() for loss in self.losses) / len(self.losses),
            "texts_per_second": distributed.total(self.texts) / seconds,
            "tokens_per_second": distributed.total(self.tokens) / seconds,
        }
        self._reset()
        return values

    def lines(self, record: Mapping[str, Any]) -> list[str]:
        """A record for the terminal: the step with the time left, then parts of the loss and figures of the batch."""
        step = int(record["step"])
        left = (time.perf_counter() - self.started) / (step - self.first) * (self.total - step)
        optimization = f"loss {record['loss']:.4f}  lr {record['learning_rate']:.2e}  grad {record['grad_norm']:.2f}"
        speed = f"{record['texts_per_second']:,.0f} texts/s  {record['tokens_per_second']:,.0f} tokens/s"
        remaining = f"{int(left) // 60}:{int(left) % 60:02d} left"
        start = f"step {step:>{len(str(self.total))}}/{self.total}"
        more = {name: value for name, value in record.items() if name not in MAIN}
        texts = [f"{name} {v:.3f}" if isinstance(v, float) else f"{name} {v}" for name, v in more.items()]
        indent = " " * len(start)
        return [f"{start}  {optimization}  {speed}  {remaining}", *([f"{indent}  {'  '.join(texts)}"] if texts else [])]
