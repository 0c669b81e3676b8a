"""What a run says of itself, and the progress bar."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minist import progress
from minist.data.packed import Packed
from minist.models.device import total_memory
from minist.training import log as module
from minist.training.log import Meter, peak_memory

COLUMNS = [Packed.of(torch.arange(20), torch.tensor([5] * 4)), Packed.of(torch.arange(30), torch.tensor([6, 8, 9, 7]))]


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_means_since_the_last_reading(clock):
    meter = Meter(10, 0)
    for loss in (1.0, 2.0, 6.0):
        meter.count(torch.tensor(loss, requires_grad=True), {"a": torch.tensor(loss - 1)}, COLUMNS)
    clock[0] += 2
    means = {"loss": 3.0, "texts_per_second": 12.0, "tokens_per_second": 75.0}
    assert meter.read() == (means, {"a": 2.0})
    meter.count(torch.tensor(5.0), {}, COLUMNS)
    clock[0] += 4 + 30
    meter.since += 30
    assert meter.read() == ({"loss": 5.0, "texts_per_second": 2.0, "tokens_per_second": 12.5}, {})


def test_line_of_a_resumed_run(clock):
    meter = Meter(total=100, step=40)
    clock[0] += 20  # 10 steps in 20 s: 50 more take 100 s
    record = {"step": 50, "loss": 1.5, "learning_rate": 1e-3, "grad_norm": 2.0}
    record |= {"texts_per_second": 1234.0, "tokens_per_second": 56789.0}
    line = "step  50/100  loss 1.5000  lr 1.00e-03  grad 2.00  1,234 texts/s  56,789 tokens/s  1:40 left"
    assert meter.lines(record, {}, {}) == [line]
    found = meter.lines(record, {"wide": 1.0, "cut": 0.5}, {"accuracy": 0.25, "cut_anchor": 3})
    assert found == [line, "       parts  wide 1.000  cut 0.500", "       batch  accuracy 0.250  cut_anchor 3"]


@pytest.mark.parametrize(("show", "seen"), [(True, True), (False, False), (None, False)])
def test_progress_bar(capsys, show, seen):
    """By itself only where a person watches a terminal, which a test is not."""
    with progress.progress_bar(3, "texts", "encoding", show) as bar:
        bar.update(3)
    assert ("encoding" in capsys.readouterr().err) == seen


def test_peak_memory(monkeypatch):
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # that it has now
    now = pages * os.sysconf("SC_PAGE_SIZE")  # the system counts it in other steps than the peak
    assert 0.9 * now <= peak_memory(torch.device("cpu")) <= total_memory(torch.device("cpu"))
    monkeypatch.setattr(module, "STATUS", Path("/nowhere"))  # as on macOS
    assert 0.9 * now <= peak_memory(torch.device("cpu")) <= total_memory(torch.device("cpu"))


@pytest.mark.slow
def test_the_peak_is_that_of_this_process_since_the_last_reset():
    """On Linux getrusage counts what the parent held, too: a large one starts another, which has a peak of its own."""
    child = "from minist.training.log import *; cpu = torch.device('cpu'); before = peak_memory(cpu); "
    child += "x = torch.ones(2**27); held = peak_memory(cpu); del x; reset_peak_memory(cpu); "
    child += "print(before, held, peak_memory(cpu))"
    large = torch.ones(2**28)  # 1 GB
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    before, held, after = map(int, done.stdout.split())
    assert before < large.nbytes and held > before + 2**28 and after < held - 2**28
