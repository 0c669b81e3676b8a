"""train.py with cross-encoders: lists, drawn negatives, classes; two processes as one, mini-batches, going on."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, tiny_model, write_jsonl

from minist import Batch, CrossEncoder
from minist.losses.cross_encoder import LambdaLoss

TEXTS = sentences(400, seed=1)


def lists(n=30):
    """A query, one to four texts, one of which has the same words, and labels."""
    for i in range(n):
        documents = [*TEXTS[40 + 4 * i : 40 + 4 * i + i % 4], " ".join(reversed(TEXTS[i].split()))]
        labels = [0.0] * (len(documents) - 1) + [1.0]
        yield {"q": TEXTS[i], "d": documents, "s": labels, "p": documents[-1], "m": [0.5 + i / 10]}


def classes(n=30):
    for i in range(n):
        same = i % 2 == 0
        yield {
            "a": TEXTS[i],
            "b": TEXTS[i] if same else TEXTS[i + 50],
            "word": ["other", "same", "x"][1 if same else 0],
        }


CONFIG = f"""
output = "runs/one"
[model]
type = "CrossEncoder"
{FROM_SCRATCH}
[[data]]
files = ["lists.jsonl"]
columns = {{ query = "q", documents = "d" }}
label = "s"
loss = {{ name = "LambdaLoss", weighting_scheme = {{ name = "NDCGLoss2PPScheme", mu = 3.0 }} }}
[train]
batch_size = 7
max_steps = 6
lr = 1e-3
log_every = 1
[[eval]]
name = "held"
evaluator = "CrossEncoderRerankingEvaluator"
files = ["lists.jsonl"]
columns = {{ query = "q", positive = "p", documents = "d" }}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "lists.jsonl", lists())
    write_jsonl(tmp_path / "pairs.jsonl", classes())
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def train(*arguments, config="c.toml"):
    code, printed, err = run_script("train.py", "--config", config, *arguments)
    assert code == 0, err
    return printed


def settings(*values):
    return [part for value in values for part in ("--set", value)]


def records(run, key="loss"):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


def test_a_run(folder):
    with pytest.warns(UserWarning, match="a new head, of 1 labels"):
        printed = train()
    assert "data   train, 30 rows: query" in printed and "label lists of 1 to 4 numbers from 0 to 1" in printed
    assert "best_is_relevant" in printed and "uniformity" not in printed and "cut_pairs" in printed
    assert "held_ndcg@10" in printed and "held_base_ndcg@10" in printed
    assert "\n  python encode.py --model runs/one/model pairs.tsv --output scores.npy\n" in printed
    assert printed.endswith("\nhow it went, in a browser: runs/one/report.html\n")
    model = CrossEncoder(folder / "runs/one/model")
    assert model.predict([("a", "b")]).shape == (1,)
    found = records(folder / "runs/one", "held_map")[-1]
    assert {"held_map", "held_mrr@10", "held_ndcg@10", "held_base_map"} <= found.keys()


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_the_first_loss_by_hand(folder):
    """The learning rate of the first step is 0, so the model that is saved after it is the one that the loss saw."""
    train(*settings("train.max_steps=1", "train.warmup=1", "eval=[]"))
    model, rows = CrossEncoder(folder / "runs/one/model"), list(lists())
    order = torch.randperm(30, generator=torch.Generator().manual_seed(42))[:7].tolist()
    pairs = [(rows[i]["q"], d) for i in order for d in rows[i]["d"]]
    logits = torch.from_numpy(model.predict(pairs, activation_fn="Identity"))[:, None]
    labels, counts = (
        torch.tensor([s for i in order for s in rows[i]["s"]]),
        torch.tensor([len(rows[i]["d"]) for i in order]),
    )
    expected = LambdaLoss(weighting_scheme="NDCGLoss2PPScheme")
    expected.weighting_scheme.mu = 3.0
    value = expected([logits], Batch(labels=labels, counts=(counts,)))
    assert records(folder / "runs/one")[0]["loss"] == pytest.approx(value.item(), abs=1e-5)


