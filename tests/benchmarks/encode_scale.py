"""encode.py on many lines: peak memory at 20,000 and 200,000 of them, and two processes beside one.

python tests/benchmarks/encode_scale.py --small runs/quickstart/model

Every process has one thread, its tokenizer too. The lines are those of docstrings of the standard library with
a number behind each, so that no two are equal. Memory is the peak resident set of the process; time is that of
the whole command, start and loading of the model included.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import MODEL, docstrings

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


def write_lines(file: Path, count: int) -> None:
    lines = [line for text in docstrings() for line in text.splitlines() if line.strip()]
    draw = random.Random(0)
    with open(file, "w", encoding="utf-8") as stream:
        stream.writelines(f"{draw.choice(lines)} {number}\n" for number in range(count))


def encode(model: str, file: Path, launcher: list[str]) -> tuple[float, float]:
    """Seconds, and the peak memory in MB of the largest process so far."""
    started = time.perf_counter()
    output = str(file.with_suffix(".npy"))
    command = [*launcher, str(ROOT / "encode.py"), str(file), "--model", model, "--output", output]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | ONE_THREAD)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", default="runs/quickstart/model", help="the model of the 200,000 lines")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    one, two = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few.txt", Path(folder) / "many.txt"
        write_lines(few, 20_000)
        write_lines(many, 200_000)
        _, memory_few = encode(args.small, few, one)  # before the longer one: the peak never falls
        _, memory_many = encode(args.small, many, one)
        print(f"peak memory: 20,000 lines {memory_few:.0f} MB, 200,000 lines {memory_many:.0f} MB, ", end="")
        print(f"{memory_many - memory_few:+.0f} MB", flush=True)
        for model, file in ((args.small, many), (str(MODEL), few)):
            alone, shared = [], []
            for _ in range(args.rounds):
                alone.append(encode(model, file, one)[0])
                shared.append(encode(model, file, two)[0])
            a, b = statistics.median(alone), statistics.median(shared)
            print(f"{model}, {file.stem} lines, {args.rounds} rounds: ", end="")
            print(f"one process {a:.1f} s, two processes {b:.1f} s, {a / b:.2f}x", flush=True)


if __name__ == "__main__":
    main()
