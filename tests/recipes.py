"""Run the recipes: the commands in the headers of configs/*.toml, each after what it needs, and a table of the results.

python tests/recipes.py                    # all, one after the other: some hours
python tests/recipes.py rerank distill     # these, and what they need
python tests/recipes.py --again lora       # though there is a result of this very file
python tests/recipes.py --reduced          # a few steps of tiny models, in a temporary folder

Each run is a line in runs/recipes.jsonl; what has one that is good, for the config as it is now, is not run again. So a
script that was killed goes on. Exit code 1: a run failed, did not reach [expect], or was no better than its start.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script it sees only its own folder

from fetch_models import MODELS, fetch

from minist.files import complete_file
from minist.training.config import Config, load_config
from minist.training.selection import falls

ROOT = Path(__file__).parents[1]
RESULTS, LOGS, HUB = Path("runs/recipes.jsonl"), Path("runs/recipes"), Path("runs/hub")
ON_THE_HUB = {"sentence-transformers/all-MiniLM-L6-v2": "all-MiniLM-L6-v2"}  # what recipes call it -> in tests/.models
MARK = "#   "  # with which the line of a command begins
Execute = Callable[[str, Path], int]  # a command, the file for its output -> exit code


class Training(NamedTuple):
    """What a command that runs train.py is about."""

    recipe: str
    overrides: list[str]

    @property
    def config(self) -> Config:
        return load_config(ROOT / f"configs/{self.recipe}.toml", self.overrides)


class Recipe(NamedTuple):
    """A file in configs/, with the commands of its header."""

    name: str
    text: str
    before: list[str]  # other recipes' training, and what makes files
    own: str
    variants: list[str]

    @property
    def needs(self) -> list[str]:
        return [training.recipe for training in map(training_of, self.before) if training]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def commands_of(text: str) -> list[str]:
    """The commands in a config's header: lines that begin with MARK; a backslash at the end goes on in the next."""
    commands, open_line = [], False
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.startswith(MARK):
            part = line.removeprefix(MARK).strip()
            commands[-1:] = [f"{commands[-1]} {part}"] if open_line else [*commands[-1:], part]
            open_line = part.endswith("\\")
            commands[-1] = commands[-1].removesuffix("\\").rstrip()
    return commands


def training_of(command: str) -> Training | None:
    """None of a command that does not train."""
    words = shlex.split(command, comments=True)
    if "train.py" not in words:
        return None
    after = list(pairwise(words))
    (config,) = [Path(value) for word, value in after if word == "--config"]
    return Training(config.stem, [value for word, value in after if word == "--set"])


def read_recipe(file: Path) -> Recipe:
    """ValueError for one without a command that trains it as it is."""
    text, name = file.read_text("utf-8"), file.stem
    commands = commands_of(text)
    own = next((c for c in commands if training_of(c) == Training(name, [])), None)
    if own is None:
        raise ValueError(f"{file}: the header has no line '{MARK}torchrun --nproc_per_node=2 train.py --config {file}'")
    place = commands.index(own)
    return Recipe(name, text, commands[:place], own, commands[place + 1 :])


def all_recipes() -> dict[str, Recipe]:
    return {file.stem: read_recipe(file) for file in sorted((ROOT / "configs").glob("*.toml"))}


def in_order(recipes: dict[str, Recipe], wanted: Iterable[str], above: Sequence[str] = ()) -> list[Recipe]:
    """`wanted` and all that they need, what is needed first. ValueError for a circle, or a name that there is not."""
    found: dict[str, Recipe] = {}
    for name in wanted:
        if name not in recipes or name in above:
            why = f"{' -> '.join([*above, name])} is a circle" if name in above else f"there is no recipe {name!r}"
            raise ValueError(f"{why}: known are {', '.join(recipes)}")
        found |= {r.name: r for r in in_order(recipes, recipes[name].needs, (*above, name))} | {name: recipes[name]}
    return list(found.values())


