"""SIGTERM is noticed, not obeyed at once."""

import os
import signal

import pytest
import torch

from minist.training.selection import Interruption


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_noticed(handler):
    interruption = Interruption(torch.device("cpu"))
    assert not interruption.agreed()
    os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.agreed()
    assert interruption.agreed()
