"""Search for better settings of a config: trials with drawn values, each an ordinary run of train.py.

python -m minist tune --config C --set train.lr=1e-5..1e-4 --set train.batch_size=16,32,64 --trials 8 --output runs/tune
python -m minist tune --config C --set train.lr=1e-5..1e-3 --trials 16 --halving --processes 2 --output runs/tune

--set KEY=LOW..HIGH draws from a range, KEY=a,b,c from choices, and KEY=value is the same in all trials; keys are those
of train.py's --set: data.0.loss.scale=10..40. A range whose ends are whole numbers gives whole numbers (write 0.0..1.0
for others), and one from above 0 to 10 times that or more is drawn by its logarithm. A text with commas takes quotes.
Trial 0 is the config as it is, which the others have to beat; what trial 5 draws depends on the config's seed and on 5.

--halving: all trials get a share of train.max_steps, the better half of them goes on to twice as many steps, and so on
(--halving 3: the best third, to three times as many). The learning rate follows each length: it is low at the end of
a share, and where a trial goes on it is that of the longer run. patience is off.

A search that was killed goes on by the same command, and a larger --trials adds to it. A trial that failed is not
tried again until its folder is deleted. What stays of each is OUTPUT/trial-03/, a run directory with its model and
train.keep checkpoints, and OUTPUT/trial-03.log, what it printed. Nothing is deleted. OUTPUT/best.toml is the best."""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from minist.checks import refuse, whole
from minist.files import complete_file
from minist.training.config import Config
from minist.training.construct import to_toml
from minist.training.trials import draw_trials, make_rungs, read_setting
from minist.training.tuning import Outcome, Search

SHOWN = 80  # letters of an error in the table; the log has it all
HELP = "search for better settings of a config"
INSTEAD = {"device": "CUDA_VISIBLE_DEVICES says where train.py runs", "revision": "--set model.revision=.."}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, required=True, help="a TOML file, as for train.py")
    add("--set", action="append", default=[], metavar="KEY=RANGE", help="LOW..HIGH, or a,b,c, or a value")
    add("--trials", type=int, default=8, help="how many, the config as it is among them (8)")
    add("--metric", default="", help="to compare by (the config's train.best, or the only one); *_loss is to be low")
    add("--output", type=Path, required=True, help="a folder for all trials")
    add("--halving", type=int, nargs="?", const=2, metavar="N", help="one of N goes on to N times as many steps (2)")
    add("--processes", type=int, default=1, help="of each trial, by torchrun (1)")


def run(args: argparse.Namespace) -> None:
    refuse([name for name in INSTEAD if vars(args)[name]], "tune", INSTEAD)
    count, processes = whole("--trials", args.trials, 1), whole("--processes", args.processes, 1)
    eta = 0 if args.halving is None else whole("--halving", args.halving, 2)
    settings = [read_setting(text) for text in args.set]
    trials = draw_trials(args.config, settings, count, args.output)
    if not trials[0].config.eval:
        raise ValueError(f"{args.config} has no [[eval]] entry, which would measure the trials")
    rungs, say = make_rungs(trials, eta), partial(print, file=sys.stderr, flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the trial that runs is told to save, as by Ctrl-C
    search = Search(args.config, args.output, trials, rungs, processes, args.metric, say)
    outcomes = search.run()
    keys = list(dict.fromkeys(setting.key for setting in settings if setting.is_searched))
    head = ["trial", *keys, *["steps"] * bool(eta), search.metric]
    print(table([head, *(row(outcome, keys, search.metric) for outcome in outcomes)]))
    best = outcomes[0]
    if not math.isfinite(best.metrics.get(search.metric, math.nan)):
        raise ValueError(f"no trial of {args.output} has a number, so none is the best")
    with complete_file(args.output / "best.toml") as file:
        file.write_text(to_toml(asdict(best.trial.config)), "utf-8")
    print(f"\ntrial {best.trial.number} is the best: {args.output}/best.toml, and {search.folder(best.trial)}/model")


def row(outcome: Outcome, keys: Sequence[str], metric: str) -> list[str]:
    name = f"{outcome.trial.number}{' (default)' * (outcome.trial.number == 0)}"
    values = [value_of(outcome.trial.config, key) for key in keys]
    measured = (
        f"failed: {shorten(outcome.error, SHOWN)}" if outcome.error else f"{outcome.metrics.get(metric, math.nan):.4f}"
    )
    return [name, *values, *[str(outcome.steps)] * bool(outcome.steps), measured]


def value_of(config: Config, key: str) -> str:
    """A key's value as --set writes it; "-" is an argument that is not given, and so has its own default."""
    place: Any = asdict(config)
    for part in key.split("."):
        entries = place if isinstance(place, dict) else {str(i): entry for i, entry in enumerate(place)}
        place = entries.get(part, "-")
    return str(place)


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows)
