"""python -m minist mine, and the embeddings that it keeps: what a killed run has done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from tiny import ROOT, run_script, sentences, tiny_model, write_jsonl

from minist.commands.mine import read_corpus, read_pairs
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval import embedding_cache
from minist.retrieval.embedding_cache import seal, unit_embeddings
from minist.retrieval.mining import Options, mine_hard_negatives

QUERIES, POSITIVES, CORPUS = sentences(30, seed=1), sentences(30, seed=2), sentences(50, seed=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = tiny_model()
    model.prompts |= {"query": "find: ", "topic": "sort: "}
    folder = tmp_path_factory.mktemp("saved") / "m"
    model.save(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = zip(QUERIES, POSITIVES, strict=True)
    write_jsonl(Path("p.jsonl"), [{"question": a, "answer": b, "note": 1} for a, b in pairs])
    Path("c.txt").write_text("".join(f"{text}\n" for text in CORPUS) + "\n")
    return tmp_path


def mine(saved, *arguments, pairs="p.jsonl", output="out.jsonl"):
    """Runs the command, which must succeed: the rows, and what was printed."""
    options = ["mine", "--model", saved, "--pairs", pairs, "--output", output, "--device", "cpu"]
    code, printed, err = run_script("minist/__main__.py", *options, *arguments)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in Path(output).read_text("utf-8").splitlines()], printed


def refused(saved, *arguments, pairs="p.jsonl", output="out.jsonl"):
    """The one line of an error, after which nothing is left behind."""
    before = sorted(Path().iterdir())
    options = ["mine", "--model", saved, "--pairs", pairs, "--output", output]
    code, _, err = run_script("minist/__main__.py", *options, *arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
    return err.removeprefix("error: ").rstrip()


# ---------------------------------------------------------------- the command


def test_mine(saved, here):
    rows, printed = mine(saved, "--corpus", "c.txt")
    wanted, summary = mine_hard_negatives(SentenceTransformer(saved), QUERIES, POSITIVES, CORPUS)
    assert rows == wanted
    assert list(rows[0]) == ["query", "positive", "negative"]
    columns = "queries are the column 'question', positives 'answer'"
    assert printed == f"{columns}\n{summary}\nwritten to out.jsonl\n"
    assert sorted(path.name for path in here.iterdir()) == [".out.jsonl.embeddings", "c.txt", "out.jsonl", "p.jsonl"]


SAME = [
    ("--num-negatives 2 --format n-tuple --output-scores", {"num_negatives": 2, "output_format": "n-tuple"}),
    ("--format labeled-list --output-scores --min-score -0.5", {"output_format": "labeled-list", "min_score": -0.5}),
    ("--output-scores --absolute-margin 0.02 --max-score 0.98", {"absolute_margin": 0.02, "max_score": 0.98}),
    ("--output-scores --range-min 2 --range-max 9", {"range_min": 2, "range_max": 9}),
    ("--output-scores --relative-margin 0.02", {"relative_margin": 0.02}),
    ("--output-scores --sampling random --seed 5 --range-max 20", {"sampling_strategy": "random", "seed": 5}),
    ("--output-scores --include-positives", {"include_positives": True}),
    (
        "--output-scores --query-prompt x --corpus-prompt-name topic",
        {"query_prompt": "x", "corpus_prompt_name": "topic"},
    ),
    (
        "--output-scores --query-prompt-name topic --corpus-prompt y",
        {"query_prompt_name": "topic", "corpus_prompt": "y"},
    ),
    ("--output-scores --batch-tokens 64 --memory-mb 1", {"batch_tokens": 64, "memory_mb": 1}),
]


@pytest.mark.parametrize(("options", "given"), SAME, ids=lambda value: str(value)[:50])
def test_options_are_those_of_the_function(saved, here, options, given):
    rows, _ = mine(saved, "--corpus", "c.txt", *options.split())
    given |= {"range_max": 20} if "random" in options else {}
    asked = Options(output_scores=True, **given)
    wanted, _ = mine_hard_negatives(SentenceTransformer(saved), QUERIES, POSITIVES, CORPUS, asked)
    assert [list(row) for row in rows] == [list(row) for row in wanted]
    for ours, theirs in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(ours.pop("scores"), theirs.pop("scores"), atol=1e-6)
        assert ours == theirs


def test_a_cross_encoder(saved, here):
    class Scorer:
        def predict(self, pairs):
            return torch.tensor([float(len(document)) for _, document in pairs])

    with mock.patch("minist.commands.mine.open_model", return_value=Scorer()) as opened:
        rows, _ = mine(saved, "--corpus", "c.txt", "--cross-encoder", "reranker", "--output-scores")
    assert opened.call_args.args == ("reranker", "CrossEncoder")
    assert rows and all(row["scores"] == [len(row["positive"]), len(row["negative"])] for row in rows)


def test_files_of_other_kinds(saved, here):
    wanted, _ = mine(saved, "--corpus", "c.txt")
    write_jsonl(Path("c.jsonl"), [{"id": 1, "text": text} for text in CORPUS])
    assert mine(saved, "--corpus", "c.jsonl")[0] == wanted
    lines = [f"1\t{b}\t{a}\n" for a, b in zip(QUERIES, POSITIVES, strict=True)]
    Path("p.tsv").write_text("id\tto\tfrom\n" + "".join(lines))
    columns = ["--query-column", "from", "--positive-column", "to"]
    assert mine(saved, "--corpus", "c.txt", *columns, pairs="p.tsv")[0] == wanted
    assert mine(saved, "--corpus", "c.txt", "--query-column", "question")[0] == wanted


def test_what_is_read(here):
    assert read_corpus(Path("c.txt")) == CORPUS, "without the blank line at its end"
    assert read_pairs(Path("p.jsonl"), None, None) == (QUERIES, POSITIVES)
    assert read_pairs(Path("p.jsonl"), "answer", "question") == (POSITIVES, QUERIES)


def test_columns_with_usual_names(here):
    """In any order, and beside others."""
    write_jsonl(Path("turned.jsonl"), [{"id": "1", "positive": "an answer", "query": "a question"}])
    assert read_pairs(Path("turned.jsonl"), None, None) == (["a question"], ["an answer"])


def test_pairs_with_an_empty_text(here, capsys):
    """Which would be mined as a negative."""
    write_jsonl(Path("holes.jsonl"), [{"a": "x", "b": "y"}, {"a": "x", "b": " "}, {"a": "", "b": "z"}])
    assert read_pairs(Path("holes.jsonl"), None, None) == (["x"], ["y"])
    assert "2 pairs of 3 left out: a text is empty" in capsys.readouterr().out
    write_jsonl(Path("holes.jsonl"), [{"a": "x", "b": ""}])
    with pytest.raises(ValueError, match=r"holes.jsonl holds no pair of texts: all of its rows are blank"):
        read_pairs(Path("holes.jsonl"), None, None)


BAD = [
    (
        ["--query-column", "a"],
        "p.jsonl, row 1: there is no column 'a', it has question, answer, note (without a header",
    ),
    (
        ["--query-column", "answer"],
        "queries are 'answer', positives 'answer', of the columns question, answer, note of p",
    ),
    (["--positive-column", "note"], "p.jsonl, row 1: 'note' is 1, but a text is wanted"),
    (["--corpus", "none.txt"], "there is no file none.txt"),
    (["--corpus", "p.jsonl"], "p.jsonl, row 1: there is no column 'text', it has question, answer, note"),
    (["--corpus", "blank.txt"], "blank.txt holds no text: all of its lines are blank"),
    (["--num-negatives", "0"], "num_negatives is 0: use a number at least 1"),
    (["--num-negatives", "5", "--range-max", "4"], "range_max is 4: it must be at least range_min + num_negatives, 5"),
    (["--num-negatives", "many"], "argument --num-negatives: invalid int value: 'many': --help lists what there is"),
    (["--format", "pairs"], "argument --format: invalid choice: 'pairs' (choose from"),
    (["--sampling", "best"], "argument --sampling: invalid choice: 'best' (choose from"),
    (["--absolute-margin", "-1"], "absolute_margin is -1.0: use a number at least 0"),
    (["--relative-margin", "nan"], "relative_margin is nan: use a number at least 0"),
    (["--relative-margin", "5%"], "argument --relative-margin: invalid float value: '5%': --help lists"),
    (["--max-score", "0.1", "--min-score", "0.2"], "min_score is 0.2: use a number at most 0.1"),
    (["--query-prompt-name", "none"], "the prompt name is 'none', known are "),
    (["--memory-mb", "0"], "memory_mb is 0: use a number at least 1"),
    (["--margin", "1"], "unrecognized arguments: --margin 1: --help lists what there is"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: " ".join(value)[:50])
def test_bad_arguments(saved, here, arguments, message):
    Path("blank.txt").write_text("\n \n")
    assert refused(saved, *arguments).startswith(message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no file none.jsonl"),
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("header.csv", "a,b\n", "header.csv is empty"),
        (
            "one.jsonl",
            '{"a": "x"}\n',
            "queries are 'a', positives '', of the columns a of one.jsonl: name two by",
        ),
        ("lines.xyz", "x\n", "lines.xyz: its ending is .xyz, known are "),
        ("half.jsonl", '{"a": "x", "b": "y"}\n{"a": "x"}\n', "half.jsonl, row 2: there is no column 'b', it has a"),
        ("list.jsonl", '{"a": "x", "b": ["y"]}\n', "list.jsonl, row 1: 'b' is [\"y\"], but a text is wanted"),
    ],
)
def test_bad_pairs(saved, here, name, content, message):
    if content is not None:
        Path(name).write_text(content)
    assert refused(saved, pairs=name).startswith(message)


def test_what_is_refused_before_anything_is_read(saved, here):
    Path("folder.jsonl").mkdir()
    assert refused(saved, output="out.csv") == "--output is out.csv: it must be a file, and end in .jsonl"
    assert refused(saved, output="folder.jsonl").startswith("--output is folder.jsonl: it must be a file")
    os.link("p.jsonl", "link.jsonl")
    assert refused(saved, output="link.jsonl") == "--output is link.jsonl, which is also read: name another file"
    assert refused(saved, "--dtype", "int8").startswith("--dtype is int8, whose embeddings cannot be kept: use float32")


def test_more_negatives_than_there_are(saved, here):
    """Triplets are as many as there can be; tuples are none, and no file appears."""
    rows, printed = mine(saved, "--num-negatives", "1000")
    assert len(rows) == sum(len(set(POSITIVES)) - 1 for _ in QUERIES)
    assert f"{len(QUERIES)} queries lack negatives, 0 of them have none" in printed
    Path("out.jsonl").unlink()
    code, _, err = run_script(
        "minist/__main__.py",
        *["mine", "--model", saved, "--pairs", "p.jsonl", "--output", "out.jsonl"],
        *["--num-negatives", "1000", "--format", "n-tuple"],
    )
    assert (code, Path("out.jsonl").exists()) == (2, False)
    assert err == "error: no row is left: ask for fewer negatives, or give a larger --corpus or milder limits\n"


def test_no_command(here):
    code, _, err = run_script("minist/__main__.py")
    assert (code, err.count("\n")) == (2, 1)
    assert run_script("minist/__main__.py", "--help")[1].startswith("usage: python -m minist ")


# ---------------------------------------------------------------- the embeddings are kept


def embedded(model, monkeypatch):
    """A list that grows by all texts that the model embeds."""
    found, embed = [], model.embed

    def watched(texts, *others):
        rows = embed(texts, *others)
        found.extend(texts)
        return rows

    monkeypatch.setattr(model, "embed", watched)
    return found


def run(model, folder, **given):
    """The rows; scores that are about these, since texts that are embedded in other batches are rounded otherwise."""
    options = Options(cache_folder=folder, output_scores=True, **given)
    rows = mine_hard_negatives(model, QUERIES, POSITIVES, CORPUS, options)[0]
    return [row | {"scores": pytest.approx(row["scores"], abs=1e-5)} for row in rows]


def plain(rows):
    return [row | {"scores": row["scores"].expected} for row in rows]


def test_a_second_run_embeds_nothing(tmp_path, monkeypatch):
    model = tiny_model()
    wanted = run(model, None)
    texts = embedded(model, monkeypatch)
    assert plain(run(model, tmp_path)) == wanted
    assert sorted(texts) == sorted([*set(QUERIES), *{*CORPUS, *POSITIVES}]), "each text once"
    texts.clear()
    assert plain(run(model, tmp_path)) == wanted
    assert run(model, tmp_path, relative_margin=0.1, num_negatives=2) != wanted
    assert texts == []


def test_what_an_interrupted_run_embedded_is_not_embedded_again(tmp_path, monkeypatch):
    wanted = run(tiny_model(), None)
    monkeypatch.setattr(embedding_cache, "BLOCK_TEXTS", 8)
    model, blocks = tiny_model(), []
    embed = model.embed

    def interrupted(texts, *others):
        blocks.append(list(texts))
        if len(blocks) == 4:
            raise KeyboardInterrupt
        return embed(texts, *others)

    monkeypatch.setattr(model, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path)
    model = tiny_model()
    texts = embedded(model, monkeypatch)
    assert plain(run(model, tmp_path)) == wanted
    assert not {text for block in blocks[:3] for text in block} & set(texts[: len({*CORPUS, *POSITIVES}) - 24])
    assert len(texts) == len({*CORPUS, *POSITIVES}) - 24 + len(set(QUERIES))
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_damaged_block_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_cache, "BLOCK_TEXTS", 8)
    model = tiny_model()
    wanted = unit_embeddings(model, 0, tmp_path, False, CORPUS, "", "document")
    for file in tmp_path.iterdir():
        file.unlink()
    with (
        mock.patch.object(embedding_cache.EmbeddingFile, "finish", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        unit_embeddings(model, 0, tmp_path, False, CORPUS, "", "document")
    (rows,) = tmp_path.glob(".*.unfinished/rows")
    content = bytearray(rows.read_bytes())
    content[500] ^= 1
    rows.write_bytes(content)
    texts = embedded(model, monkeypatch)
    assert torch.equal(unit_embeddings(model, 0, tmp_path, False, CORPUS, "", "document"), wanted)
    assert len(texts) == 8


def test_rows_have_length_one_after_the_cut(tmp_path):
    model = tiny_model()
    model.truncate_dim = 5
    for folder in (None, tmp_path):
        found = unit_embeddings(model, 0, folder, False, CORPUS, "", "document")
        assert found.shape == (len(CORPUS), 5)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(CORPUS)))


def test_what_makes_another_cache():
    """A text, the order, the prompt, the length of texts, the weights, one bit of them, the numbers they are in."""
    model, texts = tiny_model(), ["read", "sort file"]
    names = {seal(model, "document", "", texts)}
    names |= {seal(model, "document", "find: ", texts), seal(model, "document", "", ["readsort", " file"])}
    names |= {seal(model, "document", "", texts[::-1]), seal(model, "document", "", [*texts, ""])}
    names |= {seal(tiny_model(seed=1), "document", "", texts), seal(tiny_model(mode="cls"), "document", "", texts)}
    names |= {seal(tiny_model().bfloat16(), "document", "", texts)}
    model.max_length = 16
    names |= {seal(model, "document", "", texts)}
    model = tiny_model()
    model.truncate_dim = 8
    names |= {seal(model, "document", "", texts)}
    model = tiny_model()
    weight = next(model.parameters()).data.view(torch.int32)
    weight[-1, -1] ^= 1
    names |= {seal(model, "document", "", texts)}
    assert len(names) == 11
    assert seal(tiny_model(), "query", "", texts) in names, "one path: what only the role says is in the prompt"


@pytest.mark.slow
def test_killed(saved, here):
    """By a signal that no program can catch, while it embeds."""
    many = [f"{text} {i}" for i, text in enumerate(sentences(25_000, seed=9))]
    Path("c.txt").write_text("".join(f"{text}\n" for text in many))
    wanted, _ = mine(saved, "--corpus", "c.txt", output="whole.jsonl")
    command = [sys.executable, "-m", "minist", "mine", "--model", saved, "--pairs", "p.jsonl", "--corpus", "c.txt"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "--output", "out.jsonl"], env=environment) as running:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and running.poll() is None:
            if done := list(Path(".out.jsonl.embeddings").glob("*/*.done")):
                break
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert done and running.returncode == -signal.SIGKILL
    assert not Path("out.jsonl").exists()
    done = [file.name for file in Path(".out.jsonl.embeddings").glob("*/*.done")]
    claimed, claim = [], embedding_cache.EmbeddingFile.claim
    with mock.patch.object(
        embedding_cache.EmbeddingFile, "claim", lambda self, name: claim(self, name) and not claimed.append(name)
    ):
        assert mine(saved, "--corpus", "c.txt")[0] == wanted
    assert len(claimed) == 5 - len(done), "four blocks of documents and one of queries, but for what was done"
