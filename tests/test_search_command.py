"""python -m minist search: what a person and a program get, and the one line of each mistake."""

import errno
import io
import json
import os
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
from models import DATA
from tiny import run_script, sentences, tiny_model, write_jsonl

from minist import CrossEncoder
from minist.commands.search import SHOWN, excerpt
from minist.models.sentence_transformer import SentenceTransformer

FOLDERS = DATA / "folders/st6"
DENSE, SPARSE, IDF, CE = (str(FOLDERS / name) for name in ("dense", "sparse", "idf", "ce"))
LINES = ["the cat sat on the mat", "", "a dog sat", "red and blue", "the cat, the cat!", "Größe und Maß"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("docs.txt").write_text("".join(f"{line}\n" for line in LINES), "utf-8")
    return tmp_path


def run(*arguments, corpus="docs.txt", typed=""):
    with mock.patch.object(sys, "stdin", io.StringIO(typed)):
        return run_script("minist/__main__.py", "search", "--corpus", corpus, "--device", "cpu", *arguments)


def found(*arguments, corpus="docs.txt"):
    """The hits of one query, as programs read them."""
    code, out, _ = run("--json", *arguments, corpus=corpus)
    assert code == 0 and out.count("\n") == 1
    return json.loads(out)["hits"]


def refused(*arguments, corpus="docs.txt"):
    code, out, err = run(*arguments, corpus=corpus)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_without_a_model():
    code, out, err = run("cat")
    assert code == 0
    assert err.startswith("BM25 alone: --dense M finds") and err.count("\n") == 1
    shown = out.splitlines()
    assert shown[0] == "  1. the cat, the cat!" and re.fullmatch(r"     row 5: bm25 \d.\d+ \(#1\)", shown[1])
    assert shown[2] == "  2. the cat sat on the mat" and shown[3].startswith("     row 1: bm25")
    assert shown[4] == "2 of 5 texts"


def test_no_hint_for_who_asks_for_bm25():
    assert run("cat", "--bm25")[2] == run("cat", "--rerank", CE)[2] == ""


def test_nothing_found():
    code, out, _ = run("unheard", "--bm25")
    assert (code, out) == (0, "0 of 5 texts\n")
    assert found("unheard") == []


def test_for_programs():
    hits = found("größe maß", "--bm25")
    assert [(hit["row"], hit["id"], hit["text"]) for hit in hits] == [(6, None, "Größe und Maß")]
    assert hits[0]["stages"] == {"bm25": {"score": hits[0]["score"], "rank": 1}}


def test_every_stage():
    hits = found("cat", "--bm25", "--dense", DENSE, "--sparse", IDF, "--rerank", CE, "--top-k", "3")
    assert len(hits) == 3
    for rank, hit in enumerate(hits, 1):
        assert list(hit["stages"])[-3:] == ["fused", "rerank", "sum"] and "dense" in hit["stages"]
        assert hit["stages"]["sum"] == {"score": hit["score"], "rank": rank}
    again = found("cat", "--bm25", "--dense", DENSE, "--sparse", IDF, "--rerank", CE, "--rerank-mix", "score")
    assert [hit["stages"]["rerank"]["rank"] for hit in again] == list(range(1, len(again) + 1))


@pytest.mark.parametrize(("option", "folder", "name"), [("dense", DENSE, "dense"), ("sparse", SPARSE, "sparse")])
def test_one_model_alone(option, folder, name):
    hits = found("the cat", f"--{option}", folder)
    assert hits and all(list(hit["stages"]) == [name] for hit in hits)
    assert [hit["stages"][name]["rank"] for hit in hits] == list(range(1, len(hits) + 1))


def test_top_k():
    assert len(found("cat", "--dense", DENSE, "--top-k", "2", "--candidates", "1")) == 2


def test_ids_and_titles():
    rows = [{"_id": "x1", "title": "Cats", "text": "they sat"}, {"_id": "x2", "title": "Dogs", "text": "no"}]
    write_jsonl(Path("d.jsonl"), rows)
    hits = found("cats", corpus="d.jsonl")
    assert [(hit["id"], hit["row"], hit["text"]) for hit in hits] == [("x1", 1, "Cats they sat")]
    assert "\n     x1: bm25" in run("cats", corpus="d.jsonl")[1]
    Path("d.csv").write_text("id,body\n5,cats\n6,dogs\n")
    assert [hit["id"] for hit in found("dogs", "--column", "body", corpus="d.csv")] == ["6"]


def test_a_session():
    """Queries line by line, until one is empty; the time that each took."""
    code, out, _ = run("--bm25", typed="cat\ndog\n\nred\n")
    assert code == 0 and out.count("> ") == 3 and "red" not in out
    assert len(re.findall(r"\n\d of 5 texts, \d\.\d{3} s\n", out)) == 2
    code, out, _ = run("--bm25", "--json", typed="cat\nred")
    assert code == 0
    assert [json.loads(line)["query"] for line in out.splitlines()] == ["cat", "red"], "no prompt, and an end"
    assert all(0 <= json.loads(line)["seconds"] < 60 for line in out.splitlines())


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "marked"), [("", True), ("1", False)])
def test_colour_on_a_terminal(no_color, marked, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    with mock.patch.object(io, "StringIO", Terminal):
        out = run("Cat", "--bm25")[1]
    assert ("the \033[1;33mcat\033[0m, the \033[1;33mcat\033[0m!" in out) == marked
    assert marked or "\033" not in out
    assert "\033" not in run("cat", "--bm25")[1], "no terminal"


def test_the_part_that_is_shown():
    text = "far " * 300 + "a cat here " + "far " * 100 + "a cat and a dog " + "far " * 300
    part = excerpt(text, {"cat", "dog"}, "<", ">")
    assert part.startswith("… far") and part.endswith(" …") and " <cat> and a <dog> far" in part
    assert len(part) <= SHOWN + 8
    assert "<search>" in excerpt("to be of use to all " * 20 + "search", {"to", "of", "search"}, "<", ">")
    assert excerpt("Cat.\n\tdogs\x1b[2J cat", {"cat"}, "<", ">") == "<Cat>. dogs [2J <cat>"
    assert excerpt(text, {"unheard"}, "<", ">") == text[:SHOWN].strip() + " …"
    assert excerpt("x" * 1000, {"x"}, "<", ">") == "x" * SHOWN + " …"
    assert excerpt("短" * 500 + " 猫 " + "短" * 500, {"猫"}, "<", ">").count("<猫>") == 1
    assert excerpt("", {"cat"}, "<", ">") == ""


def test_a_very_long_line():
    Path("docs.txt").write_text("cat " * 200_000 + "\ndog\n")
    code, out, _ = run("cat", "--bm25", "--dense", DENSE)
    assert code == 0 and len(out) < 1000


def test_a_changed_model():
    tiny_model().save("m")
    assert run("sort", "--dense", "m")[2] == ""
    tiny_model(seed=1).save("m")
    assert run("sort", "--dense", "m")[2] == "the model m has changed: all texts are embedded anew\n"
    assert run("sort", "--dense", "m")[2] == ""


def test_a_second_start_embeds_nothing():
    Path("docs.txt").write_text("\n".join(sentences(30)))
    tiny_model().save("m")
    first = found("sort list", "--dense", "m", "--bm25")
    with mock.patch.object(SentenceTransformer, "embed", autospec=True, side_effect=SentenceTransformer.embed) as embed:
        assert found("sort list", "--dense", "m", "--bm25") == first
    assert [call.args[1] for call in embed.call_args_list] == [["sort list"]], "the query alone"


def test_where_the_index_is():
    run("cat")
    assert Path("docs.txt.index/format.json").exists()
    run("cat", "--index", "deep/other")
    assert Path("deep/other/format.json").exists()


def test_an_index_that_cannot_be_made():
    Path("docs.txt.index").touch()
    message = "error: the index docs.txt.index cannot be made: File exists: name another by --index\n"
    assert refused("cat", "--bm25") == message
    assert run("cat", "--bm25", "--index", "other")[0] == 0


def test_a_full_disk():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(Path, "write_bytes", side_effect=full):
        assert "docs.txt.index cannot be made: No space left on device: name another" in refused(
            "cat", "--dense", DENSE
        )
    assert list(Path("docs.txt.index").rglob("*.pt*")) == [], "nothing by halves"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_nobody_may_write_to(here):
    run("cat", "--bm25", "--index", "kept")
    for folder in (here, here / "kept"):
        folder.chmod(0o555)
    try:
        assert "Permission denied: name another by --index" in refused("cat", "--bm25")
        assert run("cat", "--bm25", "--index", "kept")[0] == 0, "a complete one can be used"
    finally:
        here.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dense", CE], f"--dense takes a SentenceTransformer, but {CE} is a CrossEncoder: give it to --rerank"),
        (["--dense", SPARSE], "is a SparseEncoder: give it to --sparse"),
        (["--sparse", DENSE], "--sparse takes a SparseEncoder, but"),
        (["--rerank", DENSE], "is a SentenceTransformer: give it to --dense"),
        (["--top-k", "0"], "--top-k is 0: use a number at least 1"),
        (["--column", "body"], "docs.txt is read as lines of text, which have no columns: leave out --column"),
        (["--dense", "nowhere/x/y"], "there is no folder 'nowhere/x/y'"),
    ],
)
def test_mistakes(arguments, message):
    assert message in refused("cat", *arguments)


def test_a_classifier_is_no_reranker():
    with pytest.warns(UserWarning, match="of 2 labels: train it"):
        CrossEncoder(CE, num_labels=2).save("two")
    assert "the number of scores that two gives a text is 2: use a number at least 1" in refused(
        "cat", "--rerank", "two"
    )


def test_mistakes_in_the_corpus():
    assert "there is no file nowhere.txt" in refused("cat", "--bm25", corpus="nowhere.txt")
    assert ". is not a file, but one is wanted" in refused("cat", "--bm25", corpus=".")
    Path("empty.txt").write_text("\n \n")
    assert "empty.txt holds no text: all of its lines are blank" in refused("cat", "--bm25", corpus="empty.txt")
    assert not Path("empty.txt.index").exists()
    Path("wrong.txt").write_bytes(b"a\n\xff\n")
    assert "wrong.txt, line 2 is not UTF-8 text" in refused("cat", "--bm25", corpus="wrong.txt")
    assert "'\\udcff' is not UTF-8 text" in refused("\udcff", "--bm25")
