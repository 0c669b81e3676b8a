"""python -m minist map: one page that holds the texts, their places, and the words of their clusters."""

import json
import re
from pathlib import Path

import pytest
from tiny import run_script, sentences, tiny_model

from minist.commands.map import SHOWN

TEXTS = [*sentences(70, longest=12), "</script><b>bold</b>", "schöne Grüße 日本", "x" * 1000]


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model().save("model")
    Path("docs.txt").write_text("\n".join([*TEXTS, ""]) + "\n\n", "utf-8")


def draw(*arguments):
    code, printed, err = run_script("minist/__main__.py", "map", "--model", "model", *arguments)
    assert code == 0, err
    return printed


def data_of(page):
    (inside,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(inside)


@pytest.mark.parametrize("how", [[], ["--pca"]])
def test_the_page(saved, how):
    printed = draw("docs.txt", "--output", "m.html", "--clusters", "3", *how)
    assert printed == "73 texts in 3 clusters, in m.html: open it in a browser\n"
    page = Path("m.html").read_text("utf-8")
    data = data_of(page)
    assert data["texts"] == [*TEXTS[:-1], "x" * SHOWN] and data["title"] == "docs.txt"
    assert set(data["labels"]) == {0, 1, 2} and len(data["words"]) == 3 and all(data["words"])
    flat = [v for place in data["places"] for v in place]
    assert len(flat) == 2 * 73 and min(flat) == 0 and max(flat) == 1
    assert page.count("</script>") == 2  # the page's own
    assert not re.search(r"https?://|src=|url\(", page.replace(json.dumps(data), ""))  # it asks for nothing
    assert draw("docs.txt", "--output", "again.html", "--clusters", "3", *how)
    assert Path("again.html").read_text("utf-8") == page


def test_a_column_and_few_texts(saved):
    rows = [{"title": text} for text in TEXTS[:2]]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    draw("d.jsonl", "--column", "title")
    assert data_of(Path("map.html").read_text("utf-8"))["labels"] == [0, 0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["docs.txt", "--output", "m.png"], "--output is m.png: it must end in .html"),
        (["docs.txt", "--clusters", "13"], "--clusters is 13"),
        (["empty.txt"], "empty.txt holds no text: all of its lines are blank"),
        (["none.txt"], "there is no file none.txt"),
    ],
)
def test_errors(saved, arguments, message):
    Path("empty.txt").write_text("\n\n")
    code, _, err = run_script("minist/__main__.py", "map", "--model", "model", *arguments)
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not Path("map.html").exists()
