"""The memory of training: GradCache on one large batch beside the same pairs in small ones, and layers that run again.

python tests/benchmarks/train_memory.py

all-MiniLM-L6-v2, MultipleNegativesRankingLoss on pairs of docstrings (first line, the whole), AdamW, fp32, dropout
0.1. Counted is the highest resident memory during the steps, above what was resident before them: weights, optimizer
state and the texts are there already. All cases see the same pairs, since the longest texts decide, and each has a
process of its own. A batch of n pairs owns 2 n embeddings and n^2 scores; what a step needs beyond these should not
depend on the batch. Linux only.
"""

import argparse
import json
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

from side_by_side import MODEL, docstrings

import minist
from minist.batch import Batch
from minist.losses import MultipleNegativesRankingLoss
from minist.training.gradcache import gradcache
from minist.training.optimizer import make_optimizer
from minist.training.run import set_dropout

MIB = 2**20


def resident(field: str) -> int:
    """Bytes: VmRSS is the memory of this process now, VmHWM its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(pairs: int, batch: int, mini_batch_tokens: int, checkpoint_layers: bool) -> dict[str, float]:
    """Peak bytes of the steps, and those of one batch's embeddings and scores."""
    model = minist.SentenceTransformer(MODEL).train()
    set_dropout(model, 0.1, 0.1)
    model.stack[0].checkpoint_layers = checkpoint_layers
    loss = MultipleNegativesRankingLoss()
    optimizer = make_optimizer(list(model.named_parameters()), 2e-5, 0.0, {}, [])
    texts = list(islice(cycle(docstrings()), pairs))
    columns = [model.tokenizer(column).packed() for column in ([text.partition("\n")[0] for text in texts], texts)]

    def step(start: int, end: int) -> None:
        gradcache(
            lambda part, c: model([part])[0],
            [column.slice(start, end) for column in columns],
            lambda columns: loss([embeddings for (embeddings,) in columns], Batch()),
            mini_batch_tokens,
            seed=0,
        )
        optimizer.step()
        optimizer.zero_grad()

    step(0, 2)  # makes the optimizer's state
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory counts from here on
    for start in range(0, pairs, batch):
        step(start, min(start + batch, pairs))
    return {"peak": resident("VmHWM") - before, "own": 4 * (2 * batch * model.width + batch**2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=256, help="pairs in a small batch")
    parser.add_argument("--large", type=int, default=4096, help="pairs in the large one, and altogether")
    parser.add_argument("--mini-batch-tokens", type=int, default=4096)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)  # one case, as measure() takes it
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(*args.case)))
        return

    print(f"\n{args.large} pairs, mini-batches of {args.mini_batch_tokens} tokens, MiB\n")
    print(f"{'batch':>8}{'layers':>12}{'peak':>8}{'embeddings, scores':>20}{'beyond':>8}")
    for checkpoint_layers in (False, True):
        beyond = []
        for batch in (args.small, args.large):
            case = json.dumps([args.large, batch, args.mini_batch_tokens, checkpoint_layers])
            command = [sys.executable, __file__, "--case", case]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            beyond.append(found["peak"] - found["own"])
            layers = "run again" if checkpoint_layers else "kept"
            sizes = f"{found['peak'] / MIB:>8.0f}{found['own'] / MIB:>20.0f}{beyond[-1] / MIB:>8.0f}"
            print(f"{batch:>8}{layers:>12}{sizes}", flush=True)
        print(f"{'beyond, large to small':>48}{beyond[1] / beyond[0]:>7.2f}x\n")


if __name__ == "__main__":
    main()
