"""train.py end to end, on a tiny model and few rows."""

import csv
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from tiny import FROM_SCRATCH, ROOT, WORDS, run_script, sentences, write_jsonl

from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import MARKER, open_run
from minist.training.config import load_config

EVALUATIONS = """
[[eval]]
name = "held"
evaluator = "InformationRetrievalEvaluator"
files = ["pairs.jsonl"]
columns = { query = "q", document = "d" }
bm25 = true
searches = ["sort list"]

[[eval]]
name = "sts"
evaluator = "EmbeddingSimilarityEvaluator"
files = ["scores.csv"]
columns = { text1 = "a", text2 = "b", score = "s" }
"""


def pairs(n=40):
    """A text, and the same words the other way round."""
    return [{"q": text, "d": " ".join(reversed(text.split()))} for text in dict.fromkeys(sentences(n, seed=1))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of a run: data and a config."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", pairs())
    rows = "".join(f"{a},{b},{i / 10}\n" for i, (a, b) in enumerate(zip(WORDS[:8], WORDS[4:12], strict=True)))
    (tmp_path / "scores.csv").write_text("a,b,s\n" + rows)
    (tmp_path / "c.toml").write_text(f"""
output = "runs/one"
{FROM_SCRATCH}
[[data]]
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
[train]
batch_size = 9
max_steps = 6
lr = 1e-2
warmup = 0.2
log_every = 1
{EVALUATIONS}""")
    return tmp_path


def train(*arguments):
    """A run that must succeed; what it printed."""
    code, out, err = run_script("train.py", "--config", "c.toml", *arguments)
    assert (code, err) == (0, "")
    return out


def settings(*overrides):
    return [part for override in overrides for part in ("--set", override)]


