"""The answers to the exercises of README.md's reading tour: each change is made here, and what follows is checked.

Those about numbers of the quickstart need its model, runs/quickstart/model, as a reader has it after lesson 0, and are
skipped without; what they rest on holds of any model, and is checked on a tiny one. Figures in comments are those of
2026-11-28; another Python has other docstrings, so the checks leave room."""

import json
import math
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from tiny import ROOT, sentences, tiny_model, write_jsonl
from two_ranks import WORLD, run_ranks

import train
from minist import SentenceTransformer, collectives, distributed
from minist.batch import Batch
from minist.data.rows import read_places
from minist.evaluation import InformationRetrievalEvaluator
from minist.losses import MultipleNegativesRankingLoss
from minist.modules.pooling import Pooling
from minist.retrieval.bm25 import BM25
from minist.retrieval.pipeline import by_words
from minist.retrieval.search import fuse_rankings
from minist.training.config import load_config
from minist.training.evaluations import evaluate
from minist.training.run import start_run

MODEL, HELD_OUT = ROOT / "runs/quickstart/model", ROOT / "data/python_docs/heldout.jsonl"


IS_THERE = (MODEL / "modules.json").exists() and HELD_OUT.exists()
of_lesson_0 = pytest.mark.skipif(not IS_THERE, reason="lesson 0 makes runs/quickstart/model")


@pytest.fixture
def quickstart():
    return SentenceTransformer(MODEL)


@pytest.fixture(scope="module")
def evaluator():
    rows = read_places([HELD_OUT], {"query": "summary", "document": "body"})
    return InformationRetrievalEvaluator(**InformationRetrievalEvaluator.of_rows(rows))


def ndcg(model, evaluator):
    return evaluate([evaluator], model)["cosine_ndcg@10"]


def test_lesson_1_of_a_longer_text_nothing_else_is_seen():
    """Two texts that differ behind the cut have the same embedding."""
    model = tiny_model()
    model.max_length = 6
    first, second = model.encode(["read the file and then wait", "read the file and then sort lines by key"])
    assert model.tokenizer(["read the file and then wait"]).was_cut.all()
    longer = model.tokenizer(["read the file and then wait"]).input_ids.tolist()
    assert longer == model.tokenizer(["read the file and then sort lines by key"]).input_ids.tolist()
    torch.testing.assert_close(first, second)


@of_lesson_0
def test_lesson_1(quickstart, evaluator):
    """Two thirds: 0.671 -> 0.467 with 16 tokens of each text; 0.592 with 32, and 0.242 with 8."""
    quickstart.max_length = 16
    assert 0.40 < ndcg(quickstart, evaluator) < 0.55


def test_lesson_2_without_positions_order_is_nothing():
    """Attention sees a set: without a position in the tokens, words in another order give the same mean."""
    model = tiny_model()
    texts, position = ["read write sort file", "file sort write read"], model.stack[0].embeddings.position.weight
    position.data.normal_()  # in a new model they are zeros, until it learns to use them
    assert not torch.allclose(*torch.tensor(model.encode(texts)), atol=1e-3)
    position.data.zero_()
    torch.testing.assert_close(*torch.tensor(model.encode(texts)), atol=1e-5, rtol=1e-5)


@of_lesson_0
def test_lesson_2(quickstart, evaluator):
    """The first token alone: 0.671 -> 0.112. It could have learned to hold the text, but nobody asked it to, the loss
    saw the mean. Without positions: 0.666. So this model has a bag of words, each seen in its company."""
    whole = ndcg(quickstart, evaluator)
    mean = quickstart.stack[1]
    quickstart.stack[1] = Pooling(quickstart.stack[0].width, ("cls",))
    assert ndcg(quickstart, evaluator) < 0.2
    quickstart.stack[1] = mean
    quickstart.stack[0].embeddings.position.weight.data.zero_()
    assert whole - 0.05 < ndcg(quickstart, evaluator) < whole


def simplex(n):
    """n vectors that are as far from each other as can be: each cosine is -1 / (n - 1)."""
    return F.normalize(torch.eye(n) - 1 / n, dim=1)


