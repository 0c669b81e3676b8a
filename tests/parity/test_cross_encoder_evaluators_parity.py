"""Evaluators of cross-encoders beside the real ones, on random pairs and lists: the same names and numbers."""

from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock
from zlib import crc32

import numpy as np
import pytest
from sentence_transformers.cross_encoder import evaluation as real
from tiny import write_jsonl

from minist.evaluation import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    CrossEncoderNanoBEIREvaluator,
    CrossEncoderRerankingEvaluator,
)


class Fake:
    """Stands for a model of both libraries: a score is drawn with the texts as the seed, of `levels` different ones."""

    def __init__(self, levels, num_labels=1):
        self.levels, self.num_labels = levels, num_labels
        self.id2label = {i: f"LABEL_{i}" for i in range(num_labels)}
        self.model_card_data = Mock()  # the real evaluators note their results there

    def predict(self, pairs, **options):
        seeds = [crc32(f"{a}\n{b}".encode()) for a, b in pairs]
        drawn = np.array([np.random.RandomState(seed).randint(0, self.levels, self.num_labels) for seed in seeds])
        scores = (drawn / self.levels - 0.3).astype(np.float32)
        return scores[:, 0] if self.num_labels == 1 else scores


LEVELS = [1, 3, 1_000_000_000]  # all scores are equal, many are, next to none


def check_same(ours, theirs):
    assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.fixture(autouse=True)
def _stable_order(monkeypatch):
    """How the real one orders equal scores for MRR depends on the processor, except where all are equal."""
    stable = SimpleNamespace(**vars(np) | {"argsort": partial(np.argsort, kind="stable")})
    monkeypatch.setattr("sentence_transformers.cross_encoder.evaluation.reranking.np", stable)


def random_pairs(draw, n=60):
    return [(f"first {draw.randint(1e9)}", f"second {i}") for i in range(n)]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", ["", "dev"])
def test_two_classes(levels, name):
    for seed in range(20):
        draw = np.random.RandomState(seed)
        pairs, labels = random_pairs(draw), draw.randint(0, 2, 60)
        theirs = real.CrossEncoderClassificationEvaluator(pairs, labels, name=name, write_csv=False)(Fake(levels))
        check_same(CrossEncoderClassificationEvaluator(pairs, labels.tolist(), name)(Fake(levels)), theirs)


@pytest.mark.filterwarnings("ignore:No positive")
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only(label):
    for levels in LEVELS:
        pairs, labels = random_pairs(np.random.RandomState(levels), 9), [label] * 9
        theirs = real.CrossEncoderClassificationEvaluator(pairs, labels, write_csv=False)(Fake(levels))
        check_same(CrossEncoderClassificationEvaluator(pairs, labels)(Fake(levels)), theirs)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_several_classes(levels, classes):
    """Also with classes that no label names."""
    for seed in range(10):
        draw, model = np.random.RandomState(seed), Fake(levels, classes)
        pairs, labels = random_pairs(draw), draw.choice(draw.randint(0, classes, 4), 60)
        theirs = real.CrossEncoderClassificationEvaluator(pairs, labels, name="dev", write_csv=False)(model)
        ours = CrossEncoderClassificationEvaluator(pairs, labels.tolist(), "dev")(model)
        assert ours.pop("dev_accuracy") == ours["dev_f1_micro"]  # of ours alone
        check_same(ours, theirs)


@pytest.mark.parametrize("levels", LEVELS[1:])
def test_correlation(levels):
    for seed in range(10):
        draw = np.random.RandomState(seed)
        pairs, scores = random_pairs(draw), draw.randint(0, 6, 60).tolist()
        theirs = real.CrossEncoderCorrelationEvaluator(pairs, scores, name="sts", write_csv=False)(Fake(levels))
        check_same(CrossEncoderCorrelationEvaluator(pairs, scores, "sts")(Fake(levels)), theirs)


# ---------------------------------------------------------------- re-ranking


