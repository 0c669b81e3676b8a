"""What a hyperparameter search tries: ranges of settings, trials drawn from them, and how long each of them runs.

Random search draws every trial by itself (Bergstra and Bengio 2012). Successive halving trains all for a share of the
steps, and only the better part goes on (Jamieson and Talwalkar 2016, arXiv:1502.07943)."""

import json
import math
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from minist import losses
from minist.checks import number
from minist.losses.base import Loss
from minist.training.config import Config, load_config
from minist.training.construct import Table, make
from minist.training.entries import SHELVES

WIDE = 10  # the ratio of a range's ends from which on its logarithm is drawn: 1e-5..1e-4, but not 16..64
DRAWS = 1000  # in which a trial must be found that is no repetition


class Setting(NamedTuple):
    """One --set: KEY=LOW..HIGH, KEY=a,b,c, or KEY=value, which is the same in all trials."""

    text: str  # as it was given
    key: str
    choices: tuple[str, ...]
    ends: tuple[Any, ...] = ()  # of a range: two numbers, whole ones where whole numbers are to be drawn

    @property
    def is_searched(self) -> bool:
        return len(self.choices) > 1 or bool(self.ends)

    def override(self, draw: random.Random) -> str:
        """For train.py's --set."""
        if not self.is_searched:
            return self.text
        return f"{self.key}={_draw(self.ends, draw) if self.ends else draw.choice(self.choices)}"


def read_setting(text: str) -> Setting:
    """ValueError for an empty range."""
    key, _, value = text.partition("=")
    low, dots, high = (part.strip() for part in value.partition(".."))
    if not dots or not (_is_toml(low) and _is_toml(high)):  # else the dots are those of a path
        return Setting(text, key, tuple(split_choices(value)))
    ends = tuple(number(f"--set {text}: an end", tomllib.loads(f"value = {end}")["value"]) for end in (low, high))
    if ends[0] >= ends[1]:
        raise ValueError(f"--set {text}: the range is empty: write KEY=LOW..HIGH, the lower end first")
    return Setting(text, key, (), ends)


def split_choices(value: str) -> list[str]:
    """The parts between commas, but for those within TOML's quotes, brackets and braces."""
    parts: list[str] = []
    for part in value.split(","):
        if parts and parts[-1][:1] in tuple("\"'[{") and not _is_toml(parts[-1]):  # opened, and not closed
            parts[-1] += f",{part}"
        else:
            parts.append(part.strip())
    return parts


def _is_toml(value: str) -> bool:
    try:
        return bool(tomllib.loads(f"value = {value}"))
    except tomllib.TOMLDecodeError:
        return False


def _draw(ends: Sequence[Any], draw: random.Random) -> float:
    """A number of the range: uniform, or its logarithm is where the range is wide. Whole numbers where both ends are;
    of others three digits, which is what a person would write."""
    low, high = ends
    whole = all(type(end) is int for end in ends)
    top = high + 1 if whole else high
    wide = low > 0 and high / low > WIDE - 1e-9  # 3e-4 / 3e-5 is a little less than 10
    value = math.exp(draw.uniform(math.log(low), math.log(top))) if wide else draw.uniform(low, top)
    return min(max(math.floor(value) if whole else float(f"{value:.3g}"), low), high)


class Trial(NamedTuple):
    """A run with drawn values, and its config as one would run it alone."""

    number: int
    overrides: tuple[str, ...]
    config: Config


class Rung(NamedTuple):
    """How far trials are trained before the best `keep` of them go on; 0 steps: as far as the config says."""

    steps: int = 0
    keep: int = 0
    overrides: tuple[str, ...] = ()


def draw_trials(file: Path, settings: Sequence[Setting], count: int, output: Path) -> list[Trial]:
    """Trial 0 is the config as it is; no two are alike. ValueError for a wrong key or value, before anything is run."""
    last = set_output(output / "best")
    fixed = [setting.text for setting in settings if not setting.is_searched]
    trials = [Trial(0, (*fixed, last), _load(file, [*fixed, last]))]
    while len(trials) < count:
        trials.append(_draw_trial(file, settings, trials, last))
    return trials


def _load(file: Path, overrides: Sequence[str]) -> Config:
    """A config whose losses can be made, too: else that would be seen only when the default has run, for hours."""
    config = load_config(file, list(overrides))
    for entry in config.data:
        shelves = [shelf for shelf in SHELVES.values() if entry.loss.get("name") in shelf.__all__] or [losses]
        refusals = [_refusal(f"loss in {entry.where}", entry.loss, shelf) for shelf in shelves]
        if all(refusals):  # of one name there may be a loss for embeddings and one for scores
            raise ValueError(refusals[0])
    return config


def _refusal(what: str, table: Table, shelf: ModuleType) -> str:
    try:
        make(what, table, shelf, Loss)
    except ValueError as e:
        return str(e)
    return ""


def _draw_trial(file: Path, settings: Sequence[Setting], before: Sequence[Trial], last: str) -> Trial:
    """The next one, by the seed and its number alone, however many there will be."""
    n, seed = len(before), before[0].config.seed
    for attempt in range(DRAWS):
        draws = (random.Random(f"{seed} {n} {attempt} {setting.key}") for setting in settings)
        overrides = (*map(Setting.override, settings, draws), last)
        config = _load(file, overrides)
        if all(config != trial.config for trial in before):
            return Trial(n, overrides, config)
    raise ValueError(f"the ranges of --set give {n} trials that differ: ask for no more, or for other ranges")


def set_output(folder: Path) -> str:
    return f"output={json.dumps(str(folder), ensure_ascii=False)}"


def make_rungs(trials: Sequence[Trial], eta: int) -> list[Rung]:
    """One of `eta` trials goes on and is then trained `eta` times as long, as long as there are so many: each rung has
    about as many steps. `eta` 0: one rung for all."""
    if not eta:
        return [Rung()]
    height = max(h for h in range(len(trials)) if eta**h <= len(trials)) if len(trials) > 1 else 0
    lengths = {trial.config.train.max_steps for trial in trials}
    if len(lengths) > 1 or max(lengths) < eta**height:
        raise ValueError(f"--halving needs a train.max_steps that is the same in all trials, at least {eta**height}")
    rungs = []
    for h in range(height + 1):
        steps = max(lengths) // eta ** (height - h)
        overrides = [f"train.max_steps={steps}", "train.patience=0"]  # which might end it before
        if h < height:
            overrides.append(f"train.save_every={steps}")  # a checkpoint at the end, to go on from
        rungs.append(Rung(steps, len(trials) // eta ** (h + 1), tuple(overrides)))
    return rungs
