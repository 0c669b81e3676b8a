"""Runs of train.py as trials of a hyperparameter search. What has ended is written down, so that a search goes on.

<output>/search.json    what is searched, and the result of each trial that has ended
<output>/trial-03/      the run directory of trial 3
<output>/trials.log     what all of them printed
<output>/cache/         the tokenized texts of all"""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from minist.checks import listing
from minist.files import complete_file, read_json, write_json
from minist.training.checkpoint import METRICS, checkpoints
from minist.training.selection import Selection, falls
from minist.training.trials import Trial

TRAIN = Path(__file__).parents[2] / "train.py"
LOG, STATE = "trials.log", "search.json"
# a line that says why a run failed, perhaps after its rank; the first is the cause of others
REASON = re.compile(r"^(?:\[rank\d+\]: ?)?((?:error|[\w.]*(?:Error|Exception)): \S.*)", re.MULTILINE)


class Outcome(NamedTuple):
    """What became of a trial after `steps` (0: all of its config): the metric of its model, or why there is none."""

    trial: Trial
    steps: int
    value: float = math.nan
    error: str = ""


def rung_lengths(trials: Sequence[Trial]) -> list[int]:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): the better half of the trials goes on to
    twice as many steps, again and again: all rungs cost about the same."""
    height = int(math.log2(len(trials)))
    lengths = {trial.config.train.max_steps for trial in trials}
    if len(lengths) > 1 or max(lengths) < 2**height:
        raise ValueError(f"--halving needs a train.max_steps that is the same in all trials, at least {2**height}")
    return [max(lengths) // 2**h for h in range(height, -1, -1)]


@contextmanager
def open_log(output: Path) -> Iterator[IO[bytes]]:
    """The log, locked. It is the standard output of trials too, and so stays locked while one runs whose search was
    killed. ValueError if it is in use, or `output` holds something else."""
    import fcntl  # which Windows has not

    if output.exists() and not (output / LOG).exists() and any(output.iterdir()):
        raise ValueError(f"{output} is there, and is no search: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    with open(output / LOG, "ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = "another search, or by a trial whose search was killed"
            raise ValueError(f"{log.name} is in use by {who}: wait for its end") from None
        yield log


@dataclass
class Search:
    """Runs trials, but for those whose results are written down."""

    file: Path
    output: Path
    log: IO[bytes]
    given: dict[str, Any]  # all that results depend on: the config, the metric to compare by, processes of a trial ..

    def __post_init__(self) -> None:
        """ValueError if results of another search are there."""
        self.results: dict[str, dict[str, Any]] = {}  # trial and rung -> its value, or an error
        if (self.output / STATE).exists():
            before = read_json(self.output / STATE)
            if other := [name for name in self.given if before["given"].get(name) != self.given[name]]:
                what = f"{self.output / STATE} is of a search with another {listing(other)}"
                raise ValueError(f"{what}: give the same, or another --output")
            self.results = before["results"]
        self.save()

    def save(self) -> None:
        with complete_file(self.output / STATE) as partial:
            write_json(partial, {"given": self.given, "results": self.results})

    def run(self, trials: Sequence[Trial], lengths: Sequence[int]) -> list[Outcome]:
        """An outcome of each trial, the best first. `lengths` of rungs are steps; [0]: as the configs say."""
        found: dict[int, Outcome] = {}
        for steps in lengths:
            for trial in reversed(trials):  # not the default first: in others a wrong key is seen at once
                found[trial.number] = self.outcome(trial, steps)
            ranked = sorted((found[trial.number] for trial in trials), key=self.rank)
            trials = [outcome.trial for outcome in ranked if not outcome.error][: max(1, len(trials) // 2)]
        return sorted(found.values(), key=self.rank)

    def rank(self, outcome: Outcome) -> tuple[bool, int, float, int]:
        """Those trained for longer have beaten the others, and what failed is last."""
        value = 0.0 if outcome.error else outcome.value if falls(self.given["metric"]) else -outcome.value
        return bool(outcome.error), -outcome.steps, value, outcome.trial.number

    def outcome(self, trial: Trial, steps: int) -> Outcome:
        name = self.folder(trial).name + f" to step {steps}" * bool(steps)
        if name not in self.results:
            print(name, file=sys.stderr, flush=True)
            rung = [f"train.max_steps={steps}", "train.patience=0"] if steps else []  # which might end it before
            if 0 < steps < trial.config.train.max_steps:
                rung.append(f"train.save_every={steps}")  # a checkpoint at the end, to go on from
            self.results[name] = self.train(trial, rung)
            self.save()
            print(f"  {self.results[name]}", file=sys.stderr, flush=True)
        return Outcome(trial, steps, **self.results[name])

    def train(self, trial: Trial, rung: Sequence[str]) -> dict[str, Any]:
        """Run train.py, from its last checkpoint if there is one. The metric's value, or an error."""
        folder, begin = self.folder(trial), self.log.tell()
        resumed = bool(checkpoints(folder))
        shutil.rmtree(folder / "model" if resumed else folder, ignore_errors=True)  # of a shorter rung, or half a run
        code = _wait([*self.command(trial, rung), *["--resume"] * resumed], self.log)
        if code == -signal.SIGTERM or (code == 0 and not (folder / "model").exists()):  # it was told to save, and did
            raise KeyboardInterrupt
        if code == 0:
            return {"value": final_value(folder, trial.config.train.best, self.given["metric"])}
        reason = REASON.search(Path(self.log.name).read_bytes()[begin:].decode(errors="replace"))
        error = reason[1].removeprefix("error: ") if reason else f"exit code {code}"
        if not self.results and not folder.exists():  # it did not come to its first step, and no other will
            (self.output / STATE).unlink()  # so that all may be given otherwise
            raise ValueError(error)
        return {"error": error}

    def command(self, trial: Trial, rung: Sequence[str]) -> list[str]:
        processes = self.given["processes"]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] * (processes > 1)
        # a name that is no metric is thereby seen before the first step, and a value that is no number fails
        limit = sys.float_info.max * (1 if falls(self.given["metric"]) else -1)
        expect = f"expect={{{json.dumps(self.given['metric'], ensure_ascii=False)} = {limit}}}"
        output = f"output={json.dumps(str(self.folder(trial)), ensure_ascii=False)}"
        sets = [part for text in (*trial.overrides, *rung, expect, output) for part in ("--set", text)]
        return [sys.executable, *launcher, str(TRAIN), "--config", str(self.file), *sets]

    def folder(self, trial: Trial) -> Path:
        return self.output / f"trial-{trial.number:02d}"


def final_value(run: Path, best: str, metric: str) -> float:
    """A metric of a run's final model, which is the best by `best` where that is given."""
    selection, records = Selection(best, patience=0), map(json.loads, (run / METRICS).read_text("utf-8").splitlines())
    evaluations = [record for record in records if "learning_rate" not in record]  # the others are of training
    for record in evaluations:
        selection.update(record, record["step"])
    value: float = (selection.metrics or evaluations[-1])[metric]
    return value


def _wait(command: Sequence[str], log: IO[bytes]) -> int:
    """Run a command to its end, and give its exit code. Ctrl-C does not reach it: it is told to save, and then ends."""
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
