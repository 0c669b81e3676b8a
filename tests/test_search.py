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


@pytest.mark.parametrize("name", SIMILARITIES)
def test_documents_that_are_no_numbers_come_last(name):
    queries, documents = torch.randn(3, 6), torch.randn(40, 6)
    documents[0], documents[7, 2] = torch.nan, torch.nan
    scores, rows = search(queries, documents, 40, name)
    assert rows[:, -2:].tolist() == [[0, 7]] * 3
    kept = [i for i in range(40) if i not in (0, 7)]
    wanted_scores, wanted = search(queries, documents[kept], 38, name)
    assert torch.tensor(kept)[wanted].tolist() == rows[:, :-2].tolist()
    torch.testing.assert_close(scores[:, :-2], wanted_scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_query_that_is_no_number(name):
    queries, documents = torch.randn(3, 6), torch.randn(40, 6)
    queries[1] = torch.nan
    scores, rows = search(queries, documents, 5, name)
    assert rows[1].tolist() == [0, 1, 2, 3, 4] and scores[1].isinf().all()
    torch.testing.assert_close(scores[::2], search(queries[::2], documents, 5, name)[0], atol=1e-6, rtol=0)
