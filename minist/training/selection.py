"""Which of the evaluated models is the best one, and when to stop because none gets better."""

from collections.abc import Mapping
from typing import Any


class Selection:
    """Watches one metric; nothing where its name is empty. Losses should fall, all other metrics rise."""

    def __init__(self, metric: str, patience: int) -> None:
        self.metric, self.patience = metric, patience
        self.best: float | None = None
        self.metrics: dict[str, float] = {}  # all of the best
        self.step = 0  # of the best
        self.waited = 0  # evaluations since then

    def check(self, metrics: Mapping[str, float]) -> None:
        """ValueError if the evaluations do not give the metric."""
        if self.metric and self.metric not in metrics:
            raise ValueError(f"config: best in [train] is {self.metric!r}, the evaluations give {', '.join(metrics)}")

    def update(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether the model after `step` is the best so far."""
        if not self.metric:
            return False
        value = metrics[self.metric]
        better = self.best is None or (value < self.best if self.metric.endswith("_loss") else value > self.best)
        if better:
            self.best, self.step, self.metrics = value, step, dict(metrics)
        self.waited = 0 if better else self.waited + 1
        return better

    @property
    def stop(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.waited

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "step": self.step, "waited": self.waited, "metrics": self.metrics}

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.step, self.waited = state["best"], state["step"], state["waited"]
        self.metrics = state["metrics"]
