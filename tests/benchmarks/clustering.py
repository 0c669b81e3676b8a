"""Communities and paraphrases of given embeddings beside the real library: time, and whether results are equal.

python tests/benchmarks/clustering.py embeddings.npy --rows 50000 --rounds 3
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from side_by_side import alternate, print_table, seconds

from minist.retrieval.clustering import community_detection
from minist.retrieval.paraphrases import paraphrase_mining_embeddings


def equal_pairs(a: list, b: list) -> str:
    """Pairs whose score is that of the last may be these or those; fp32 rounds them in two ways."""
    differ = {(i, j): score for score, i, j in a}.items() ^ {(i, j): score for score, i, j in b}.items()
    pairs = {tuple(p[1:]) for p in a} ^ {tuple(p[1:]) for p in b}
    last = b[-1][0] if b else 0.0
    clear = [score for pair, score in differ if pair in pairs and score > last + 1e-6]
    scores = max((abs(x[0] - y[0]) for x, y in zip(a, b, strict=False)), default=0.0)
    return f"{len(a):,} and {len(b):,} pairs, {len(clear)} differ but for ties with the last, scores by {scores:.1e}"


def equal_communities(a: list, b: list) -> str:
    both = list(zip(a, b, strict=False))
    same, ordered = sum(x[0] == y[0] and {*x} == {*y} for x, y in both), sum(x == y for x, y in both)
    return f"{len(a):,} and {len(b):,} communities, {same:,} of the same centre and rows, {ordered:,} in the same order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", nargs="?", help="an .npy file; random ones say little")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--threshold", type=float, default=0.75)
    parser.add_argument("--max-pairs", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    from sentence_transformers import util

    x = torch.from_numpy(np.load(args.embeddings)[: args.rows]) if args.embeddings else torch.randn(args.rows, 384)
    tasks: dict[str, tuple[Callable[[], list], Callable[[], list], Callable[[list, list], str]]] = {
        "communities": (
            lambda: community_detection(x, args.threshold),
            lambda: util.community_detection(x, args.threshold),
            equal_communities,
        ),
        "paraphrases": (
            lambda: paraphrase_mining_embeddings(x, max_pairs=args.max_pairs),
            lambda: util.paraphrase_mining_embeddings(x, max_pairs=args.max_pairs),
            equal_pairs,
        ),
    }
    times = {}
    for name, (ours, theirs, compare) in tasks.items():
        print(f"{name}: {compare(ours(), theirs())}", flush=True)  # which warms both up
        times[name] = alternate(lambda f=ours: seconds(f), lambda f=theirs: seconds(f), args.rounds)
    print_table(f"{len(x):,} embeddings of width {x.shape[1]}", times)


if __name__ == "__main__":
    main()
