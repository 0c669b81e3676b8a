"""What some queries find before and after: the best documents of any model, the right ones marked."""

import json

import numpy as np
import pytest
from tiny import sentences, tiny_model

from minist.evaluation import CrossEncoderRerankingEvaluator, InformationRetrievalEvaluator
from minist.training import examples as module
from minist.training.config import Config, EvalConfig
from minist.training.examples import Examples, spread

TEXTS = list(dict.fromkeys(sentences(60, seed=3, longest=7)))
CORPUS = {f"d{i:03}": text for i, text in enumerate(TEXTS)}
QUERIES = {f"q{i}": " ".join(reversed(text.split())) for i, text in enumerate(TEXTS[:20])}
RELEVANT = {f"q{i}": {f"d{i:03}": 1.0, "d050": 0.0} for i in range(20)}


def config_of(*names):
    return Config(
        "o", [], eval=[EvalConfig(name=f"e{i}", evaluator={"name": n} if n else {}) for i, n in enumerate(names)]
    )


def retrieval(**more):
    return InformationRetrievalEvaluator(QUERIES, CORPUS, RELEVANT, **more)


def test_the_best_documents_of_a_model():
    model, evaluator = tiny_model(), retrieval()
    examples = Examples(config_of("", "InformationRetrievalEvaluator"), [lambda model: {}, evaluator])
    assert examples(model) == {}  # it is an evaluation without a metric
    searches = examples.found
    assert [one["query"] for one in searches] == [QUERIES[f"q{i}"] for i in (0, 4, 8, 12, 16)]
    scores = model.similarity(model.encode_query([one["query"] for one in searches]), model.encode_document(TEXTS))
    for i, one, own in zip((0, 4, 8, 12, 16), searches, scores, strict=True):
        best = own.argsort(descending=True)[:3].tolist()
        assert [hit["text"] for hit in one["hits"]] == [TEXTS[row] for row in best]
        assert [hit["score"] for hit in one["hits"]] == pytest.approx(own[best].tolist(), abs=1e-5)
        assert [hit["right"] for hit in one["hits"]] == [row == i for row in best]
    assert sum(hit["right"] for one in searches for hit in one["hits"]) >= 2


def test_few_documents_with_the_right_ones_among_them(monkeypatch):
    monkeypatch.setattr(module, "DOCUMENTS", 8)
    monkeypatch.setattr(module, "HITS", 20)
    evaluator = retrieval()
    examples = Examples(config_of("InformationRetrievalEvaluator"), [evaluator])
    examples(tiny_model())
    for i, one in zip((0, 4, 8, 12, 16), examples.found, strict=True):
        assert 5 <= len(one["hits"]) <= 8
        assert [hit["text"] for hit in one["hits"] if hit["right"]] == [TEXTS[i]]


class Lengths:
    """A cross-encoder that likes long documents."""

    id2label: dict = {}  # noqa: RUF012

    def predict(self, pairs):
        return np.array([len(document) for _, document in pairs], np.float32)


def test_the_best_candidates_of_a_cross_encoder():
    samples = [
        {"query": f"q{i}", "positive": [f"{'a' * i}"], "documents": ["x" * 4, "y" * 4, "z"]} for i in range(1, 9)
    ]
    evaluator = CrossEncoderRerankingEvaluator(samples)
    examples = Examples(config_of("CrossEncoderRerankingEvaluator"), [evaluator])
    examples(Lengths())
    first, *_, last = examples.found
    assert [(hit["text"], hit["right"]) for hit in first["hits"]] == [("xxxx", False), ("yyyy", False), ("a", True)]
    assert (last["query"], last["hits"][0]) == ("q7", {"text": "a" * 7, "score": 7.0, "right": True})


def test_what_was_before_stays(tmp_path):
    examples = Examples(config_of("InformationRetrievalEvaluator"), [retrieval()])
    examples(tiny_model(0))
    examples.keep(tmp_path, 0)
    before = json.loads((tmp_path / "examples.json").read_text())
    assert list(before) == ["before"] and before["before"]["step"] == 0
    for seed, step in ((1, 4), (2, 8)):
        examples(tiny_model(seed))
        examples.keep(tmp_path, step)
        found = json.loads((tmp_path / "examples.json").read_text())
        assert found["before"] == before["before"] and found["after"]["step"] == step
    examples.keep(tmp_path, 9)  # nothing was searched since
    assert json.loads((tmp_path / "examples.json").read_text()) == found
    examples(tiny_model(0))
    examples.keep(tmp_path, 0)  # another run in the same folder
    assert json.loads((tmp_path / "examples.json").read_text()) == before


def test_nothing_to_search(tmp_path):
    examples = Examples(config_of("EmbeddingSimilarityEvaluator", ""), [lambda model: {}] * 2)
    assert examples(None) == {}
    examples.keep(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


def test_spread():
    assert spread(3, 5) == [0, 1, 2] and spread(10, 5) == [0, 2, 4, 6, 8] and spread(7, 0) == []
