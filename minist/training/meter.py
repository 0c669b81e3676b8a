"""What a run says of itself while it trains: loss, speed, time left."""

import time

from torch import Tensor

from minist import distributed


class Meter:
    """Counts steps, and averages since the last reading."""

    def __init__(self, total: int, step: int) -> None:
        self.total, self.first, self.started = total, step, time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self.losses: list[Tensor] = []  # left on the device: reading each would make every step wait for it
        self.texts, self.tokens, self.since = 0, 0, time.perf_counter()

    def count(self, loss: Tensor, texts: int, tokens: int) -> None:
        """One step is done: its loss, and this rank's number of texts and tokens."""
        self.losses.append(loss.detach())
        self.texts, self.tokens = self.texts + texts, self.tokens + tokens

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

    def line(self, record: dict[str, float]) -> str:
        """A record for the terminal, with the time left."""
        step = int(record["step"])
        left = (time.perf_counter() - self.started) / (step - self.first) * (self.total - step)
        optimization = f"loss {record['loss']:.4f}  lr {record['learning_rate']:.2e}  grad {record['grad_norm']:.2f}"
        speed = f"{record['texts_per_second']:,.0f} texts/s  {record['tokens_per_second']:,.0f} tokens/s"
        remaining = f"{int(left) // 60}:{int(left) % 60:02d} left"
        return f"step {step:>{len(str(self.total))}}/{self.total}  {optimization}  {speed}  {remaining}"
