"""README.md and the others beside the code: what they name is there, and their blocks are code that runs."""

import ast
import re
import tomllib

import pytest
from models import MODELS, real_model
from tiny import GUIDES, ROOT, sentences, write_jsonl

from minist.__main__ import COMMANDS

TEXTS = {guide.relative_to(ROOT).as_posix(): guide.read_text("utf-8") for guide in GUIDES}
BLOCKS = [
    (name, *found) for name, text in TEXTS.items() for found in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
]
PATHS = {  # what blocks call models, and ones to run them with
    "sentence-transformers/all-MiniLM-L6-v2": MODELS / "all-MiniLM-L6-v2",
    '"all-MiniLM-L6-v2"': f'"{MODELS / "all-MiniLM-L6-v2"}"',
    "path/to/all-MiniLM-L6-v2": MODELS / "all-MiniLM-L6-v2",
    "path/to/a-multilingual-model": MODELS / "all-MiniLM-L6-v2",
    "path/to/ms-marco-MiniLM-L6-v2": ROOT / "tests/data/folders/st6/ce",
    "path/to/splade": MODELS / "splade-tiny",
    '"M2"': f'"{ROOT / "tests/data/folders/st6/ce"}"',
}
# of GPUs, of a model of three classes that no test has, of an adapter; those on engines are run in tests/parity
NOT_RUN = ("cuda:0", "nli-MiniLM", "path/to/adapter", "import faiss", "qdrant_client", "bulk.ndjson")
GIVEN = {"texts": sentences(30), "queries": sentences(9, 1), "positives": sentences(9, 2), "corpus": sentences(40, 3)}


def blocks(*languages):
    chosen = [(name, code) for name, language, code in BLOCKS if language in languages]
    return [pytest.param(name, code, id=f"{name}-{i}") for i, (name, code) in enumerate(chosen)]


# those of an EXAMPLES.md run in test_coverage.py, beside files as they name them
RUN = [p for p in blocks("python") if "EXAMPLES" not in p.values[0] and not any(w in p.values[1] for w in NOT_RUN)]


def test_the_readme_is_an_introduction():
    assert len(TEXTS["README.md"].splitlines()) < 500


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        file, _, place = link.partition("#")
        if "://" in link:
            continue
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if place else []
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}  # as GitHub makes them
        assert not place or place in anchors, link


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_named_are_there(name):
    """By their path in the repository, in the package, or beside the README."""
    for file in re.findall(r"`([\w/]+\.(?:py|toml|md))`", TEXTS[name]):
        places = [ROOT, ROOT / "minist", ROOT / "configs", *(ROOT / "minist").rglob("*/")]
        assert any((place / file).exists() for place in places) or file in ("my.toml", "best.toml", "config.toml"), file


@pytest.mark.parametrize("name", TEXTS)
def test_commands_that_are_named_exist(name):
    for command in re.findall(r"python -m minist (\w+)", TEXTS[name]):
        assert command in COMMANDS, command


@pytest.mark.parametrize(("name", "code"), blocks("toml"))
def test_configs_are_toml(name, code):
    assert tomllib.loads(code)


@pytest.mark.parametrize(("name", "code"), blocks("python"))
def test_programs_can_be_read(name, code):
    ast.parse(code)


@pytest.mark.real_model
@pytest.mark.parametrize(("name", "code"), RUN)
@pytest.mark.filterwarnings("ignore")
def test_programs_run(name, code, tmp_path, monkeypatch):
    for model in ("all-MiniLM-L6-v2", "splade-tiny"):
        real_model(model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/python_docs").mkdir(parents=True)
    rows = [{"summary": text, "body": text} for text in sentences(200, 4)]
    write_jsonl(tmp_path / "data/python_docs/heldout.jsonl", rows)
    for written, real in PATHS.items():
        code = code.replace(written, str(real))
    exec(compile(code, name, "exec"), dict(GIVEN))