def random_samples(seed, other):
    """Of all lengths; some positives were not retrieved, and some queries have none."""
    draw, samples = np.random.RandomState(seed), []
    for i in range(25):
        texts = [f"text {draw.randint(1e9)}" for _ in range(draw.randint(2, 40))]
        positive = [] if i == 3 else texts[: draw.randint(1, min(len(texts), 6))]
        others = texts[len(positive) :]
        if other == "documents":
            others = list(draw.permutation(others + positive[draw.randint(0, len(positive) + 1) :]))
        samples.append({"query": f"query {i}", "positive": positive, other: [str(text) for text in others]})
    samples[5]["positive"] = samples[5]["positive"][0]  # a text alone
    return samples


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("other, always", [("negative", True), ("documents", True), ("documents", False)])
@pytest.mark.parametrize("at_k", [1, 10, 100])
def test_reranking(levels, other, always, at_k):
    for seed in range(4):
        samples, options = random_samples(seed, other), {"at_k": at_k, "always_rerank_positives": always, "name": "dev"}
        theirs = real.CrossEncoderRerankingEvaluator(samples, **options, write_csv=False)(Fake(levels))
        check_same(CrossEncoderRerankingEvaluator(samples, **options)(Fake(levels)), theirs)


def test_constant_scores_as_they_are(monkeypatch):
    """With the order of numpy itself, for lists of all lengths."""
    monkeypatch.undo()
    samples = random_samples(0, "negative") + random_samples(1, "negative")
    theirs = real.CrossEncoderRerankingEvaluator(samples, write_csv=False)(Fake(1))
    check_same(CrossEncoderRerankingEvaluator(samples)(Fake(1)), theirs)


# ---------------------------------------------------------------- NanoBEIR


class Rows(list):
    """Stands for a data set of Hugging Face: a list of rows, with columns by name."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    @property
    def column_names(self):
        return list(self[0])

    def map(self, function, fn_kwargs):
        return [function(row, **fn_kwargs) for row in self]


def random_collection(seed):
    draw = np.random.RandomState(seed)
    corpus = [{"_id": f"d{i}", "text": f"text {draw.randint(1e9)}"} for i in range(40)]
    queries = [{"_id": f"q{i}", "text": f"query {draw.randint(1e9)}"} for i in range(12)]
    bm25 = [{"query-id": q["_id"], "corpus-ids": [f"d{i}" for i in draw.permutation(40)[:30]]} for q in queries]
    qrels = [
        {"query-id": q["_id"], "corpus-id": f"d{i}", "score": 1}
        for q in queries
        for i in draw.permutation(40)[: draw.randint(1, 6)]
    ]
    return {"corpus": Rows(corpus), "queries": Rows(queries), "qrels": Rows(qrels), "bm25": Rows(bm25)}


def write(folder, parts):
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries", "bm25"):
        write_jsonl(folder / f"{name}.jsonl", parts[name])
    lines = ["\t".join(map(str, row.values())) for row in parts["qrels"]]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("always", [True, False])
def test_nano_beir(tmp_path, monkeypatch, levels, always):
    names = ["msmarco", "nq", "touche2020"]
    sets = {f"Nano{name}": random_collection(i) for i, name in enumerate(("MSMARCO", "NQ", "Touche2020"))}
    for name, parts in sets.items():
        write(tmp_path / name, parts)
    kind = real.CrossEncoderNanoBEIREvaluator
    monkeypatch.setattr(kind, "_load_dataset_subset_split", lambda self, subset, split, **_: sets[split][subset])
    options = {"rerank_k": 20, "at_k": 5, "always_rerank_positives": always}
    theirs = kind(names, **options, write_csv=False)(Fake(levels))
    assert "NanoBEIR_R20_mean_base_ndcg@5" in theirs
    check_same(CrossEncoderNanoBEIREvaluator(tmp_path, names, **options)(Fake(levels)), theirs)
