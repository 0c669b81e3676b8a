"""Peak memory of the losses at large batches: value and gradients, in a process of its own each.

python tests/benchmarks/loss_memory.py --rows 32768 --width 256

Printed is the peak resident set above that before the loss, so without the embeddings, but with their gradients.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOSSES = [
    ("MultipleNegativesRankingLoss", {}),
    ("MultipleNegativesRankingLoss", {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")}),
    ("MultipleNegativesRankingLoss", {"hardness_mode": "in_batch_negatives", "hardness_strength": 9.0}),
    ("MultipleNegativesSymmetricRankingLoss", {}),
    ("GISTEmbedLoss", {}),
    ("MegaBatchMarginLoss", {}),
    ("GlobalOrthogonalRegularizationLoss", {}),
]


def peak() -> float:
    """The largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(number: int, rows: int, width: int) -> None:
    import torch

    from minist import Batch, losses
    from minist.losses.base import total

    name, options = LOSSES[number]
    loss = getattr(losses, name)(**options)
    columns = [torch.randn(rows, width).requires_grad_() for _ in range(2)]
    batch = Batch(guide=tuple(torch.randn(rows, width) for _ in range(2)))

    before, started = peak(), time.perf_counter()
    total(loss(columns, batch)).backward()
    seconds, memory = time.perf_counter() - started, peak() - before
    print(f"{name} {options or ''}: {memory:,.0f} MB, {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--only", type=int, help="the number of one loss, measured in this process")
    args = parser.parse_args()
    if args.only is not None:
        measure(args.only, args.rows, args.width)
        return
    print(
        f"{args.rows:,} rows of {args.width}: a whole score matrix has {args.rows**2 * 4 / 2**20:,.0f} MB", flush=True
    )
    for number in range(len(LOSSES)):
        command = [sys.executable, __file__, "--rows", str(args.rows), "--width", str(args.width)]
        subprocess.run([*command, "--only", str(number)], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
