"""semantic_search: its inputs, ties, NaN and blocks. tests/parity compares it with the real library's."""

import json

import numpy as np
import pytest
import torch
from models import DATA

from minist.retrieval import search as module
from minist.retrieval.search import search, semantic_search
from minist.similarity import cosine, dot


def recorded(name):
    return json.loads((DATA / "retrieval.json").read_text())[name]


def normal(seed, *shape):
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape).astype(np.float32))


def flat(hits):
    return [[(hit["corpus_id"], hit["score"]) for hit in line] for line in hits]


@pytest.mark.parametrize("score", ["cosine", cosine], ids=["by name", "by function"])
def test_recorded_numbers(score):
    found = flat(semantic_search(normal(6, 3, 8), normal(7, 30, 8), 2, 7, 5, score))
    for line, wanted in zip(found, recorded("semantic_search"), strict=True):
        assert [i for i, _ in line] == [i for i, _ in wanted]
        np.testing.assert_allclose([s for _, s in line], [s for _, s in wanted], atol=1e-6)


def test_ways_to_give_embeddings(tmp_path):
    queries, corpus = normal(0, 4, 6), normal(1, 50, 6)
    wanted = flat(semantic_search(queries, corpus, top_k=7))
    np.save(tmp_path / "corpus.npy", corpus.numpy())
    on_disk = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    for given in (corpus.numpy(), corpus.tolist(), list(corpus), list(corpus.numpy()), on_disk):
        assert flat(semantic_search(queries, given, top_k=7)) == wanted
    for query, given in [(queries[2], corpus), (queries[2].tolist(), corpus), (queries[2], corpus.to_sparse())]:
        [line] = flat(semantic_search(query, given, top_k=7))
        assert [i for i, _ in line] == [i for i, _ in wanted[2]]
        np.testing.assert_allclose([s for _, s in line], [s for _, s in wanted[2]], atol=1e-6)


def test_a_list_of_sparse_rows():
    corpus = normal(1, 5, 6).relu()
    found = semantic_search([row.to_sparse() for row in corpus[:2]], [row.to_sparse() for row in corpus], top_k=1)
    assert [line[0]["corpus_id"] for line in found] == [0, 1]


def test_nothing_to_search():
    x = normal(0, 4, 6)
    assert semantic_search(x, x[:0]) == [[]] * 4
    assert semantic_search(x[:0], x) == semantic_search([], x) == semantic_search(x[:0], x, score_function=dot) == []
    assert semantic_search(x, []) == [[]] * 4
    assert len(semantic_search(x, x, top_k=100)[0]) == 4
    with pytest.raises(ValueError, match="top_k is 0"):
        semantic_search(x, x, top_k=0)
    with pytest.raises(ValueError, match="similarity is 'cos'"):
        semantic_search(x, x, score_function="cos")


def test_nan_never_wins():
    corpus = normal(0, 30, 6)
    corpus[3] = torch.nan
    for score in ("cosine", "dot", "euclidean", cosine):
        line = flat(semantic_search(corpus[:1], corpus, 100, 8, 30, score))[0]
        assert line[-1] == (3, -torch.inf) and not np.isnan([s for _, s in line]).any()


@pytest.mark.parametrize("at_once", [1, 7, 64, 5000])
def test_later_blocks_that_hold_better_equal_and_worse(monkeypatch, at_once):
    """The best so far are a hurdle for later blocks: rising, falling and equal scores, and NaN from the start."""
    monkeypatch.setattr(module, "DOCUMENTS", at_once)
    for values in (torch.arange(300.0), -torch.arange(300.0), torch.zeros(300), (torch.arange(300) % 7).float()):
        corpus = torch.cat([torch.full((3,), torch.nan), values])[:, None]
        scores, rows = search(torch.ones(2, 1), corpus, 5, "dot")
        order = sorted(range(3, 303), key=lambda i: (-values[i - 3].item(), i))[:5]
        assert rows.tolist() == [order] * 2
        assert scores[0].tolist() == [values[i - 3].item() for i in order]


def test_cosines_of_zeros_halves_and_integers():
    corpus = normal(0, 20, 6)
    corpus[4] = 0
    for x in (corpus, corpus.half(), corpus.bfloat16(), (corpus * 20).to(torch.int8)):
        scores, rows = search(x[:5], x, 20)
        torch.testing.assert_close(scores, cosine(x[:5], x).gather(1, rows), atol=1e-6, rtol=0)
        assert not scores[4].any()
