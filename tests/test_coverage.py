"""Every loss, sampler, evaluator and part of a model is used by a recipe, or by an example of EXAMPLES.md that runs."""

import ast
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from recipes import Runner, all_recipes, training_of
from reduced import MADE, execute_reduced, run_example
from tiny import ROOT

from minist import evaluation, losses
from minist.data.samplers import MIXINGS, SAMPLERS
from minist.losses import cross_encoder, over_tokens
from minist.modules import MODULES
from minist.modules.decoder import Decoder
from minist.modules.lora import LoraLinear
from minist.training.construct import read_table

RECIPES = all_recipes()


class Block(NamedTuple):
    """What stands between ```toml or ```python and ``` in an EXAMPLES.md; blocks of a page run in their order."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.parent.name}-{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in sorted((ROOT / "minist").rglob("EXAMPLES.md")):
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```(toml|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            found.append(Block(page, text[: match.start()].count("\n") + 1, match[1], match[2]))
    return found


EXAMPLES = blocks()
RAN: set[Block] = set()  # in this session


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_example(reduced_folder, monkeypatch, block):
    monkeypatch.chdir(reduced_folder)
    run_example(block.language, block.code, str(block))
    RAN.add(block)


# ------------------------------------------------------------ by their names in configs


def tables() -> list[dict]:
    """The TOML of each training of each recipe, and of each example."""
    trainings = [training for r in RECIPES.values() for c in (r.own, *r.variants) if (training := training_of(c))]
    found = [read_table(ROOT / f"configs/{training.recipe}.toml", training.overrides) for training in trainings]
    return found + [tomllib.loads(block.code) for block in EXAMPLES if block.language == "toml"]


def names_in(value: object) -> set[str]:
    """All texts in a value of TOML."""
    if isinstance(value, dict | list):
        return {name for inner in (value.values() if isinstance(value, dict) else value) for name in names_in(inner)}
    return {value} if isinstance(value, str) else set()


def called() -> set[str]:
    """Names that the Python of the examples calls."""
    nodes = [node for b in EXAMPLES if b.language == "python" for node in ast.walk(ast.parse(b.code))]
    return {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


USED = {"losses": set(), "cross_encoder": set(), "evaluation": called(), "sampler": {"shuffled"}, "mixing": set()}
for table in tables():
    shelf = "cross_encoder" if table.get("model", {}).get("type") == "CrossEncoder" else "losses"
    for entry in (*table.get("data", []), *table.get("eval", [])):
        USED[shelf] |= names_in(entry.get("loss", {}))
        USED["evaluation"] |= names_in(entry.get("evaluator", {}))
        USED["sampler"].add(entry.get("sampler", "shuffled"))
    USED["mixing"].add(table.get("train", {}).get("mixing", "proportional"))


def shelf_of(package) -> dict[str, set[str]]:
    """Each thing of a package with all of its names there: SparseTripletLoss is TripletLoss."""
    things = {name: vars(package)[name] for name in package.__all__}
    return {name: {other for other in things if things[other] is thing} for name, thing in things.items()}


WANTED = {
    "losses": shelf_of(losses) | shelf_of(over_tokens),
    "cross_encoder": shelf_of(cross_encoder),
    "evaluation": shelf_of(evaluation),
    "sampler": {name: {name} for name in SAMPLERS},
    "mixing": {name: {name} for name in MIXINGS},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in WANTED.items() for name in names])
def test_in_a_recipe_or_example(kind, name):
    assert WANTED[kind][name] & USED[kind], "use it in a recipe of configs/, or in an EXAMPLES.md"


# ------------------------------------------------------------ by what is made when they run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_all_parts_of_models(reduced_folder, monkeypatch):
    monkeypatch.chdir(reduced_folder)
    runner = Runner(RECIPES, execute_reduced, judge=False)
    for recipe in RECIPES.values():  # those with a result have run in this session; variants have the same parts
        runner.run(recipe._replace(variants=[]))
    for block in EXAMPLES if not RAN.issuperset(EXAMPLES) else ():  # one may use what those before it have made
        run_example(block.language, block.code, str(block))
    parts = {part.__name__ for part in (*MODULES.values(), Decoder, LoraLinear)} - {"Transformer"}
    assert parts - MADE == set()