def test_lesson_3():
    """At scale 1 the loss goes from log 256 = 5.545 to 4.548 and no lower, for a right answer with cosine 1 and wrong
    ones that are as far away as 256 vectors can be: log(1 + 255 exp(-256/255)). The run comes to 5.05, half of the
    way, and is as good at it as it looks bad; but that loss hardly rewards putting the right one first: nDCG@10 is
    0.068 after 60 steps, beside 0.360 at scale 14, where the lowest loss is 0.0002."""
    points, nowhere = simplex(256), torch.ones(256, 8)
    lowest = {scale: MultipleNegativesRankingLoss(scale)([points, points], Batch([])).item() for scale in (1, 14)}
    assert lowest[1] == pytest.approx(math.log(1 + 255 * math.exp(-256 / 255)), abs=1e-4)
    assert f"{lowest[1]:.3f}" == "4.548"
    assert 1e-4 < lowest[14] < 3e-4
    assert MultipleNegativesRankingLoss(1)([nowhere, nowhere], Batch([])).item() == pytest.approx(math.log(256))
    x = points.clone().requires_grad_()  # no step away from there makes it lower
    MultipleNegativesRankingLoss(1)([x, x], Batch([])).backward()
    assert x.grad.norm() < 1e-5


def test_lesson_4():
    """To 5.5452 = log 256: all embeddings are the same, so each of 256 answers is as likely. It never comes back: where
    all are alike, the loss has no gradient. `uniformity` shows it first: 0 is the worst."""
    x = F.normalize(torch.randn(1, 16), dim=1).repeat(256, 1).requires_grad_()
    loss = MultipleNegativesRankingLoss(14.0)([x, x], Batch([]))
    loss.backward()
    assert f"{loss.item():.4f}" == "5.5452" and x.grad.norm() < 1e-5


CONFIG = """
output = "run"
[model]
path = "model"
[[data]]
files = ["rows.jsonl"]
columns = { anchor = "a", positive = "b" }
loss = "MultipleNegativesRankingLoss"
[train]
batch_size = 32
epochs = 4
lr = 1e-2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text(CONFIG)
    write_jsonl(Path("rows.jsonl"), [{"a": a, "b": b} for a, b in zip(sentences(64, 1), sentences(64, 2), strict=True)])
    tiny_model().save("model")
    return tmp_path


def losses(*changes):
    """Of the first steps of a run."""
    run = start_run(load_config(Path("c.toml"), list(changes)), resume=False, overwrite=True)
    places = zip(range(3), run.batches.start_at(0), strict=False)
    return [train.take_step(run, place)[0].value.item() for _, place in places]


def test_lesson_5(folder):
    """The losses of all steps are the same, and so are the weights; memory is not: 577 MB in place of 897. A smaller
    batch is an easier question, log 64 = 4.16 at the start in place of log 512 = 6.24, so losses of different batches
    say nothing about the models. Adding gradients up keeps the easy question."""
    whole = losses()
    assert losses("train.mini_batch_tokens=40") == pytest.approx(whole, abs=1e-5)
    assert whole[0] != whole[1]  # they do change from step to step
    assert losses("train.batch_size=8")[0] < whole[0] - 0.5


def of_a_rank(rank, folder):
    """In one of two processes: the losses as they are, and with the exercise's change."""
    with mock.patch.object(distributed, "start", lambda: (rank, WORLD, torch.device("cpu"))):  # they have joined
        found = {"right": losses()}
        with mock.patch.object(collectives, "gather", lambda x: x):
            found["alone"] = losses()
    (folder / f"{rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_lesson_6(folder):
    """By about log 2 = 0.69, 5.4 in place of 6.11: each process sees 256 answers in place of 512, so the question is
    easier. They have lost each other's wrong answers, and the model learns less while its loss looks better."""
    one = losses()
    run_ranks(of_a_rank, folder)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    for found in ranks:
        assert found["right"] == pytest.approx(one, abs=1e-5)
    mean = sum(found["alone"][0] for found in ranks) / 2
    assert 0.3 < one[0] - mean < 1.1


@of_lesson_0
def test_lesson_7(quickstart):
    """Better: 0.684 -> 0.705, beside 0.671 of the model and 0.640 of BM25. With one right answer, what one search is
    sure of counts for more than what both find middling. With many right answers, a larger k is the safer choice."""
    rows = [json.loads(line) for line in HELD_OUT.read_text("utf-8").splitlines()]
    queries, texts = [row["summary"] for row in rows], [row["body"] for row in rows]
    similarity = quickstart.similarity(quickstart.encode_query(queries), quickstart.encode_document(texts))
    search = by_words(BM25(texts))
    dense = similarity.topk(100).indices.tolist()
    words = [search(query, 100)[1].tolist() for query in queries]

    def mean(rankings):
        found = [ranking[:10].index(row) for row, ranking in enumerate(rankings) if row in ranking[:10]]
        return sum(1 / math.log2(2 + place) for place in found) / len(rows)

    fused = {k: mean([list(fuse_rankings(both, k)) for both in zip(dense, words, strict=True)]) for k in (1, 60)}
    assert fused[1] > fused[60] > max(mean(dense), mean(words))
