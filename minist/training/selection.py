"""When a run ends, and which of its models stays: the best evaluated one, and SIGTERM."""

import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from minist import distributed
from minist.checks import pick


def falls(metric: str) -> bool:
    """Losses should, all other metrics rise."""
    return metric.endswith("_loss")


def missed(metrics: Mapping[str, float], expected: Mapping[str, float]) -> Iterator[str]:
    """In words, each metric that is not what is expected at least, or of one that falls at most."""
    for name, limit in expected.items():
        value, most = pick("config: a metric in [expect]", name, metrics), falls(name)
        if not (value <= limit if most else value >= limit):  # a value that is no number is neither
            yield f"{name} = {value:.4f}, expected at {'most' if most else 'least'} {limit:g}"


@dataclass
class Selection:
    """Watches one metric; nothing where its name is empty."""

    metric: str
    patience: int
    best: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # all of the best
    step: int = 0  # of the best
    waited: int = 0  # evaluations since then

    def check(self, metrics: Mapping[str, float]) -> None:
        if self.metric:
            pick("config: best in [train]", self.metric, metrics)

    def update(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether the model after `step` is the best so far. A metric that is no number never is."""
        if not self.metric:
            return False
        value, least = metrics[self.metric], falls(self.metric)
        better = math.isfinite(value) and (self.best is None or (value < self.best if least else value > self.best))
        if better:
            self.best, self.step, self.metrics = value, step, dict(metrics)
        self.waited = 0 if better or self.best is None else self.waited + 1  # patience begins with the first number
        return better

    @property
    def stop(self) -> bool:
        return 0 < self.patience <= self.waited

    def state(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("metric", "patience")}

    def load(self, state: Mapping[str, Any]) -> None:
        vars(self).update({key: state[key] for key in self.state()})


class Interruption:
    """Notices SIGTERM, as schedulers send it before they take the machine away; the loop asks after each step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.noticed: list[int] = []  # the signals that came
        signal.signal(signal.SIGTERM, lambda number, frame: self.noticed.append(number))
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        # a handler in python waits until a collective is over; the number of a signal goes to this socket at once
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_end_at_the_second, args=(ours, theirs), daemon=True).start()

    def agreed(self) -> bool:
        return distributed.any_rank([bool(self.noticed)], self.device)[0]  # all must leave at the same step


def _end_at_the_second(ours: socket.socket, theirs: socket.socket) -> None:
    """End at once: a rank that waits for a dead one never comes to ask. `theirs` is held, so that it stays open."""
    heard = 0
    while heard < 2:
        heard += ours.recv(1) == bytes([signal.SIGTERM])
    os._exit(128 + signal.SIGTERM)
