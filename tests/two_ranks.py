"""Two processes on this machine that form a world, for the tests that hold them against one."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from minist import distributed

WORLD = 2
SECONDS = 240  # for all of it: ranks that wait for each other for ever are a failure, and no end of the tests


def run_ranks(work: Callable[[int, Path], None], folder: Path, limit: timedelta = distributed.LIMIT) -> None:
    """Call `work(rank, folder)` in two processes, as torchrun would start them. Its error is one here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = multiprocessing.spawn(_join, (port, work, folder, limit), nprocs=WORLD, join=False)
    end = time.monotonic() + SECONDS
    try:
        while not ranks.join(timeout=1):
            assert time.monotonic() < end, f"the ranks are not through after {SECONDS} seconds"
    finally:
        for process in ranks.processes:
            process.kill()


def _join(rank: int, port: int, work: Callable[[int, Path], Any], folder: Path, limit: timedelta) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    assert distributed.start(limit) == (rank, WORLD, torch.device("cpu"))
    work(rank, folder)
    distributed.barrier()
    distributed.stop()
