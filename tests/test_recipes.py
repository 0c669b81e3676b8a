"""Every recipe of configs/ runs, with all commands of its header, at reduced size; and what tests/recipes.py does."""

import json
import math
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import recipes as module
from huggingface_hub import constants
from recipes import MARK, Recipe, Runner, all_recipes, commands_of, in_order, training_of
from reduced import TEXT, execute_reduced, rows_of, run_example
from tiny import ROOT

from minist.models import open_model
from minist.models.hub import find_model, name_of

RECIPES = all_recipes()
FAST = ("quickstart", "pair_classification", "distill", "lora", "rerank")  # of each kind one
FULL = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in RECIPES]
PROGRAMS = ("python", "torchrun", "head", "tail", "cat", "cp")


@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize("name", FULL)
def test_all_commands_run(reduced_folder, monkeypatch, name):
    monkeypatch.chdir(reduced_folder)
    runner, recipe = Runner(RECIPES, execute_reduced, judge=False), RECIPES[name]
    runner.run(recipe)
    for command in (recipe.own, *recipe.variants):
        result = runner.result(recipe, command)
        assert result and result["ok"], result
        if training := training_of(command):
            config = training.config
            assert set(result["metrics"]) == set(training_of(recipe.own).config.expect)
            measured = [values if config.expect else values[1:] for values in result["metrics"].values()]
            assert all(math.isfinite(value) for values in measured for value in values)
            open_model(Path(config.output) / "model", config.model.type)


# ------------------------------------------------------------ with the data of the original pages

# data set -> the columns of its subsets, as they are on the hub; a recipe may take those of one
TRIPLETS = {"anchor": TEXT, "positive": TEXT, "negative": TEXT}
PAIR_SCORE = {"sentence1": TEXT, "sentence2": TEXT, "score": [0.1, 0.9, 0.4]}
ORIGINALS = {
    "all_nli": [{"premise": TEXT, "hypothesis": TEXT, "label": [0, 1, 2]}, TRIPLETS, PAIR_SCORE],
    "stsb": [PAIR_SCORE],
    "quora_duplicates": [{"sentence1": TEXT, "sentence2": TEXT, "label": [0, 1]}, TRIPLETS],
    "msmarco": [{"query": TEXT, "positive": TEXT, "negative": TEXT}],
    "gooaq": [{"question": TEXT, "answer": TEXT}],
    "natural_questions": [{"query": TEXT, "answer": TEXT}],
    "trec": [{"text": TEXT, "coarse_label": [0, 1, 2, 3, 4, 5], "fine_label": [*range(6)]}],
    "wikipedia_sentences": [{"sentence": TEXT}],
    "askubuntu_questions": [{"text": TEXT}],
    "parallel_sentences": [{"english": TEXT, "non_english": TEXT}],
}
TABLE = re.compile(r"^\[\[data\]\]\n(.*?)(?=^\[|\Z)", re.DOTALL | re.MULTILINE)
COMMENTED = re.compile(r"^# (files|columns|label|format|sampler) = ", re.MULTILINE)


def with_originals(text: str) -> str:
    """A config whose data tables are those that its comments show, where they show some."""

    def change(match: re.Match) -> str:
        table = match[0]
        keys = [*COMMENTED.findall(table), "source", "files", "format"]
        if len(keys) == 3:
            return table
        own = re.sub(rf"^({'|'.join(keys)}) = .*\n", "", table, flags=re.MULTILINE)
        return COMMENTED.sub(r"\1 = ", own)

    return TABLE.sub(change, text)


ORIGINAL = [name for name, recipe in RECIPES.items() if with_originals(recipe.text) != recipe.text]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize("name", ORIGINAL)
def test_with_the_data_of_the_original_page(reduced_folder, monkeypatch, name):
    monkeypatch.chdir(reduced_folder)
    text = with_originals(RECIPES[name].text)
    for entry in tomllib.loads(text)["data"]:
        write_original(entry)
    Runner(RECIPES, execute_reduced, judge=False).prepare(RECIPES[name])
    # the evaluations are of the recipe's own data, and may speak of its classes
    run_example("toml", re.sub(r"^best = .*\n", "", text.partition("[[eval]]")[0], flags=re.MULTILINE), name)


def write_original(entry: dict) -> None:
    """The files of an entry, with the columns that the data set has and no others."""
    made = str(entry.get("label")).endswith(".npy")  # by a command, of those files
    columns = {*entry["columns"].values(), *([entry["label"]] if "label" in entry and not made else [])}
    for file in map(Path, entry.get("files", [])):
        if known := ORIGINALS.get(file.parts[1]):  # another recipe may have written another subset
            subset = next((subset for subset in known if columns <= subset.keys()), None)
            assert subset, f"{file.parts[1]} has no {columns}, it has {known}"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = rows_of(30, 7, **subset)
            lines = [",".join(map(str, values)) for values in (subset, *(row.values() for row in rows))]
            is_table = file.suffix == ".csv"
            file.write_text("".join(f"{line}\n" for line in (lines if is_table else map(json.dumps, rows))))
            if made:
                np.save(entry["label"], np.zeros((30, 384), "float32"))