class Runner:
    """Runs recipes in the current folder, and keeps their results there."""

    def __init__(self, recipes: dict[str, Recipe], execute: Execute, again: bool = False, judge: bool = True) -> None:
        self.recipes, self.execute, self.again, self.judge = recipes, execute, again, judge
        lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
        self.results = [json.loads(line) for line in lines]

    def result(self, recipe: Recipe, command: str) -> dict[str, Any] | None:
        """The last one of this command, with the config as it is now."""
        same = (r for r in reversed(self.results) if (r["command"], r["config"]) == (command, recipe.hash))
        return next(same, None)

    def run(self, recipe: Recipe) -> None:
        """All of its commands of which there is no good result."""
        open_ = [
            c for c in (recipe.own, *recipe.variants) if self.again or not (self.result(recipe, c) or {}).get("ok")
        ]
        if not open_:
            return print(f"{recipe.name}: has its results")
        seconds = self.prepare(recipe)
        for command in open_ if seconds is not None else ():
            self.run_one(recipe, command, seconds if command == recipe.own else 0.0)

    def prepare(self, recipe: Recipe) -> float | None:
        """Make what it needs: models, unless they are there, and files. The seconds of the files; None if it failed."""
        seconds = 0.0
        for command in recipe.before:
            training = training_of(command)
            if training is None:
                code, more = self.time(recipe, command)
                seconds += more
                if code:
                    return self.keep(recipe, recipe.own, {}, seconds, [f"exit code {code} of: {command}"])
            elif not self.is_made(training.config):
                need = self.recipes[training.recipe]
                before = self.prepare(need)
                if before is None or not self.run_one(need, command, before):
                    return self.keep(recipe, recipe.own, {}, seconds, [f"it needs {need.name}"])
        return seconds

    def is_made(self, config: Config) -> bool:
        """Whether its model is there, of the config as it is now."""
        output = Path(config.output)
        return (output / "model").exists() and (not self.judge or load_config(output / "config.toml", []) == config)

    def run_one(self, recipe: Recipe, command: str, seconds: float) -> bool:
        """Run a command and write down what it reached; `seconds` are those of its files. Whether there is a model."""
        code, own_seconds = self.time(recipe, command)
        training, own = training_of(command), training_of(recipe.own)
        config = training.config if training else None
        metrics, wrong = {}, []
        if config and own and (Path(config.output) / "model").exists():  # also of one that has missed what is expected
            metrics = measured(config, list(own.config.expect))
            expected = config.expect.items() if self.judge else ()
            wrong = [reason for name, value in expected for reason in judge(name, value, metrics)]
        if code and not wrong:
            wrong = [f"exit code {code}, see {LOGS / recipe.name}.log"]
        self.keep(recipe, command, metrics, own_seconds + seconds, wrong)
        return code == 0

    def time(self, recipe: Recipe, command: str) -> tuple[int, float]:
        print(f"{recipe.name}: {command}", flush=True)
        LOGS.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        code = self.execute(command, LOGS / f"{recipe.name}.log")
        return code, time.perf_counter() - started

    def keep(self, recipe: Recipe, command: str, metrics: dict[str, Any], seconds: float, wrong: list[str]) -> None:
        training = training_of(command)
        name = Path(training.config.output).name if training else recipe.name
        about = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "commit": commit()}
        line: dict[str, Any] = {
            "recipe": name,
            "command": command,
            "config": recipe.hash,
            "ok": not wrong,
            "wrong": wrong,
        }
        self.results.append(line | {"metrics": metrics, "seconds": round(seconds, 1)} | about)
        with complete_file(RESULTS) as file:  # whole, whenever this script is killed
            file.write_text("".join(json.dumps(result) + "\n" for result in self.results), "utf-8")
        shown = [f"{metric} {before:.4f} -> {after:.4f}" for metric, (before, after) in metrics.items()]
        print("  " + ", ".join([f"{seconds:.0f} s", *shown, *wrong]), flush=True)


