"""The table of code_table.py counts what it says."""

import re
import sys
from pathlib import Path

import pytest
from code_table import GUIDES, NUMBERED, STEP, TOTAL, Counts, Figure, figures, main, measure, with_line_counts
from tiny import ROOT, sentences, tiny_model, write_jsonl

import train
from minist.training.config import load_config
from minist.training.run import start_run

SOURCE = '''"""A file
of two lines."""

import x  # why

# alone
def f(a):  # noqa: X
    """Short."""
    if isinstance(a, int):
        raise ValueError("# no comment")
    return a


class A:
    async def g(self): ...
'''


def test_counts():
    assert measure(SOURCE) == Counts(lines=15, code=7, comments=2, isinstance=1, raises=1, functions=[5, 1])
    assert measure("") == Counts(0, 0, 0, 0, 0, [])


def test_limits():
    most, least, none = Figure("a", 5, 5), Figure("b", 10.0, -10), Figure("c", 9)
    assert most.is_kept and least.is_kept and none.is_kept
    assert not most._replace(value=6).is_kept
    assert not least._replace(value=9.9).is_kept
    assert str(most._replace(value=6)).split() == ["a", "6", "at", "most", "5", "MISSED"]
    assert str(least).split() == ["b", "10.0", "at", "least", "10"]
    assert str(none).split() == ["c", "9"]


@pytest.mark.slow
def test_the_table_of_this_checkout(capsys):
    assert main(ROOT) == int(not all(figure.is_kept for figure in figures(ROOT)))
    assert len(capsys.readouterr().out.splitlines()) == len(figures(ROOT))
    assert len(set(STEP)) == 16


@pytest.mark.parametrize("guide", GUIDES)
def test_guides_say_how_many_lines_a_file_has(guide):
    """python tests/code_table.py --write mends them."""
    text = (ROOT / guide).read_text("utf-8")
    assert len(NUMBERED.findall(text)) >= 16
    assert with_line_counts(text, ROOT) == text
    wrong = TOTAL.sub(r"\g<1>1", NUMBERED.sub(r"\g<1>1\g<4>", text))
    assert wrong != text and with_line_counts(wrong, ROOT) == text


CONFIG = """
output = "run"
[model]
path = "model"
[[data]]
files = ["rows.jsonl"]
columns = { anchor = "a", positive = "b" }
loss = { name = "MatryoshkaLoss", matryoshka_dims = [16, 8], loss = { name = "MultipleNegativesRankingLoss" } }
[train]
batch_size = 8
mini_batch_tokens = 32
"""


def test_a_step_runs_in_the_files_that_the_readme_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(CONFIG)
    write_jsonl(Path("rows.jsonl"), [{"a": a, "b": b} for a, b in zip(sentences(8, 1), sentences(8, 2), strict=True)])
    tiny_model().save("model")
    run = start_run(load_config(Path("c.toml"), []), resume=False, overwrite=False)
    place, files = next(run.batches.start_at(0)), set()
    sys.setprofile(lambda frame, event, argument: files.add(frame.f_code.co_filename))
    try:
        train.take_step(run, place)
    finally:
        sys.setprofile(None)
    ran = {Path(file).relative_to(ROOT).as_posix() for file in files if file.startswith(str(ROOT))}
    text = (ROOT / "minist/README.md").read_text("utf-8").partition("## One step")[2].partition("## All files")[0]
    table, _, passing = text.partition("In passing")
    listed = set(re.findall(r"`([\w/]+\.py)`", table))
    assert listed == set(STEP)
    ours = {file for file in ran if file.startswith(("minist", "train"))}
    assert ours - listed == {f"minist/{name}" for name in re.findall(r"`([\w/]+\.py)`", passing)}
    assert listed - ours <= {"minist/batch.py"}  # a table of names, which runs nothing
