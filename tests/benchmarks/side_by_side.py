"""What the benchmarks share: rounds that alternate between ours and theirs, and the table of their medians."""

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # where train.py is, and where the tests have their texts

from models import MODELS, docstrings  # noqa: E402

from minist.models.device import has_instructions  # noqa: E402

__all__ = ["MODEL", "ROOT", "alternate", "alternate_all", "docstrings", "instructions", "print_table", "seconds"]

MODEL = MODELS / "all-MiniLM-L6-v2"
if not (MODEL / "config.json").exists():
    sys.exit("run python tests/fetch_models.py")

Times = tuple[list[float], list[float]]


def alternate(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Times:
    """Seconds of each round. Each side says its own, so that it can prepare before its clock starts."""
    a, b = alternate_all((ours, theirs), rounds)
    return a, b


def alternate_all(runs: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Seconds of each round of each side; every other round goes backwards."""
    times: list[list[float]] = [[] for _ in runs]
    for number in range(rounds):
        sides = list(zip(runs, times, strict=True))
        for run, found in sides if number % 2 == 0 else reversed(sides):  # neither is always the first
            found.append(run())
    return times


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def print_table(title: str, rows: dict[str, Times]) -> None:
    """Medians, and how many times faster ours is."""
    rounds = len(next(iter(rows.values()))[0])
    print(f"\n{title}\n{date.today()}, {processor()}, median of {rounds} rounds\n")
    print(f"{'':12}{'minist':>10}{'sentence-transformers':>24}{'ratio':>8}")
    for name, (ours, theirs) in rows.items():
        print(f"{name:12}{median(ours):>8.2f} s{median(theirs):>22.2f} s{median(theirs) / median(ours):>7.2f}x")


def processor() -> str:
    """The name of the CPU, and how many of it there are."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def instructions() -> str:
    """Those that decide how fast a CPU multiplies."""
    known = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return " ".join(name for name in known if has_instructions(name)) or "instructions unknown"