def measured(config: Config, metrics: Sequence[str]) -> dict[str, list[float]]:
    """Each of the metrics before the first step, where that was measured, and of the model that was saved."""
    lines = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text("utf-8").splitlines()]
    found = [line for line in lines if line.keys() >= set(metrics)]
    unknown = dict.fromkeys(metrics, math.nan)  # of a variant that nothing is expected of
    first, last = found[0] if found[0]["step"] == 0 else unknown, found[-1]
    if best := config.train.best:
        last = (min if falls(best) else max)(found, key=lambda line: line[best])
    return {metric: [first[metric], last[metric]] for metric in metrics}


def judge(name: str, expected: float, metrics: dict[str, list[float]]) -> list[str]:
    """What is wrong with a metric, if anything."""
    before, after = metrics[name]
    sign = -1 if falls(name) else 1
    missed = [f"{name} is {after:.4f}, expected {expected}"] if not sign * after >= sign * expected else []
    return missed + ([f"{name} was {before:.4f} before"] if not sign * after > sign * before else [])


def table(results: Iterable[dict[str, Any]]) -> str:
    """Markdown, a row for each metric of each run."""
    rows = ["| recipe | measured | before | after | time |", "|---|---|---|---|---|"]
    for result in results:
        name, time_ = result["recipe"], f"{result['seconds']:.0f} s"
        for metric, (before, after) in result["metrics"].items():
            rows.append(f"| {name} | {metric} | {before:.3f} | {after:.3f} | {time_} |".replace(" nan ", " "))
            name, time_ = "", ""
        rows += [f"| {result['recipe']} | {'; '.join(result['wrong'])} | | | |"] if result["wrong"] else []
    return "\n".join(rows)


@cache
def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} x {models[0] if models else platform.processor() or platform.machine()}"


@cache
def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def lay_out_hub(cache_folder: Path) -> None:
    """A Hugging Face cache in which the models of tests/.models have the names that recipes use; fetched if missing."""
    for name, model in ON_THE_HUB.items():
        if not (MODELS / model / "config.json").exists():
            fetch(model)
        revision = hashlib.sha1(name.encode()).hexdigest()  # a cache has a folder for each commit
        place = cache_folder / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs/main").write_text(revision)
        (place / "snapshots").mkdir(exist_ok=True)
        link = place / "snapshots" / revision
        if not link.exists():
            link.unlink(missing_ok=True)  # a link to what has moved
            link.symlink_to((MODELS / model).resolve(), target_is_directory=True)


def execute(command: str, log: Path) -> int:
    """Run it in a shell here. An earlier run of the same name is replaced, since a result without an end is none."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": here, "HF_HUB_CACHE": str(HUB.resolve()), "HF_HUB_OFFLINE": "1"}
    whole = command.replace("train.py ", "train.py --overwrite ", 1)
    with log.open("w") as file:
        process = subprocess.Popen(whole, shell=True, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C, SIGTERM: torchrun passes it on to its processes
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if code:
        print(*log.read_text("utf-8", "replace").splitlines()[-10:], sep="\n")
    return code


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="recipes (default: all)")
    parser.add_argument("--again", action="store_true", help="run what has a result, too")
    parser.add_argument("--reduced", action="store_true", help="a few steps of tiny models, in a temporary folder")
    return parser.parse_args()


def main() -> int:
    args, recipes = parse(), all_recipes()
    chosen = [recipe for recipe in in_order(recipes, args.names or recipes) if recipe.name in (args.names or recipes)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if args.reduced:
        from reduced import execute_reduced, lay_out

        os.chdir(tempfile.mkdtemp())
        lay_out(Path.cwd())
        print(f"in {Path.cwd()}")
    else:
        os.chdir(ROOT)
        lay_out_hub(HUB)
    runner = Runner(recipes, execute_reduced if args.reduced else execute, args.again, judge=not args.reduced)
    for recipe in chosen:
        runner.run(recipe)
    results = [r for r in (runner.result(c, x) for c in chosen for x in (c.own, *c.variants)) if r]
    print("\n" + table(results))
    return int(any(result["wrong"] for result in results))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
