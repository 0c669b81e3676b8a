"""SIGTERM, as schedulers send it before they take the machine away: save, and end well."""

import signal
from types import FrameType

import torch

from minist import distributed


class Interruption:
    """Notices the signal; the loop asks after each step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.noticed = device, False
        signal.signal(signal.SIGTERM, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.noticed = True

    def agreed(self) -> bool:
        """Whether any rank was told to end: all of them must leave at the same step."""
        return distributed.agree(self.noticed, self.device)
