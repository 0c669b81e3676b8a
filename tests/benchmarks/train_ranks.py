"""Training by two ranks beside one, one thread each: MiniLM on pairs of real text, MultipleNegativesRankingLoss.

python tests/benchmarks/train_ranks.py --rounds 3

The rate is that of the run's own log, texts per second of all ranks, without the start; the median of the steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import MODEL, docstrings

ROOT = Path(__file__).parents[2]
CONFIG = """
output = "run"
[model]
path = "{model}"
[[data]]
files = ["pairs.jsonl"]
columns = {{ anchor = "summary", positive = "body" }}
[train]
batch_size = {batch_size}
max_steps = {steps}
log_every = 1
"""


def write_pairs(file: Path) -> None:
    """The first line of each docstring, and the rest of it."""
    parts = [text.strip().partition("\n") for text in docstrings()]
    rows = [{"summary": summary, "body": body.strip()} for summary, _, body in parts if body.strip()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def rate(folder: Path, ranks: int) -> float:
    """Texts per second, the median over steps but the first."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*launcher, str(ROOT / "train.py"), "--config", "c.toml", "--overwrite"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    lines = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    return statistics.median([line["texts_per_second"] for line in lines][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(folder / "pairs.jsonl")
        (folder / "c.toml").write_text(CONFIG.format(model=MODEL, batch_size=args.batch_size, steps=args.steps))
        found: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(args.rounds):
            for ranks, rates in found.items():
                rates.append(rate(folder, ranks))
    one, two = (statistics.median(rates) for rates in found.values())
    print(f"one rank {one:.1f} texts/s, two ranks {two:.1f} texts/s, {two / one:.2f}x (median of {args.rounds} rounds)")


if __name__ == "__main__":
    main()