NEGATIVES = '{ name = "MultipleNegativesRankingLoss", num_negatives = 3 }'


def write_other(folder, loss, label=""):
    """A config with another loss, of a query and the document that answers it."""
    text = CONFIG.replace('{ name = "LambdaLoss", weighting_scheme = { name = "NDCGLoss2PPScheme", mu = 3.0 } }', loss)
    text = text.replace('label = "s"', f'label = "{label}"').replace('documents = "d"', 'positive = "p"', 1)
    (folder / "other.toml").write_text(text)
    return "other.toml"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize("loss", ["lists", "negatives"])
def test_two_ranks_and_mini_batches_are_one(folder, loss):
    config = "c.toml" if loss == "lists" else write_other(folder, NEGATIVES)
    train("--set", "output=runs/w1", config=config)
    train("--set", "output=runs/parts", "--set", "train.mini_batch_tokens=40", config=config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train.py"), "--config", config]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name, more in (("w2", []), ("w2parts", ["--set", "train.mini_batch_tokens=40"])):
        done = subprocess.run(
            [*command, "--set", f"output=runs/{name}", *more], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one = records(folder / "runs/w1")
    assert len(one) == 6
    for other in ("parts", "w2", "w2parts"):
        two = records(folder / "runs" / other)
        for name in ("loss", "grad_norm", "spread"):
            assert [r[name] for r in two] == pytest.approx([r[name] for r in one], abs=1e-5), (other, name)
        a, b = (records(folder / "runs" / run, "held_ndcg@10")[-1]["held_ndcg@10"] for run in ("w1", other))
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_resumed_is_the_same_as_never_stopped(folder):
    config = write_other(folder, NEGATIVES)
    dropout = settings("train.dropout=0.2", "train.attention_dropout=0.2", "train.save_every=3")
    train(*dropout, config=config)
    first = records(folder / "runs/one")
    for path in ("model", "checkpoint-6"):
        for file in sorted((folder / "runs/one" / path).rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        (folder / "runs/one" / path).rmdir()
    train(*dropout, "--resume", config=config)
    assert [r["loss"] for r in records(folder / "runs/one")][-3:] == [r["loss"] for r in first][-3:]
    train(*settings("train.max_steps=2", "output=runs/seed", "seed=43"), *dropout, config=config)
    assert records(folder / "runs/seed")[0]["loss"] != first[0]["loss"]


PAIRS = f"""
output = "runs/pairs"
[model]
type = "CrossEncoder"
num_labels = 3
{FROM_SCRATCH}
[[data]]
files = ["pairs.jsonl"]
columns = {{ text1 = "a", text2 = "b" }}
label = "word"
loss = "CrossEntropyLoss"
[train]
batch_size = 10
max_steps = 4
log_every = 1
[[eval]]
name = "held"
evaluator = "CrossEncoderClassificationEvaluator"
files = ["pairs.jsonl"]
columns = {{ text1 = "a", text2 = "b", label = "word" }}
[[eval]]
name = "loss"
files = ["pairs.jsonl"]
columns = {{ text1 = "a", text2 = "b" }}
label = "word"
loss = "CrossEntropyLoss"
"""


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_classes(folder):
    write_jsonl(folder / "pairs.jsonl", [*classes(), {"a": "read", "b": "write", "word": "x"}])
    (folder / "p.toml").write_text(PAIRS)
    printed = train(config="p.toml")
    assert "3 classes (other, same, x)" in printed and "held_accuracy" in printed and "eval_loss_loss" in printed
    assert "confidence" in printed and "accuracy" in printed
    model = CrossEncoder(folder / "runs/pairs/model")
    assert model.id2label == {0: "other", 1: "same", 2: "x"}
    found = records(folder / "runs/pairs", "held_accuracy")[-1]
    rows = [*classes(), {"a": "read", "b": "write", "word": "x"}]
    chosen = model.predict([(row["a"], row["b"]) for row in rows]).argmax(1)
    right = np.mean([model.id2label[i] == row["word"] for i, row in zip(chosen.tolist(), rows, strict=True)])
    assert found["held_accuracy"] == pytest.approx(right)


def wrong(folder, text, *arguments):
    (folder / "w.toml").write_text(text)
    code, _, err = run_script("train.py", "--config", "w.toml", *arguments)
    assert code == 2
    return err.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_evaluators_that_do_not_go_with_the_model(folder):
    """Said before the first step: after the last one, the training would be lost."""
    write_jsonl(folder / "other.jsonl", [{"a": "x", "b": "y", "word": "opposite"}])
    start, evaluation = PAIRS.replace("num_labels = 3", "num_labels = 2").split("[[eval]]")[:2]
    message = wrong(folder, f"{start}[[eval]]{evaluation.replace('pairs.jsonl', 'other.jsonl')}")
    assert "config: [[eval]] held: a label, " in message and "is 'opposite', known are other, same" in message
    ranking = 'query = "a", positive = "b", negative = "word"'
    evaluation = evaluation.replace("Classification", "Reranking").replace(
        'text1 = "a", text2 = "b", label = "word"', ranking
    )
    message = wrong(folder, f"{start}[[eval]]{evaluation}")
    assert (
        "CrossEncoderRerankingEvaluator is for models that give one score, this one gives scores of width 2" in message
    )
    assert not (folder / "runs/pairs/metrics.jsonl").exists()


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_wrong_configs(folder):
    other = PAIRS.replace("num_labels = 3", "num_labels = 5")
    assert "the labels are other, same, the model's LABEL_0, LABEL_1, LABEL_2" in wrong(folder, other)
    one = PAIRS.replace('loss = "CrossEntropyLoss"', 'loss = "BinaryCrossEntropyLoss"')
    assert "'word' is \"same\", but a number is wanted" in wrong(folder, one)
    dense = PAIRS.replace('loss = "CrossEntropyLoss"', 'loss = "CoSENTLoss"')
    assert "'CoSENTLoss', known are ADRMSELoss, BinaryCrossEntropyLoss" in wrong(folder, dense)
    plain = PAIRS.replace('type = "CrossEncoder"', 'type = "SentenceTransformer"')
    assert "num_labels is 3, but a SentenceTransformer gives no scores: use a CrossEncoder" in wrong(folder, plain)
    other = CONFIG.replace('"CrossEncoderRerankingEvaluator"', '"EmbeddingSimilarityEvaluator"')
    other = other.replace('query = "q", positive = "p", documents = "d" }', 'text1 = "q", text2 = "p", score = "m" }')
    write_jsonl(folder / "lists.jsonl", [{**row, "m": 1.0} for row in lists()])
    assert "[[eval]] held: EmbeddingSimilarityEvaluator is for models that give embeddings, this one" in wrong(
        folder, other
    )
    write_jsonl(folder / "lists.jsonl", [*lists(3), {"q": "a", "d": ["b", "c"], "s": [1], "p": "b", "m": [1]}])
    message = wrong(folder, CONFIG)
    assert "lists.jsonl, row 4: 's' is [1], but the row has 2 documents: give a list with a number for each" in message
    write_jsonl(folder / "lists.jsonl", [*lists(3), {"q": "a", "d": [], "s": [], "p": "b", "m": [1]}])
    assert "row 4: 'd' is [], but a query without documents teaches nothing" in wrong(folder, CONFIG)


def test_a_bi_encoder_is_started_from_when_labels_are_named(folder):
    tiny_model().save("bi")
    start = CONFIG.replace(FROM_SCRATCH, 'path = "bi"')
    assert "bi is a bi-encoder: open it with SentenceTransformer, or give num_labels" in wrong(folder, start)
    (folder / "w.toml").write_text(start.replace('path = "bi"', 'path = "bi"\nnum_labels = 1'))
    with pytest.warns(UserWarning, match="a new head, of 1 labels"):
        train(config="w.toml")