def test_comments_become_the_table():
    text = '[[data]]\nsource = "a"\nlabel = "l"\nloss = "L"\n# files = ["f"]\n# label = "m"\n# why\n\n[train]\n'
    assert with_originals(text) == '[[data]]\nloss = "L"\nfiles = ["f"]\nlabel = "m"\n# why\n\n[train]\n'
    assert with_originals(own := '[[data]]\nsource = "a"\n\n[train]\n# label = 1\n') == own


# ------------------------------------------------------------ their form


@pytest.mark.parametrize("name", RECIPES)
def test_form(name):
    recipe, config = RECIPES[name], training_of(RECIPES[name].own).config
    assert len(recipe.text.splitlines()) < 40
    assert config.output == f"runs/{name}" and "\nseed = " in recipe.text  # named alike, so that recipes do not meet
    assert recipe.own == f"torchrun --nproc_per_node=2 train.py --config configs/{name}.toml"
    for command in (*recipe.before, *recipe.variants):
        assert command.split()[0] in PROGRAMS, command
    outputs = [training_of(command).config.output for command in recipe.variants if training_of(command)]
    assert len({config.output, *outputs}) == len(outputs) + 1, "each variant has an output of its own"
    assert config.expect, "what must it reach?"
    assert "minist/" in recipe.text.partition(MARK)[0], "which file tells how it works?"
    for file in re.findall(r"minist/[\w/]+\.py", recipe.text):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", RECIPES)
def test_what_it_needs_is_written_as_there(name):
    for command in RECIPES[name].before:
        if training := training_of(command):
            other = RECIPES[training.recipe]
            assert command.partition("  #")[0] in (other.own, *other.variants)
    in_order(RECIPES, [name])  # no circle


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_held_out_is_trained_on(name):
    config = training_of(RECIPES[name].own).config
    trained = {str(path) for entry in config.data for path in entry.paths()}
    assert not trained & {file for entry in config.eval for file in entry.files}
    assert not [file for file in trained if "heldout" in file]
    makers = [command for command in RECIPES[name].before if trained & set(command.split())]
    assert not [command for command in makers if "heldout" in command]  # nor under another name


# ------------------------------------------------------------ what runs them


def test_commands():
    text = "# a\n#   one --x \\\n#     --y\n#\n#   two  # why\n# b #   no\n#  no\nkey = 1\n#   no\n"
    assert commands_of(text) == ["one --x --y", "two  # why"]
    assert commands_of("#   a\n#   b \\\n#   c \\\n#   d\n#   e") == ["a", "b c d", "e"]
    assert training_of("torchrun --nproc_per_node=2 train.py --config configs/a.toml --set b=1 --set c='2 3'") == (
        "a",
        ["b=1", "c=2 3"],
    )
    assert training_of("python -m minist mine --set a") is None


def recipe(name, before=(), variants=()):
    return Recipe(name, f"text of {name}", list(before), train(name), list(variants))


def train(name, more=""):
    return f"python train.py --config configs/{name}.toml{more}"


