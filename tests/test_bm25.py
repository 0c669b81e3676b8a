"""BM25 against its formula, word by word."""

import math

import numpy as np
import pytest
import torch
from tiny import sentences

from minist.retrieval.bm25 import BM25, words

DOCUMENTS = ["", *sentences(20, seed=1, longest=15)]


def slowly(query, documents, k1, b):
    texts = [words(text) for text in documents]
    average = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in words(query):
            holding = sum(word in other for other in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            f = text.count(word)
            score += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(text) / average))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["read", "sort list file", "read read unheard", "", "unheard"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4)])
def test_scores(query, k1, b):
    found = BM25(DOCUMENTS, k1, b).scores(query)
    np.testing.assert_allclose(found.numpy(), slowly(query, DOCUMENTS, k1, b), atol=1e-12, rtol=0)


def test_a_value_by_hand():
    """Two documents of one word each, so that lengths cancel: ln(1 + 1.5 / 1.5) * 2.2 / 2.2."""
    assert BM25(["cat", "dog"]).scores("Cat!").tolist() == pytest.approx([math.log(2), 0.0], abs=1e-12)


def test_words():
    assert words("Don't STOP-2 now_x") == ["don", "t", "stop", "2", "now", "x"]


def test_words_of_other_scripts():
    """Each word is one, whatever its letters; ASCII alone would find nothing in them."""
    assert words("Ärger im CAFÉ: Поиск по 東京_x") == ["ärger", "im", "café", "поиск", "по", "東京", "x"]
    assert BM25(["поиск текста", "собака"]).scores("ПОИСК").tolist() == pytest.approx([math.log(2), 0], abs=0.2)


@pytest.mark.parametrize("documents", [DOCUMENTS, ["", "?!"], []])
def test_saved_and_loaded(documents, tmp_path):
    """float32 weights: scores are those of before to 7 digits."""
    made = BM25(documents)
    made.save(tmp_path / "saved")
    found = BM25.load(tmp_path / "saved")
    for query in ("sort list file", "read read unheard", ""):
        scores = found.scores(query)
        assert (scores.dtype, scores.shape) == (torch.float64, (len(documents),))
        torch.testing.assert_close(scores, made.scores(query), rtol=1e-6, atol=1e-6)


def test_documents_without_a_word():
    assert BM25(["", "?!"]).scores("a").tolist() == [0.0, 0.0]
