"""Model cards beside the real library: their snippets run there and give the same; Markdown's own parser reads them."""

import html
import json
import re
import warnings

import numpy as np
import pytest
from cards import KINDS, run, snippets
from markdown_it import MarkdownIt
from tiny import FROM_SCRATCH, run_script, write_jsonl

VALUES = ("query_embeddings", "document_embeddings", "similarities", "scores")
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
ODD = ["a|b", "line one\nline two | `code|pipe`", "<script>alert('x')</script> &amp; <b>", "*x* _y_ [a](b) \\| 😀 אב"]


def dense(x):
    return np.asarray(x.to_dense() if hasattr(x, "to_dense") else x)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "words"])
def test_both_libraries_give_the_same(kind, tmp_path):
    KINDS[kind]().save(tmp_path)
    programs = snippets((tmp_path / "README.md").read_text("utf-8"), tmp_path)
    ours, theirs = run(programs["minist"]), run(programs["sentence_transformers"])
    compared = [name for name in VALUES if name in ours]
    assert compared
    for name in compared:
        np.testing.assert_allclose(dense(theirs[name]), dense(ours[name]), atol=1e-5, rtol=1e-6)
    if kind == "classifier":
        assert [*ours["best"]] == [*theirs["best"]]
    if kind == "reranker":
        assert [hit["corpus_id"] for hit in ours["ranking"]] == [hit["corpus_id"] for hit in theirs["ranking"]]


@pytest.mark.parametrize("kind", ["dense", "reranker"])
def test_both_libraries_open_an_adapter(kind, tmp_path):
    """The real one with peft, which the card asks for."""
    KINDS[kind]().save(tmp_path / "base")
    model = type(KINDS[kind]())(tmp_path / "base")
    model.add_adapter(2, 4)
    model.save(tmp_path / "m")
    card = (tmp_path / "m/README.md").read_text("utf-8")
    assert "With [sentence-transformers](https://sbert.net) and [peft]" in card
    programs = snippets(card, tmp_path / "m")
    ours, theirs = run(programs["minist"]), run(programs["sentence_transformers"])
    for name in {*VALUES} & ours.keys():
        np.testing.assert_allclose(dense(theirs[name]), dense(ours[name]), atol=1e-5, rtol=1e-6)


def test_words_in_transformers(tmp_path):
    KINDS["words"]().save(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        found = run(snippets((tmp_path / "README.md").read_text("utf-8"), tmp_path)["transformers"])["words"]
    assert len(found) == 5 and found[0]["score"] >= found[1]["score"]


def tables(text):
    """Of rendered Markdown: each table as rows of the texts of its cells."""
    page = MARKDOWN.render(text)
    for table in re.findall(r"<table>.*?</table>", page, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        plain = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        yield [[html.unescape(re.sub(r"</?code>", "", cell)) for cell in row] for row in plain]


def test_a_run_renders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "d.jsonl", [{"q": ODD[i % 4], "d": f"{ODD[(i + 1) % 4]} {i}"} for i in range(8)])
    name = "d|ev: é `😀`"
    (tmp_path / "c.toml").write_text(
        f"""output = "run"
{FROM_SCRATCH}
[[data]]
name = {json.dumps(name, ensure_ascii=False)}
files = ["d.jsonl"]
columns = {{ "an|chor" = "q", positive = "d" }}
[train]
batch_size = 4
[[eval]]
name = {json.dumps(name, ensure_ascii=False)}
evaluator = "InformationRetrievalEvaluator"
files = ["d.jsonl"]
columns = {{ query = "q", document = "d" }}
""",
        "utf-8",
    )
    code, _, err = run_script("train.py", "--config", "c.toml")
    assert code == 0, err
    text = (tmp_path / "run/model/README.md").read_text("utf-8").split("---\n", 2)[2]
    results, samples, settings, log = tables(text)
    assert [len(row) for row in results] == [4] * 4 and {row[0] for row in results[1:]} == {name}
    assert samples[0] == ["an|chor", "positive"]
    assert samples[1:] == [[" ".join(ODD[i].split()), f"{' '.join(ODD[i + 1].split())} {i}"] for i in range(3)]
    assert ["train.batch_size", "4"] in settings
    assert log[0][:2] == ["step", "loss"] and {len(row) for row in log} == {5}
    page = MARKDOWN.render(text)
    assert "<script>" not in page and page.count("<details>") == page.count("</details>") == 1
    programs = snippets(text, "run/model")
    ours, theirs = run(programs["minist"]), run(programs["sentence_transformers"])
    np.testing.assert_allclose(theirs["similarities"], ours["similarities"], atol=1e-5, rtol=0)
