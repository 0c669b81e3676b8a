"""Runs of train.py as trials of a hyperparameter search. Their folders say how far each is, so that a search goes on.

<output>/trial-03/      the run directory of trial 3; trial 0 is the config as it is
<output>/trial-03.log   what the run printed; its last line says why, if it failed
<output>/cache/         the tokenized texts of all"""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import IO, NamedTuple

from minist.checks import listing, pick
from minist.training.checkpoint import MARKER, METRICS, checkpoints
from minist.training.config import Config, load_config
from minist.training.construct import to_toml
from minist.training.evaluations import HEADLINES
from minist.training.selection import Selection, falls
from minist.training.trials import Rung, Trial, set_output

TRAIN = Path(__file__).parents[2] / "train.py"
FAILED = "failed: "  # begins the last line of a log
REASON = re.compile(r"^(?:error|[\w.]*(?:Error|Exception)): .*", re.MULTILINE)  # the first is the cause of others


class Outcome(NamedTuple):
    """What became of a trial: the metrics of its final model, or why there are none."""

    trial: Trial
    steps: int
    metrics: dict[str, float]
    error: str = ""

    def rank(self, metric: str) -> tuple[bool, int, float, int]:
        """Sorts, the best first. Those trained for longer have beaten the others, and what is no number is last."""
        value = self.metrics.get(metric, math.nan)
        lost = not math.isfinite(value)
        return lost, -self.steps, 0.0 if lost else value if falls(metric) else -value, self.trial.number


def choose_metric(given: str, config: Config, metrics: Mapping[str, float]) -> str:
    """The metric to compare trials by, one that was measured; ValueError where nobody says which."""
    shown = [name for name in metrics if name.endswith(HEADLINES)]
    if not (given or config.train.best or len(shown) == 1):
        raise ValueError(f"name one by --metric, what was run is kept: {listing(shown or metrics)}")
    name = given or config.train.best or shown[0]
    pick("--metric", name, metrics)
    return name


def final_metrics(run: Path, best: str, steps: int) -> dict[str, float]:
    """Those of a run's final model, or of the one that it had after `steps`."""
    selection, found = Selection(best, patience=0), dict[str, float]()
    for record in map(json.loads, (run / METRICS).read_text("utf-8").splitlines()):
        step = record.pop("step")
        if "learning_rate" not in record and (not steps or step <= steps):  # else it is of training, or of a later rung
            found = record
            selection.update(record, step)
    return found if selection.best is None else selection.metrics


class Pace:
    """The time that is left, by what was run so far."""

    def __init__(self, rungs: Sequence[Rung], trials: int) -> None:
        self.work = [max(rung.steps - before.steps, 1) for before, rung in pairwise([Rung(), *rungs])]  # of one trial
        self.left = sum(map(mul, self.work, [trials, *(rung.keep for rung in rungs)]))
        self.done, self.seconds = 0, 0.0

    def count(self, rung: int, seconds: float) -> None:
        """A trial is through; in no time if it was before."""
        self.left -= self.work[rung]
        self.done, self.seconds = self.done + self.work[rung] * (seconds > 0), self.seconds + seconds

    def __str__(self) -> str:
        if not self.done:
            return "run before"
        left = int(self.seconds / self.done * self.left)
        return f"{left // 60}:{left % 60:02d} left"


