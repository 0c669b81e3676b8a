"""A million rows of two columns: the first preparation, and a second start up to the first batch.

python tests/benchmarks/second_start.py

The rows are pairs of lines of docstrings of the standard library with a number behind each, so that no two are
equal. The second start is a fresh process: start of python, imports, the tokenizer, the hash of the file, opening
the data set, the samplers' keys, and one batch of 64 random rows. Memory is the peak resident set of the process.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import MODEL, ROOT, docstrings, processor

START = """
import sys
import time
from pathlib import Path
import torch
from minist.data.dataset import Dataset, dataset_folder, prepare_dataset
from minist.data.text_column import ColumnSpec
from minist.data.tokenizer import Tokenizer
from tokenizers import Tokenizer as Backend

file, tokenizer, folder = map(Path, sys.argv[1:])
tokenizer = Tokenizer(Backend.from_file(str(tokenizer)), 128)
started = time.perf_counter()
columns = {"anchor": ColumnSpec("q", tokenizer), "positive": ColumnSpec("d", tokenizer, "passage: ")}
place = dataset_folder(folder / "cache", [file], columns, "score")
if not place.exists():
    prepare_dataset(place, [file], columns, "score")
data = Dataset(place)
keys = data.keys()
rows = torch.randint(len(data), (64,))
data.take(rows), data.labels(rows)
print(data.describe())
print(time.perf_counter() - started)
"""


def write_rows(file: Path, count: int) -> None:
    lines = [line.strip() for text in docstrings() for line in text.splitlines() if line.strip()]
    draw = random.Random(0)
    with open(file, "w", encoding="utf-8") as stream:
        for i in range(count):
            row = {"q": f"{draw.choice(lines)} {i}", "d": f"{draw.choice(lines)} {i}", "score": draw.random()}
            stream.write(json.dumps(row) + "\n")


def start(file: Path) -> tuple[str, str]:
    """What a fresh process read, and what it took."""
    started = time.perf_counter()
    command = [sys.executable, "-c", START, str(file), str(MODEL / "tokenizer.json"), str(file.parent)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("the process failed")
    described, inner = said.splitlines()
    seconds, busy = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    without = f"{float(inner):.2f} s without imports and tokenizer"
    return described, f"{seconds:.2f} s, {without}, {busy:.2f} s of processors, {usage.ru_maxrss / 1024:.0f} MB at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, args.rows)
        for name in ("first preparation", "second start"):
            described, took = start(file)
            if name.startswith("first"):
                print(f"{described}, {file.stat().st_size / 1e6:.0f} MB of jsonl; {processor()}")
            print(f"{name}: {took}", flush=True)


if __name__ == "__main__":
    main()
