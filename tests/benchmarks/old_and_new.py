"""Speed and memory of two checkouts in turn, this one and an older one: has a change cost anything?

git worktree add ../old COMMIT
python tests/benchmarks/old_and_new.py ../old

all-MiniLM-L6-v2 and docstrings of the standard library, every measurement in a process of its own:

    encode      seconds of `encode` on texts in memory, after a first call that warms up
    train       texts per second of train.py on pairs, the median of its steps but the first
    start       seconds of encode.py on ten lines, start of python and loading of the model included
    memory      the peak resident set of the processes that encode and train

Each side runs once per round, and neither is always the first. Printed are medians, and new over old.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from statistics import median
from subprocess import PIPE, Popen

from side_by_side import MODEL, ROOT, docstrings, processor
from train_ranks import CONFIG, write_pairs

ENCODE = """
import json, sys, time
import minist
model, texts = minist.SentenceTransformer(sys.argv[1]), json.load(open(sys.argv[2], encoding="utf-8"))
model.encode(texts[:64])
started = time.perf_counter()
model.encode(texts)
print(time.perf_counter() - started)
"""


def run(checkout: Path, folder: Path, *command: object) -> tuple[str, float, float]:
    """What a process of that checkout printed, the seconds that it took, and its peak memory in MB."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = Popen([sys.executable, *map(str, command)], cwd=folder, env=environment, stdout=PIPE, text=True)
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"a process of {checkout} failed: what it said stands above")
    return said, time.perf_counter() - started, usage.ru_maxrss / 1024


def measure(checkout: Path, folder: Path) -> dict[str, float]:
    """One round of one side; `folder` holds the texts."""
    said, _, encoding = run(checkout, folder, "-c", ENCODE, MODEL, "texts.json")
    train, encode = checkout / "train.py", checkout / "encode.py"
    _, _, training = run(checkout, folder, train, "--config", "c.toml", "--overwrite")
    steps = map(json.loads, (folder / "run/metrics.jsonl").read_text("utf-8").splitlines())
    rates = [step["texts_per_second"] for step in steps if "texts_per_second" in step]
    _, start, _ = run(checkout, folder, encode, "--model", MODEL, "ten.txt", "--output", "ten.npy")
    return {
        "encode, s": float(said),
        "train, texts/s": median(rates[1:] or rates),
        "start, s": start,
        "memory of encode, MB": encoding,
        "memory of train, MB": training,
    }


def prepare(folder: Path, texts: int, batch_size: int, steps: int) -> None:
    """What both sides read."""
    drawn = random.Random(0).choices(list(docstrings()), k=texts)
    (folder / "texts.json").write_text(json.dumps(drawn), "utf-8")
    (folder / "ten.txt").write_text(
        "".join(f"{' '.join(text.split())}\n" for text in islice(docstrings(), 10)), "utf-8"
    )
    write_pairs(folder / "pairs.jsonl")
    (folder / "c.toml").write_text(CONFIG.format(model=MODEL, batch_size=batch_size, steps=steps), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the folder of the older checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    if not (args.old / "minist/__init__.py").exists():
        sys.exit(f"{args.old} is no checkout of minist: make one with git worktree add {args.old} COMMIT")
    with tempfile.TemporaryDirectory() as name:
        sides: list[tuple[Path, Path, dict[str, list[float]]]] = []
        for side, checkout in (("old", args.old.resolve()), ("new", ROOT)):
            folder = Path(name) / side  # its own, for its run and its token cache
            folder.mkdir()
            prepare(folder, args.texts, args.batch_size, args.steps)
            measure(checkout, folder)  # files are in the page cache, and texts are tokenized, from here on
            sides.append((checkout, folder, defaultdict(list)))
        for number in range(args.rounds):
            for checkout, folder, found in sides if number % 2 == 0 else reversed(sides):
                for what, value in measure(checkout, folder).items():
                    found[what].append(value)
    (_, _, old), (_, _, new) = sides
    print(f"{processor()}, median of {args.rounds} rounds\n\n{'':24}{'old':>10}{'new':>10}{'new / old':>12}")
    for what, values in old.items():
        a, b = median(values), median(new[what])
        print(f"{what:24}{a:>10.2f}{b:>10.2f}{b / a:>11.2f}x")


if __name__ == "__main__":
    main()
