"""Hard negative mining beside the real library: time and memory, for docstrings.

python tests/benchmarks/mining.py --documents 39000 --model runs/quickstart/model

Each library runs in processes of its own: first from the texts, then again with the embeddings it has kept, which is
the mining alone. Memory is the peak of this second run above what the process had before, without the embeddings.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import MODEL, ROOT, docstrings, processor

OPTIONS = {"relative_margin": 0.05, "num_negatives": 5, "output_format": "labeled-pair"}


def make_texts(queries: int, documents: int) -> tuple[list[str], list[str]]:
    """First lines of docstrings, and whole ones, with a number before each, so that no two are equal."""
    found, draw = list(docstrings()), random.Random(0)
    texts = [draw.choice(found) for _ in range(documents)]
    asked = [text.splitlines()[0] for text in texts[:queries]]
    return [f"{i} {text}" for i, text in enumerate(asked)], [f"{i} {text}" for i, text in enumerate(texts)]


def ours(queries: Sequence[str], documents: Sequence[str], folder: str, args: argparse.Namespace) -> int:
    from minist import SentenceTransformer
    from minist.retrieval.mining import Options, mine_hard_negatives

    model = SentenceTransformer(args.model, device="cpu")
    options = Options(cache_folder=folder, memory_mb=args.memory_mb, **OPTIONS)
    rows, _ = mine_hard_negatives(model, queries, documents[: len(queries)], documents, options)
    return len(rows)


def theirs(queries: Sequence[str], documents: Sequence[str], folder: str, args: argparse.Namespace) -> int:
    import sentence_transformers
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    model = sentence_transformers.SentenceTransformer(str(args.model), device="cpu")
    pairs = Dataset.from_dict({"query": queries, "positive": documents[: len(queries)]})
    return len(mine_hard_negatives(pairs, model, corpus=documents, cache_folder=folder, verbose=False, **OPTIONS))


SIDES = {"minist": ours, "sentence-transformers": theirs}


def peak() -> float:
    """The largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(side: str, args: argparse.Namespace) -> None:
    """Print seconds, and MB beside the embeddings."""
    queries, documents = make_texts(args.queries, args.documents)
    with TemporaryDirectory() as empty:
        SIDES[side](queries[:10], documents[:100], empty, args)  # what is loaded once
    before, started = peak(), time.perf_counter()
    rows = SIDES[side](queries, documents, args.cache, args)
    width = json.loads((args.model / "config.json").read_text())["hidden_size"]
    embeddings = (len(queries) + len(documents)) * width * 4 / 2**20
    print(f"{time.perf_counter() - started:.1f} {peak() - before - embeddings:.0f} {rows}")


def run(side: str, cache: str, args: argparse.Namespace) -> tuple[float, float, int]:
    sizes = [
        f"--documents={args.documents}",
        f"--queries={args.queries}",
        f"--memory-mb={args.memory_mb}",
        f"--model={args.model.resolve()}",
    ]
    command = [sys.executable, __file__, *sizes, f"--side={side}", f"--cache={cache}"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    seconds, memory, rows = done.stdout.splitlines()[-1].split()
    return float(seconds), float(memory), int(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder that both libraries open")
    parser.add_argument("--documents", type=int, default=39_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--memory-mb", type=int, default=256, help="what ours may take beside the embeddings")
    parser.add_argument("--side", choices=SIDES, help="one library, measured in this process")
    parser.add_argument("--cache", help="the folder of its embeddings")
    args = parser.parse_args()
    if args.side:
        return measure(args.side, args)
    print(f"{args.queries:,} queries, {args.documents:,} documents, {args.model.name}, {processor()}", flush=True)
    times = {}
    for side in SIDES:
        with TemporaryDirectory() as cache:
            times[side], _, rows = run(side, cache, args)
            again, memory, _ = run(side, cache, args)
        print(f"{side:22} {times[side]:8.1f} s, {again:.1f} s of it without embedding, ", end="")
        print(f"{memory:,.0f} MB beside the embeddings, {rows:,} rows", flush=True)
    print(f"{times['sentence-transformers'] / times['minist']:.2f} times faster")


if __name__ == "__main__":
    main()