def test_order():
    recipes = {"a": recipe("a", [train("c")]), "b": recipe("b"), "c": recipe("c", ["cp x y", train("b")])}
    assert [r.name for r in in_order(recipes, recipes)] == ["b", "c", "a"]
    assert [r.name for r in in_order(recipes, ["c"])] == ["b", "c"]
    recipes["b"] = recipe("b", [train("a")])
    with pytest.raises(ValueError, match="a -> c -> b -> a is a circle"):
        in_order(recipes, ["a"])
    with pytest.raises(ValueError, match="there is no recipe 'd': known are a, b, c"):
        in_order(recipes, ["d"])


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Recipes a and b, of which b needs a, in an empty folder; and what was run of them."""
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    text = '\n[model]\npath = "m"\n[[data]]\nfiles = ["f"]\ncolumns = { a = "a" }\n[[eval]]\nfiles = ["g"]\n'
    text += 'columns = { a = "a" }\nevaluator = "e"\n[expect]\nx = 0.5\ny_loss = 3\n'
    before = {"a": [], "b": ["cp a b", train("a")]}
    for name, needs in before.items():
        header = "".join(f"#   {c}\n" for c in [*needs, train(name), train(name, f" --set output=runs/{name}2")])
        (tmp_path / f"configs/{name}.toml").write_text(f'{header}output = "runs/{name}"{text}')
    monkeypatch.setattr(module, "commit", lambda: "abc")
    return Shop(all_recipes())


class Shop:
    def __init__(self, recipes):
        self.recipes, self.ran, self.reached, self.codes = recipes, [], {"x": 0.6, "y_loss": 2.0}, {}

    def execute(self, command, log):
        self.ran.append(command)
        if training := training_of(command):
            output = Path(training.config.output)
            (output / "model").mkdir(parents=True, exist_ok=True)
            lines = [{"step": 0, "x": 0.2, "y_loss": 4.0}, {"step": 1, "loss": 1}, {"step": 2, **self.reached}]
            (output / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
            (output / "config.toml").write_text(Path(f"configs/{training.recipe}.toml").read_text())
        return self.codes.get(command, 0)

    def run(self, *names, again=False):
        """What was run for these, and what is wrong with it."""
        runner, self.ran = Runner(self.recipes, self.execute, again), []
        for name in names:
            runner.run(self.recipes[name])
        return [c.replace("python train.py --config configs/", "") for c in self.ran], [
            wrong for r in runner.results for wrong in r["wrong"]
        ]


def test_needs_come_first_and_nothing_runs_twice(shop):
    assert shop.run("b") == (["cp a b", "a.toml", "b.toml", "b.toml --set output=runs/b2"], [])
    assert shop.run("a", "b")[0] == ["a.toml --set output=runs/a2"]  # a itself was run for b
    assert shop.run("a", "b")[0] == []
    assert shop.run("b", again=True)[0] == ["cp a b", "b.toml", "b.toml --set output=runs/b2"]  # a's model is there
    lines = [json.loads(line) for line in module.RESULTS.read_text().splitlines()]
    assert [line["recipe"] for line in lines] == ["a", "b", "b2", "a2", "b", "b2"]
    assert lines[1]["metrics"] == {"x": [0.2, 0.6], "y_loss": [4.0, 2.0]} and lines[1]["commit"] == "abc"


def test_a_changed_recipe_runs_again(shop):
    shop.run("a")
    changed = Path("configs/a.toml")
    changed.write_text(changed.read_text().replace('path = "m"', 'path = "n"'))
    shop.recipes = all_recipes()
    assert shop.run("b")[0][1] == "a.toml"  # b needs a model of the recipe as it is now
    assert shop.run("a")[0] == ["a.toml --set output=runs/a2"]


def test_what_is_wrong(shop):
    shop.reached = {"x": 0.4, "y_loss": 2.0}
    assert shop.run("a")[1] == ["x is 0.4000, expected 0.5"] * 2
    shop.reached = {"x": 0.6, "y_loss": 3.5}
    assert shop.run("a")[1][2:] == ["y_loss is 3.5000, expected 3"] * 2, "what was wrong is run again"
    shop.reached = {"x": math.nan, "y_loss": 5.0}
    found = shop.run("a")[1][4:8]
    assert found == [
        "x is nan, expected 0.5",
        "x was 0.2000 before",
        "y_loss is 5.0000, expected 3",
        "y_loss was 4.0000 before",
    ]


def test_a_failure_before_is_one_of_it(shop):
    shop.codes = {"cp a b": 1}
    assert shop.run("b") == (["cp a b"], ["exit code 1 of: cp a b"])
    shop.codes = {train("a"): 2}
    ran, wrong = shop.run("b")
    assert ran == ["cp a b", "a.toml"] and wrong[-2:] == ["exit code 2, see runs/recipes/a.log", "it needs a"]


def test_the_best_is_what_counts(shop):
    config = training_of(train("a", " --set train.best=x")).config
    Path("runs/a").mkdir(parents=True)
    found = [{"step": 0, "x": 0.1, "y_loss": 9.0}, {"step": 1, "x": 0.8, "y_loss": 2.5}]
    found.append({"step": 2, "x": 0.7, "y_loss": 2.0})
    Path("runs/a/metrics.jsonl").write_text("\n".join(map(json.dumps, found)))
    assert module.measured(config, ["x", "y_loss"]) == {"x": [0.1, 0.8], "y_loss": [9.0, 2.5]}
    Path("runs/a/metrics.jsonl").write_text(json.dumps(found[2]))  # of a run that was not measured before
    assert module.measured(config, ["x"]) == {"x": [pytest.approx(math.nan, nan_ok=True), 0.7]}


def test_table():
    ran = {"recipe": "a", "metrics": {"x": [0.1, 0.2], "y": [1, 2]}, "seconds": 61.2, "wrong": []}
    failed = {"recipe": "b", "metrics": {}, "seconds": 1, "wrong": ["exit code 1", "c"]}
    assert module.table([ran, failed]).splitlines()[2:] == [
        "| a | x | 0.100 | 0.200 | 61 s |",
        "|  | y | 1.000 | 2.000 |  |",
        "| b | exit code 1; c | | | |",
    ]


def test_models_have_their_names_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models/all-MiniLM-L6-v2").mkdir(parents=True)
    (tmp_path / "models/all-MiniLM-L6-v2/config.json").write_text("{}")
    (tmp_path / "models/all-MiniLM-L6-v2/modules.json").write_text("[]")
    monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    for _ in range(2):
        module.lay_out_hub(tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = find_model(name := "sentence-transformers/all-MiniLM-L6-v2")
    assert (folder / "config.json").read_text() == "{}" and name_of(folder)[0] == name


@pytest.mark.slow
def test_all_of_a_command_ends(tmp_path):
    """Killed as a whole, by SIGTERM: no process stays that trains on."""
    program = (
        "import sys, signal, recipes; from pathlib import Path; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))"
    )
    program += "; recipes.execute('echo $$ > pid; sleep 300; true', Path('log'))"
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    while not ((tmp_path / "pid").exists() and (child := (tmp_path / "pid").read_text())):
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)
