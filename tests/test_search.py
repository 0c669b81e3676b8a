"""Exact search against sorting everything."""

import numpy as np
import pytest
import torch

from minist.retrieval import search as module
from minist.retrieval.search import search
from minist.similarity import SIMILARITIES, similarity


def slowly(queries, documents, k, name):
    scores = similarity(name)(queries, documents).numpy()
    rows = np.stack([sorted(range(len(documents)), key=lambda i: (-line[i], i))[:k] for line in scores])
    return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("k", [1, 5, 30, 99])
def test_against_sorting_everything(name, k):
    queries, documents = torch.randn(7, 6), torch.randn(30, 6)
    scores, rows = search(queries, documents, k, name)
    expected_scores, expected_rows = slowly(queries, documents, k, name)
    assert rows.tolist() == expected_rows.tolist()
    np.testing.assert_allclose(scores.numpy(), expected_scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("queries_at_once", "documents_at_once"), [(3, 4), (1, 1), (100, 7), (100, 900)])
def test_blocks_do_not_matter(monkeypatch, queries_at_once, documents_at_once):
    draw = np.random.RandomState(0)
    queries, documents = (torch.from_numpy(draw.randint(-2, 3, (n, 2))).float() for n in (8, 300))  # many equal scores
    expected_scores, expected_rows = slowly(queries, documents, 60, "dot")
    monkeypatch.setattr(module, "QUERIES", queries_at_once)
    monkeypatch.setattr(module, "DOCUMENTS", documents_at_once)
    scores, rows = search(queries, documents, 60, "dot")
    assert rows.tolist() == expected_rows.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_cosine_is_the_default():
    documents = torch.tensor([[10.0, 9.0], [1.0, 0.0]])
    assert search(torch.tensor([[1.0, 0.0]]), documents, 1)[1].tolist() == [[1]]
    assert search(torch.tensor([[1.0, 0.0]]), documents, 1, "dot")[1].tolist() == [[0]]
