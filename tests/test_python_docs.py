"""The text collection made of docstrings."""

import json

import pytest

from minist.data.sources import python_docs, split

BODY = "It is read from the start, line by line, and every line is split into its fields."


def write(folder, name, *docstrings):
    """A source file with one function for each docstring."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    functions = [f"def f{i}():\n    {text!r}\n" for i, text in enumerate(docstrings)]
    (folder / name).write_text("raise SystemExit('must not run')\n" + "".join(functions))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Read a\n   csv file.\n\n{BODY}\n\nMore.", {"summary": "Read a csv file.", "body": f"{BODY} More."}),
        (f"Read it.\n\n{BODY}", None),  # two words
        ("Read a csv file.\n\nIt is read from the start.", None),
        ("Read a csv file.", None),
        ("", None),
        (f"Read a csv file.\n\nThis says: READ a CSV, file! {BODY}", None),  # a search for its own words
        (f"{'word ' * 50}\n\n{BODY}", None),  # more than 200 letters
    ],
)
def test_split_docstring(text, expected):
    assert python_docs.split_docstring(text) == expected


def test_a_long_body_is_cut():
    pair = python_docs.split_docstring("Read a csv file.\n\n" + "w " * 1000)
    assert (pair["summary"], len(pair["body"].split())) == ("Read a csv file.", python_docs.MAX_BODY_WORDS)


def test_collect_pairs(tmp_path):
    write(tmp_path, "a.py", f"Read a csv file.\n\n{BODY}", f"Write a csv file.\n\n{BODY}")  # the body again
    write(tmp_path, "b/c.py", f"Read a CSV file!\n\n{BODY.replace('line', 'row')}")  # the summary again
    write(tmp_path, "b/d.py", f"Sort a long list.\n\n{BODY.replace('line', 'item')}", "too short")
    write(tmp_path, "b/tests/e.py", f"Wait for a thread.\n\n{BODY.replace('line', 'thread')}")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "notes.txt").write_text(f'"""Open a new socket.\n\n{BODY.replace("line", "byte")}"""')
    (tmp_path / ".#lock.py").symlink_to("nowhere")  # as an editor leaves them
    (tmp_path / "folder.py").mkdir()
    pairs = python_docs.collect_pairs([tmp_path])
    train, held_out = split.hold_out(pairs)
    assert {pair["summary"] for pair in train + held_out} == {"Read a csv file.", "Sort a long list."}


def test_every_kind_of_docstring(tmp_path):
    texts = [f"Summary of the {kind}.\n\n{BODY} {kind}" for kind in ("module", "class", "method", "coroutine")]
    module, class_, method, coroutine = (f'"""{text}"""' for text in texts)
    code = f"{module}\nclass C:\n    {class_}\n    def f():\n        {method}\nasync def g():\n    {coroutine}\n"
    (tmp_path / "m.py").write_text(code)
    pairs = python_docs.collect_pairs([tmp_path])
    assert {pair["summary"] for pair in pairs} == {text.split("\n")[0] for text in texts}


def test_prepare(tmp_path, monkeypatch):
    texts = [f"Summary of number {i}.\n\n{BODY} {i}" for i in range(10)]
    write(tmp_path / "library", "m.py", *texts)
    monkeypatch.setattr(split, "HELD_OUT", 3)
    python_docs.make(tmp_path / "out", tmp_path / "library")
    train, held = (
        [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout")
    )
    assert (len(train), len(held)) == (7, 3)
    assert {row["summary"] for row in train + held} == {f"Summary of number {i}." for i in range(10)}
    assert all(row["body"].startswith(BODY) for row in train + held)


def test_the_libraries_here(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(python_docs, "collect_pairs", lambda folders: found.extend(folders) or [])
    python_docs.make(tmp_path, None)
    assert [(folder / "__init__.py").exists() or (folder / "csv.py").exists() for folder in found] == [True] * 3


def test_clozes():
    body = " ".join(f"word{i}" for i in range(60))
    pairs = [*python_docs.cloze_pairs("Count the words.", body)]
    assert len(pairs) == python_docs.CLOZES
    for i, pair in enumerate(pairs):
        assert f" {pair['summary']} " in f" {body} " and 5 <= len(pair["summary"].split()) <= 12
        assert not {*pair["summary"].split()} & {*pair["body"].split()}
        assert pair["body"].startswith("Count the words. word") == (i % 2 == 0)
    assert [*python_docs.cloze_pairs("Count the words.", body)] == pairs
    assert [*python_docs.cloze_pairs("Count the words.", " ".join(body.split()[:19]))] == []
