"""Make one model of several that were trained from the same one; of the middle of their weights.

python -m minist merge --models runs/a/model runs/b/model --output merged
python -m minist merge --models A B C --weights 0.5 0.3 0.2 --method slerp --output merged

Of other settings and prompts, those of the first model are kept. Measure the result: python -m minist evaluate."""

import argparse
from pathlib import Path

from minist.models import open_model
from minist.models.merging import METHODS, merge

HELP = "make one model of several, by their weights"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--models", nargs="+", required=True, help="two or more model folders, or names on the Hugging Face hub")
    add("--weights", nargs="+", type=float, help="the share of each, of their sum (equal ones)")
    add("--method", default="average", choices=METHODS, help="straight, or on the arc between directions (average)")
    add("--output", type=Path, required=True, help="the folder to save the model into")


def run(args: argparse.Namespace) -> None:
    weights = args.weights or [1.0] * len(args.models)
    if len(args.models) < 2 or len(weights) != len(args.models):
        counts = f"--models are {len(args.models)} and --weights {len(weights)}"
        raise ValueError(f"{counts}: name two or more, one weight each")
    if any(Path(model).exists() and args.output.resolve() == Path(model).resolve() for model in args.models):
        raise ValueError(f"--output is {args.output}, which is also read: name another folder")
    models = (open_model(model, revision=args.revision, device=args.device or "cpu") for model in args.models)
    merge(models, weights, args.method).save(args.output)
    print(f"merged {len(args.models)} models into {args.output}")
