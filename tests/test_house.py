"""The architecture, read from the sources: which way imports point, what is used at run time, what is explained."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
from tiny import ROOT

FILES = sorted((ROOT / "minist").rglob("*.py"))
SCRIPTS = [ROOT / "train.py", ROOT / "encode.py"]
TREES = {file: ast.parse(file.read_text("utf-8")) for file in [*FILES, *SCRIPTS]}

# What each part may import of minist; a part may always import itself. The longest matching name counts.
ALONE = ("cli", "files", "checks", "progress")  # no numbers in them, but what every program has
BOTTOM = (
    *ALONE,
    "batch",
    "similarity",
    "quantization",
    "distributed",
    "collectives",
    "sharding",
    "diagnostics",
    "data",
    "module",
)
MODELS = (*BOTTOM, "encoders", "modules", "models")
ARROWS = {
    "cli": (),
    "files": ("checks",),
    "checks": (),
    "progress": (),
    "similarity": ("checks",),
    "quantization": ("checks",),
    "distributed": (),
    "collectives": ("distributed",),
    "sharding": ("distributed",),
    "batch": ("data.packed",),
    "diagnostics": ("batch", "data.packed", "similarity"),
    "data": ALONE,
    "module": ("data.packed", "checks"),
    "encoders": BOTTOM,
    "modules": (*BOTTOM, "encoders"),
    "models": (*BOTTOM, "encoders", "modules"),
    "losses": ("batch", "similarity", "data.packed", "checks", "files", "module", "modules"),
    "retrieval": ("similarity", "quantization", "checks", "progress", "files", "data"),
    "evaluation": (*MODELS, "retrieval"),
    "training": (*MODELS, "losses", "retrieval", "evaluation"),
    "__init__": (*MODELS, "losses"),
    "commands": (*MODELS, "losses", "retrieval", "evaluation", "training", "quantization"),
    "__main__": ("cli", "commands"),
}
PACKAGES = {"torch", "tokenizers", "safetensors", "numpy"}
DISTRIBUTED = ("minist/distributed.py", "minist/collectives.py", "minist/sharding.py")
ONLY_IN = {
    "tqdm": "minist/progress.py",
    "huggingface_hub": "minist/models/hub.py",
    "pyarrow": "minist/data/rows.py",  # which does without, but for parquet
}


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def module_name(file: Path) -> str:
    """minist/data/rows.py -> data.rows, minist/data/__init__.py -> data, minist/__init__.py -> __init__."""
    parts = file.relative_to(ROOT / "minist").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(file) for file in FILES} - {"__init__"}


def imports(tree: ast.AST) -> set[str]:
    """Full names of everything imported anywhere in a file, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def minist_imports(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports: minist.data.rows.read_rows -> data.rows."""
    found = set()
    for name in imports(tree):
        if name.split(".")[0] == "minist":
            inner = name.removeprefix("minist").lstrip(".")
            found.add(inner if inner in MODULES else inner.rpartition(".")[0] or "__init__")
    return found


def below(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_imports_point_one_way(file):
    part = module_name(file).split(".")[0]
    assert part in ARROWS, f"say in ARROWS what {part} may import"
    for name in minist_imports(TREES[file]):
        assert below(name, (part, *ARROWS[part])), f"{relative(file)} imports minist.{name}"


def test_the_arrows_have_no_circle():
    def reach(part, seen):
        for other in {target.split(".")[0] for target in ARROWS[part]} & ARROWS.keys():
            if other not in ("batch", "data"):  # batch names data's type, and data imports no batch
                assert other not in seen, f"{other} and {part} import each other"
            reach(other, (*seen, other)) if other not in seen else None

    for part in ARROWS:
        reach(part, (part,))
    assert "batch" not in ARROWS["data"]


def test_the_command_line_helper_stands_alone():
    """It answers mistakes before anything heavy is imported."""
    assert {name.split(".")[0] for name in imports(TREES[ROOT / "minist/cli.py"])} <= {"sys", "collections"}


@pytest.mark.parametrize("file", TREES, ids=relative)
def test_run_time_packages(file):
    for name in imports(TREES[file]):
        package = name.split(".")[0]
        if package in ONLY_IN:
            assert relative(file) == ONLY_IN[package], f"{package} belongs into {ONLY_IN[package]} alone"
        else:
            assert package in PACKAGES | {"minist"} | sys.stdlib_module_names, f"{relative(file)} imports {package}"


def attributes(tree: ast.AST) -> set[str]:
    """Dotted names that are read, such as torch.distributed."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("file", TREES, ids=relative)
def test_torch_distributed_stands_in_three_files(file):
    uses = {name for name in imports(TREES[file]) | attributes(TREES[file]) if name.startswith("torch.distributed")}
    assert bool(uses) == (relative(file) in DISTRIBUTED), uses


@pytest.mark.parametrize("file", TREES, ids=relative)
def test_our_own_objects_are_not_probed(file):
    calls = [
        node.func.id for node in ast.walk(TREES[file]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "hasattr" not in calls
    assert "setattr" not in calls
    assert "getattr" not in calls


def any_names(tree: ast.AST) -> list[str]:
    """Parameters that take whatever names there are, `**options`; one called `**theirs` is there to refuse them."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    taken = [node.args.kwarg for node in ast.walk(tree) if isinstance(node, kinds) and node.args.kwarg]
    return [f"line {parameter.lineno}: **{parameter.arg}" for parameter in taken if parameter.arg != "theirs"]


@pytest.mark.parametrize("file", TREES, ids=relative)
def test_arguments_have_names(file):
    assert any_names(TREES[file]) == []


def silent(tree: ast.Module) -> list[str]:
    """The file and its public classes, where they do not say what they are. A function's name and signature may."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    named = [("the file", tree), *((node.name, node) for node in classes)]
    return [name for name, node in named if not ast.get_docstring(node)]


@pytest.mark.parametrize("file", [file for file, tree in TREES.items() if tree.body], ids=relative)
def test_files_and_classes_say_what_they_are(file):
    assert silent(TREES[file]) == []


@cache
def covered() -> set[str]:
    """Modules of ours that some test file imports, by their own name or from the package that offers them."""
    found = set()
    for file in (ROOT / "tests").glob("*.py"):
        found |= minist_imports(ast.parse(file.read_text("utf-8")))
    packages = [file for file in FILES if file.name == "__init__.py" and module_name(file) in found]
    return found.union(*(minist_imports(TREES[file]) for file in packages))


@pytest.mark.parametrize("file", [f for f in FILES if TREES[f].body], ids=relative)
def test_every_file_has_a_test(file):
    assert module_name(file) in covered(), f"no test imports minist.{module_name(file)}"


@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_every_script_is_run_by_a_test(script):
    calls = f'run_script("{script.name}"'
    assert any(calls in file.read_text("utf-8") for file in (ROOT / "tests").glob("test_*.py"))


def test_these_checks_can_fail():
    """Each on a source that breaks the rule."""
    tree = ast.parse(
        "from minist.training.config import Config\nimport minist.models.folder as f\nimport torch.distributed"
    )
    assert minist_imports(tree) == {"training.config", "models.folder"}
    assert not below("models.folder", ("losses", "batch", "similarity"))
    assert not below("data_more", ("data",))
    assert "torch.distributed" in imports(tree)
    assert "torch.distributed.barrier" in attributes(ast.parse("torch.distributed.barrier()"))
    assert silent(ast.parse("class A:\n    def f(self): ...\nclass _B: ...\ndef h(): ...")) == ["the file", "A"]
    assert any_names(ast.parse("def f(**theirs): ...\nlambda **x: 1")) == ["line 2: **x"]
