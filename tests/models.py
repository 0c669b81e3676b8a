"""Real models and real texts, for tests and benchmarks."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

MODELS = Path(__file__).parent / ".models"
DATA = Path(__file__).parent / "data"


def real_model(name: str) -> Path:
    """The folder of a fetched model; skips the test that asks for one that is missing."""
    if not (MODELS / name / "config.json").exists():
        pytest.skip("run python tests/fetch_models.py")
    return MODELS / name


def docstrings() -> Iterator[str]:
    """The docstrings of the standard library's modules, classes and functions, as they are written."""
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield text
