"""Search for better settings of a config: trials with drawn values, each an ordinary run of train.py.

python -m minist tune --config C --set train.lr=1e-5..1e-4 --set train.batch_size=16,32,64 --metric M --output runs/tune
python -m minist tune --config C --set train.lr=1e-5..1e-3 --metric M --trials 16 --halving --output runs/halved

--set KEY=LOW..HIGH draws from a range, KEY=a,b,c from choices, and KEY=value is the same in all trials; keys are those
of train.py's --set: data.0.loss.scale=10..40. A range whose ends are whole numbers gives whole numbers (write 0.0..1.0
for others), and one from above 0 to 10 times that or more is drawn by its logarithm. A text with commas takes quotes.
Trial 0 is the config as it is, which the others have to beat. [expect] is left out: what misses its aims is a result.

--halving: all trials get a share of train.max_steps, the better half of them goes on to twice as many steps, and so on.
The learning rate follows each length: it is low at the end of a share, and where a trial goes on it is that of the
longer run. patience is off.

A search that was killed goes on by the same command, and a larger --trials adds to it. What has ended is in
OUTPUT/search.json: delete a failed trial there to try it again. OUTPUT/best.toml is the best config."""

import argparse
import signal
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from minist.checks import refuse, whole
from minist.files import complete_file
from minist.training.config import Config
from minist.training.construct import to_toml
from minist.training.trials import draw_trials, read_setting
from minist.training.tuning import Outcome, Search, open_log, rung_lengths

HELP = "search for better settings of a config"
INSTEAD = {"device": "CUDA_VISIBLE_DEVICES says where train.py runs", "revision": "--set model.revision=.."}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, required=True, help="a TOML file, as for train.py")
    add("--set", action="append", default=[], metavar="KEY=RANGE", help="LOW..HIGH, or a,b,c, or a value")
    add("--trials", type=int, default=8, help="how many, the config as it is among them (8)")
    add("--metric", default="", help="to compare by (the config's train.best); *_loss is to be low, all others high")
    add("--output", type=Path, required=True, help="a folder for all trials")
    add("--halving", action="store_true", help="all begin, and the better half goes on, again and again")
    add("--processes", type=int, default=1, help="of each trial, by torchrun (1)")


def run(args: argparse.Namespace) -> None:
    refuse([name for name in INSTEAD if vars(args)[name]], "tune", INSTEAD)
    count, processes = whole("--trials", args.trials, 2), whole("--processes", args.processes, 1)
    settings = [read_setting(text) for text in args.set]
    trials = draw_trials(args.config, settings, count)
    lengths = rung_lengths(trials) if args.halving else [0]
    config = trials[0].config
    metric = args.metric or config.train.best
    if not (metric and config.eval):
        raise ValueError("trials are compared by a metric of an [[eval]] entry: name one by --metric")
    given = {"config": to_toml(asdict(config)), "set": args.set, "metric": metric, "processes": processes}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the trial that runs is told to save, as by Ctrl-C
    with open_log(args.output) as log:
        search = Search(args.config, args.output, log, given | {"lengths": lengths})
        outcomes = search.run(trials, lengths)
        print(table(outcomes, [setting.key for setting in settings if setting.is_searched], metric))
        best, file = outcomes[0], args.output / "best.toml"
        if best.error:
            raise ValueError(f"all trials in {args.output} failed, so none is the best")
        with complete_file(file) as partial:
            again = replace(best.trial.config, output=str(args.output / "best"))
            partial.write_text(to_toml(asdict(again)), "utf-8")
    print(f"\ntrial {best.trial.number} is the best: {file}, and {search.folder(best.trial)}/model")


def table(outcomes: Sequence[Outcome], keys: Sequence[str], metric: str) -> str:
    rows = [["trial", *keys, *["steps"] * bool(outcomes[0].steps), metric]]
    for trial, steps, value, error in outcomes:
        name = f"{trial.number}{' (default)' * (trial.number == 0)}"
        measured = f"failed: {error}" if error else f"{value:.4f}"
        rows.append([name, *(value_of(trial.config, key) for key in keys), *[str(steps)] * bool(steps), measured])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows)


def value_of(config: Config, key: str) -> str:
    """A key's value as --set writes it; "-" is an argument that is not given, and so has its own default."""
    place: Any = asdict(config)
    for part in key.split("."):
        place = place[int(part)] if type(place) is list else place.get(part, {})
    return "-" if place == {} else str(place)