def records(run, key="loss"):
    """The lines of metrics.jsonl that have `key`."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


def weights(model_folder):
    return dict(SentenceTransformer(model_folder).named_parameters())


def test_a_whole_run(folder):
    out = train()
    run = folder / "runs/one"
    assert sorted(path.name for path in run.iterdir()) == [
        "about.json",
        MARKER,
        "examples.json",
        "metrics.jsonl",
        "model",
        "report.html",
    ]
    steps = records(run)
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    fields = {"step", "loss", "texts_per_second", "tokens_per_second", "learning_rate", "grad_norm", "memory_mb"}
    fields |= {"accuracy", "positive", "negative", "alignment", "uniformity", "effective_rank"}
    fields |= {"cut_anchor", "cut_positive"}
    assert all(set(record) == fields for record in steps)
    assert [record["learning_rate"] for record in steps] == pytest.approx([0, 0.005, 0.01, 0.0075, 0.005, 0.0025])
    assert steps[-1]["loss"] < steps[0]["loss"]
    (measured,) = records(run, "held_cosine_ndcg@10")
    assert measured["step"] == 6
    assert measured["held_cosine_ndcg@10"] > 0.3  # by chance about 0.1
    assert -1 <= measured["sts_spearman_cosine"] <= 1
    config = tomllib.loads((run / MARKER).read_text())
    assert config["train"]["lr"] == 0.01
    assert config["train"]["weight_decay"] == 0.0  # a default, written out

    rows = pairs()
    assert f"data   train, {len(rows)} rows: anchor" in out
    assert "6 steps, 1 x cpu" in out
    assert "nDCG@10 on held: " in out
    assert "search: sort list" in out

    (folder / "t.txt").write_text("read file\nsort list\n")
    code, _, err = run_script("encode.py", "t.txt", "--model", run / "model", "--output", "t.npy")
    assert (code, err) == (0, "")
    expected = SentenceTransformer(run / "model").encode(["read file", "sort list"])
    np.testing.assert_allclose(np.load("t.npy"), expected, atol=1e-6, rtol=0)


def test_the_first_loss_by_hand(folder):
    """The learning rate of the first step is 0, so the model that is saved after it is the one that the loss saw."""
    train(*settings("train.max_steps=1", "train.warmup=1", "eval=[]"))
    model, rows = SentenceTransformer(folder / "runs/one/model"), pairs()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).tolist()
    q, d = (model.encode([rows[i][name] for i in order[:9]], normalize_embeddings=True) for name in "qd")
    scores = 20.0 * q.astype(np.float64) @ d.T
    expected = np.mean(np.log(np.exp(scores).sum(1)) - scores.diagonal())
    assert records(folder / "runs/one")[0]["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_two_ranks_are_one(folder):
    # with a smaller rate: each step of Adam makes rounding errors of the gradients, some of which are 0 but for
    # rounding, as large as the rate, and a norm of 3 to 7 shows it
    low = ("--set", "train.lr=1e-3")
    train("--set", "output=runs/w1", *low)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train.py"), "--config", "c.toml", "--set", "output=runs/w2", *low]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("6 steps, 2 x cpu") == 1  # one rank speaks
    one, two = (records(folder / "runs" / name) for name in ("w1", "w2"))
    assert [record["step"] for record in two] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "grad_norm"):
        assert [record[name] for record in two] == pytest.approx([record[name] for record in one], abs=1e-5)
    a, b = (records(folder / "runs" / name, "held_cosine_ndcg@10")[0] for name in ("w1", "w2"))
    assert a == pytest.approx(b, abs=1e-5)


def test_resumed_is_the_same_as_never_stopped(folder):
    """With dropout, whose masks must be drawn alike; bit for bit."""
    dropout = settings("train.dropout=0.2", "train.attention_dropout=0.2", "train.max_steps=20", "train.save_every=10")
    train(*dropout, *settings("train.eval_every=10"))
    whole, part = folder / "runs/one", folder / "runs/part"
    shutil.copytree(whole, part)
    shutil.rmtree(part / "checkpoint-20")
    shutil.rmtree(part / "model")
    train(*dropout, *settings("train.eval_every=10", "output=runs/part"), "--resume")

    expected = weights(whole / "model")
    for name, weight in weights(part / "model").items():
        assert torch.equal(weight, expected[name]), name
    for key, names in (("loss", ("step", "loss", "grad_norm", "learning_rate")), ("held_cosine_mrr@10", None)):
        chosen = [[{n: r[n] for n in names or r} for r in records(run, key)] for run in (whole, part)]
        assert chosen[0] == chosen[1]
        assert len(chosen[0]) == (20 if key == "loss" else 2)
    # the same run without dropout is another one, so the masks did count
    train(*settings("train.max_steps=2", "output=runs/plain"))
    assert records(folder / "runs/plain")[0]["loss"] != records(whole)[0]["loss"]


def test_resuming_a_finished_run_meets_its_expectations(folder):
    (folder / "c.toml").write_text((folder / "c.toml").read_text() + "\n[expect]\n'held_cosine_ndcg@10' = 0.01\n")
    train(*settings("train.save_every=6"))
    train(*settings("train.save_every=6"), "--resume")


def test_old_checkpoints_go(folder):
    train(*settings("train.save_every=2", "train.keep=1", "eval=[]"))
    assert [path.name for path in (folder / "runs/one").glob("checkpoint-*")] == ["checkpoint-6"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl.gz"])
def test_kinds_of_files(folder, ending):
    """The same rows give the same run."""
    train(*settings("eval=[]"))
    file = folder / f"pairs.{ending}"
    if ending == "jsonl.gz":
        file.write_bytes(gzip.compress((folder / "pairs.jsonl").read_bytes()))
    else:
        with open(file, "w", newline="") as stream:
            writer = csv.DictWriter(stream, ["q", "d"], delimiter={"csv": ",", "tsv": "\t"}[ending])
            writer.writeheader()
            writer.writerows(pairs())
    train(*settings("eval=[]", f'data.0.files=["pairs.{ending}"]', "output=runs/two"))
    one, two = (records(folder / "runs" / name) for name in ("one", "two"))
    assert [record["loss"] for record in one] == [record["loss"] for record in two]


def test_bfloat16(folder):
    train(*settings("train.dtype=bfloat16"))
    train(*settings("output=runs/single"))
    half, single = (records(folder / "runs" / name) for name in ("one", "single"))
    assert all(math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]) for record in half)
    assert half[0]["loss"] == pytest.approx(single[0]["loss"], rel=0.05)
    assert half[0]["loss"] != single[0]["loss"]  # it was not computed in single precision
    assert {w.dtype for w in weights(folder / "runs/one/model").values()} == {torch.float32}


def test_a_saved_model_goes_on(folder):
    train(*settings("eval=[]"))
    text = (folder / "c.toml").read_text()
    start, end = text.index("[model.encoder]"), text.index("[[data]]")
    (folder / "c.toml").write_text(f'{text[:start]}[model]\npath = "runs/one/model"\n{text[end:]}')
    train(*settings("output=runs/two", "train.lr=0.0", "train.max_steps=1", "eval=[]"))
    expected = weights(folder / "runs/one/model")
    assert all(torch.equal(w, expected[name]) for name, w in weights(folder / "runs/two/model").items())


def test_no_duplicates(folder):
    """Every row twice: each batch still holds different texts, so more batches are short."""
    write_jsonl(folder / "twice.jsonl", pairs() * 2)
    shared = ['data.0.files=["twice.jsonl"]', "train.max_steps=0", "train.batch_size=64", "eval=[]"]
    assert " 2 steps," in train(*settings(*shared, "data.0.sampler=no_duplicates"))
    assert f" {math.ceil(2 * len(pairs()) / 64)} steps," in train(*settings(*shared, "output=runs/two"))


def test_overwrite_starts_again(folder):
    train(*settings("eval=[]"))
    first = weights(folder / "runs/one/model")
    (folder / "runs/one/mine").touch()
    train(*settings("eval=[]"), "--overwrite")
    assert not (folder / "runs/one/mine").exists()
    assert len(records(folder / "runs/one")) == 6
    assert all(torch.equal(w, first[name]) for name, w in weights(folder / "runs/one/model").items())


def test_a_resumed_run_drops_the_later_metrics(tmp_path):
    """Also a last line that was cut short when the run was killed."""
    (tmp_path / "c.toml").write_text(
        'output = "x"\n[model]\npath = "m"\n[[data]]\nfiles = ["d"]\ncolumns = { a = "b" }\n'
    )
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": 1.5}', '{"step": 3, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    open_run(tmp_path, load_config(tmp_path / "c.toml", []), 1, False)
    assert (tmp_path / "metrics.jsonl").read_text() == lines[0] + "\n"