@dataclass
class Search:
    """Runs trials, or sees in their folders that they were run."""

    file: Path
    output: Path
    trials: Sequence[Trial]
    rungs: Sequence[Rung]
    processes: int
    given: str  # the metric to compare by; "": chosen when a trial has shown which there are
    say: Callable[[str], object]

    def __post_init__(self) -> None:
        self.metric, self.pace = "", Pace(self.rungs, len(self.trials))

    def run(self) -> list[Outcome]:
        """An outcome of each trial, the best first. ValueError if `output` holds something else."""
        self._check()
        found: dict[int, Outcome] = {}
        going = list(self.trials)
        for r, rung in enumerate(self.rungs):
            for trial in going:
                found[trial.number] = self._run(trial, r)
            ranked = self._ranked(found[trial.number] for trial in going)
            going = [outcome.trial for outcome in ranked if not outcome.rank(self.metric)[0]][: rung.keep]
        return self._ranked(found.values())

    def _ranked(self, outcomes: Iterable[Outcome]) -> list[Outcome]:
        return sorted(outcomes, key=lambda outcome: outcome.rank(self.metric))

    def _check(self) -> None:
        if self.output.exists() and not self._log(self.trials[0]).exists() and any(self.output.iterdir()):
            raise ValueError(f"{self.output} is there, and is no search: choose another --output")
        self.output.mkdir(parents=True, exist_ok=True)
        for trial in self.trials:
            wanted, there = self._written(trial), self._read(trial)
            if there and there not in wanted:
                other = [line for line in there.splitlines() if line not in wanted[-1].splitlines()]
                what = f"{self.folder(trial)} is of another search, it has {listing(other[:1])}"
                raise ValueError(f"{what}: give the same config and ranges, or another --output")

    def _run(self, trial: Trial, r: int) -> Outcome:
        steps = self.rungs[r].steps
        self.say(f"trial {trial.number} of {len(self.trials)}{f' to step {steps}' * (steps > 0)}: {self._log(trial)}")
        with self._locked(trial) as log:
            is_over = self._is_done(trial, r) or (self._failure(trial) and self.folder(trial).exists())
            self.pace.count(r, 0 if is_over else self._train(trial, r, log))
        if not self._is_done(trial, r):
            error = self._failure(trial) or "it was ended before its last step: start the search again, and it goes on"
            if trial.number == 0 and not self.folder(trial).exists():
                raise ValueError(error)  # the config is wrong, and would be in all trials
            self.say(f"  failed: {error}, {self.pace}")
            return Outcome(trial, steps, {}, error)
        outcome = Outcome(trial, steps, final_metrics(self.folder(trial), trial.config.train.best, steps))
        self.metric = self.metric or choose_metric(self.given, trial.config, outcome.metrics)
        self.say(f"  {self.metric} {outcome.metrics.get(self.metric, math.nan):.4f}, {self.pace}")
        return outcome

    def _train(self, trial: Trial, r: int, log: IO[bytes]) -> float:
        """Run train.py, from its last checkpoint if there is one. A failure is the log's last line. Returns seconds."""
        folder, begin, started = self.folder(trial), log.tell(), time.perf_counter()
        resumed = bool(checkpoints(folder))
        shutil.rmtree(folder / "model" if resumed else folder, ignore_errors=True)  # of a shorter rung, or half a run
        ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        command = [sys.executable, *ranks * (self.processes > 1), TRAIN, "--config", self.file]
        command += [part for override in self._overrides(trial, r) for part in ("--set", override)]
        code = _wait([*map(str, command), *["--resume"] * resumed], log)
        if code > 0:  # below 0 a signal ended it, and it may go on
            reason = REASON.search(self._log(trial).read_bytes()[begin:].decode(errors="replace"))
            why = reason[0].removeprefix("error: ") if reason else f"exit code {code}"
            log.write(f"{FAILED}{why}\n".encode())
            log.flush()
        return time.perf_counter() - started

    def _overrides(self, trial: Trial, r: int) -> list[str]:
        # what misses the aims of [expect] is still a result
        return [*trial.overrides, "expect={}", set_output(self.folder(trial)), *self.rungs[r].overrides]

    def _written(self, trial: Trial) -> list[str]:
        """What the trial's run writes into its folder as its config, for each rung."""
        configs = [load_config(self.file, self._overrides(trial, r)) for r in range(len(self.rungs))]
        return [_without_output(to_toml(asdict(config))) for config in configs]

    def _read(self, trial: Trial) -> str:
        marker = self.folder(trial) / MARKER
        return _without_output(marker.read_text("utf-8")) if marker.exists() else ""

    def _is_done(self, trial: Trial, r: int) -> bool:
        """Whether its run has ended there, and saved its model, or has begun with a later rung."""
        there, files = self._read(trial), [file.name for file in (self.folder(trial) / "model").glob("*")]
        is_saved = bool(files) and not any(name.endswith(".partial") for name in files)  # see minist/files.py
        at = self._written(trial).index(there) if there else -1
        return at > r or (at == r and is_saved)

    def _failure(self, trial: Trial) -> str:
        """Why it failed, or nothing."""
        lines = self._log(trial).read_text("utf-8", "replace").splitlines() or [""]
        return lines[-1].removeprefix(FAILED) if lines[-1].startswith(FAILED) else ""

    def folder(self, trial: Trial) -> Path:
        return self.output / f"trial-{trial.number:02d}"

    def _log(self, trial: Trial) -> Path:
        return self.output / f"trial-{trial.number:02d}.log"

    @contextmanager
    def _locked(self, trial: Trial) -> Iterator[IO[bytes]]:
        """The log, which one search at a time has. It is its trial's standard output too, and so stays locked while
        that runs, even if the search was killed."""
        import fcntl  # which Windows has not

        with open(self._log(trial), "ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say("  another search runs it, or one that was killed began it: waiting for its end")
                fcntl.flock(log, fcntl.LOCK_EX)
            yield log


def _without_output(toml: str) -> str:
    return toml.partition("\n")[2]  # the first line, and a search may have been moved


def _wait(command: Sequence[str], log: IO[bytes]) -> int:
    """Run a command to its end, and give its exit code. Ctrl-C does not reach it: it is told to save, and then ends."""
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
