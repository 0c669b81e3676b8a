"""Exact search beside the real library: time, memory, and what search among codes finds of it.

python tests/benchmarks/semantic_search.py --documents 1000000 --embeddings real.npy

Times alternate in one process. Memory is the peak of a process of its own above what it had before, inputs included.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from side_by_side import ROOT, alternate, print_table, seconds

from minist.quantization import merge_ranges, quantize
from minist.retrieval import search
from minist.retrieval.codes import search_codes

WIDTH, TOP = 384, 10


def theirs(queries: torch.Tensor, documents: torch.Tensor) -> list:
    from sentence_transformers.util import semantic_search

    return semantic_search(queries, documents, top_k=TOP)


def ours(queries: torch.Tensor, documents: torch.Tensor) -> list:
    return search.semantic_search(queries, documents, top_k=TOP)


SIDES = {"minist": ours, "sentence-transformers": theirs}


def random_embeddings(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, WIDTH, generator=draw) for n in (args.queries, args.documents))


def peak() -> float:
    """The largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(side: str, args: argparse.Namespace) -> None:
    queries, documents = random_embeddings(args)
    SIDES[side](queries[:2], documents[:100])  # what is loaded once
    before = peak()
    SIDES[side](queries, documents)
    print(f"{peak() - before:.0f}")


def memory(side: str, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, f"--documents={args.documents}", f"--queries={args.queries}", f"--side={side}"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def same(a: list, b: list) -> bool:
    """Equal rows in order, but for neighbours whose scores are equal in fp32."""
    pairs = [(x, y) for line, other in zip(a, b, strict=True) for x, y in zip(line, other, strict=True)]
    return all(x["corpus_id"] == y["corpus_id"] or abs(x["score"] - y["score"]) < 1e-6 for x, y in pairs)


def recall_of_codes(embeddings: np.ndarray, queries: int) -> None:
    """The share of the true nearest that is found among codes; the last rows ask for the others."""
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    asked, documents = x[-queries:], x[:-queries]
    ranges, wanted = merge_ranges([documents]), search.search(*map(torch.from_numpy, (asked, documents)), TOP)[1]
    print(f"\nrecall@{TOP} of codes, {len(documents):,} documents, {len(asked):,} queries")
    for precision in ("float32", "int8", "binary"):
        codes = quantize(documents, precision, ranges)
        for multiplier, floats in [(1, None), (2, documents), (4, documents), (8, documents)]:
            started = time.perf_counter()
            rows = search_codes(asked, codes, precision, TOP, ranges, multiplier, floats)[1]
            took = time.perf_counter() - started
            found = np.mean([len({*a} & {*b}) / TOP for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)])
            how = "codes alone" if floats is None else f"{multiplier} x {TOP} scored by floats"
            print(f"{precision:8} {codes.nbytes / 2**20:7.1f} MB  {how:24} {found:.4f}  {took:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--embeddings", help="an .npy of real ones, for the recall of codes")
    parser.add_argument("--side", choices=SIDES, help="measure one library's memory in this process")
    args = parser.parse_args()
    if args.side:
        return measure_memory(args.side, args)
    for side in SIDES:  # first, as a process counts the peak of the one that started it
        print(f"{side:22} {memory(side, args):,.0f} MB beyond the inputs", flush=True)
    queries, documents = random_embeddings(args)
    equal = same(ours(queries, documents), theirs(queries, documents))
    times = alternate(
        lambda: seconds(lambda: ours(queries, documents)),
        lambda: seconds(lambda: theirs(queries, documents)),
        args.rounds,
    )
    title = f"the {TOP} nearest of {args.documents:,} x {WIDTH} for {args.queries:,} queries"
    print_table(title, {"search": times})
    print(f"equal results: {equal}")
    if args.embeddings:
        recall_of_codes(np.load(args.embeddings), 2 * args.queries)


if __name__ == "__main__":
    main()
