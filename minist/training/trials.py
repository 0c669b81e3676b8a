"""What a hyperparameter search tries: ranges of settings, and trials drawn from them.

Random search draws every trial by itself (Bergstra and Bengio 2012)."""

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minist.checks import number
from minist.training.config import Config, load_config

NUMBER = r"\s*(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*"
RANGE = re.compile(rf"{NUMBER}\.\.{NUMBER}", re.IGNORECASE)
# what stands between commas, but for those in TOML's quotes, lists, and tables, in which may be tables
CHOICE = re.compile(r""" (?: "[^"]*" | '[^']*' | \[[^]]*\] | \{(?: [^{}] | \{[^{}]*\} )*\} | [^,] )+ """, re.VERBOSE)
WIDE = 10  # the ratio of a range's ends from which on its logarithm is drawn: 1e-5..1e-4, but not 16..64
DRAWS = 1000  # in which a trial must be found that is no repetition


class Setting(NamedTuple):
    """One --set: KEY=LOW..HIGH, KEY=a,b,c, or KEY=value, which is the same in all trials."""

    key: str
    choices: list[str]
    ends: Sequence[Any] = ()  # of a range, which has no choices: two numbers

    @property
    def is_searched(self) -> bool:
        return len(self.choices) != 1

    def override(self, draw: random.Random) -> str:
        """For train.py's --set."""
        return f"{self.key}={draw_number(self.ends, draw) if self.ends else draw.choice(self.choices)}"


def read_setting(text: str) -> Setting:
    """ValueError for an empty range."""
    key, _, value = text.partition("=")
    found = RANGE.fullmatch(value)
    if not found:
        return Setting(key, [choice.strip() for choice in CHOICE.findall(value)] or [""])
    ends = [number(f"--set {text}: an end", json.loads(end)) for end in found.groups()]
    if ends[0] >= ends[1]:
        raise ValueError(f"--set {text}: the range is empty: write KEY=LOW..HIGH, the lower end first")
    return Setting(key, [], ends)


def draw_number(ends: Sequence[Any], draw: random.Random) -> float:
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
    overrides: list[str]
    config: Config


def draw_trials(file: Path, settings: Sequence[Setting], count: int) -> list[Trial]:
    """Trial 0 is the config as it is; no two are alike, and a larger `count` adds to the same. ValueError
    for a wrong key or value."""
    overrides = [f"{setting.key}={setting.choices[0]}" for setting in settings if not setting.is_searched]
    trials, attempt = [Trial(0, overrides, load_config(file, overrides))], 0
    while len(trials) < count and attempt < DRAWS:
        place = f"{trials[0].config.seed} {len(trials)} {attempt}"
        overrides = [setting.override(random.Random(f"{place} {setting.key}")) for setting in settings]
        config, attempt = load_config(file, overrides), attempt + 1
        if all(config != trial.config for trial in trials):
            trials.append(Trial(len(trials), overrides, config))
            attempt = 0
    if len(trials) < count:
        raise ValueError(f"--set gives {len(trials)} trials that differ: ask for no more, or give other ranges")
    return trials
