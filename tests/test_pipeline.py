"""Retrieve and rerank against the definitions, worked out slowly."""

import numpy as np
import pytest
import torch
from models import DATA
from tiny import sentences, tiny_model

from minist import CrossEncoder, SparseEncoder
from minist.retrieval.bm25 import BM25
from minist.retrieval.pipeline import Pipeline, by_embedding, by_index, by_words, standard
from minist.retrieval.search import fuse_rankings
from minist.retrieval.sparse_index import SparseIndex

TEXTS = [*sentences(60, seed=4), "nothing of it"]
NAN = float("nan")


def fixed(scores):
    """A retriever whose scores [N] are given."""

    def retrieve(query, k):
        best = torch.tensor(scores).sort(descending=True, stable=True)
        return best.values[:k], best.indices[:k]

    return retrieve


class Judge:
    """A cross-encoder that gives each text its score in a table, and notes what it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def predict(self, pairs):
        self.asked += pairs
        return np.array([self.scores[text] for _, text in pairs], np.float32)


def rows(hits):
    return [hit.row for hit in hits]


def test_one_retriever_decides_alone():
    hits = Pipeline(TEXTS, {"bm25": by_words(BM25(TEXTS))}).search("sort file", 5)
    wanted = BM25(TEXTS).scores("sort file")
    assert rows(hits) == wanted.argsort(descending=True, stable=True)[:5].tolist()
    assert [hit.stages for hit in hits] == [{"bm25": (wanted[row].item(), i)} for i, row in enumerate(rows(hits), 1)]
    assert [hit.score for hit in hits] == wanted[rows(hits)].tolist()


def test_what_shares_no_word_is_not_found():
    pipeline = Pipeline(TEXTS, {"bm25": by_words(BM25(TEXTS))}, candidates=100)
    assert rows(pipeline.search("NOTHING", 10)) == [60]
    assert pipeline.search("unheard", 10) == pipeline.search("", 10) == []


@pytest.mark.parametrize("candidates", [5, 20, 100])
@pytest.mark.parametrize("seed", range(3))
def test_fused_ranks(candidates, seed):
    """The sum of 1 / (60 + rank) over three rankings, cut at `candidates`, of equal ones the lower row first."""
    draw = np.random.default_rng(seed)
    scores = {name: draw.integers(0, 9, 40).astype(np.float32) for name in "abc"}  # many are equal
    hits = Pipeline(TEXTS[:40], {name: fixed(x) for name, x in scores.items()}, candidates=candidates).search(
        "q", candidates
    )
    rankings = {name: np.argsort(-x, kind="stable")[:candidates].tolist() for name, x in scores.items()}
    wanted = {row: 0.0 for ranking in rankings.values() for row in ranking}
    for ranking in rankings.values():
        for rank, row in enumerate(ranking, 1):
            wanted[row] += 1 / (60 + rank)
    order = sorted(wanted, key=lambda row: (-round(wanted[row], 14), row))[:candidates]
    assert rows(hits) == order
    assert hits[0].score == pytest.approx(wanted[next(iter(fuse_rankings(rankings.values())))], abs=1e-14)
    for rank, hit in enumerate(hits, 1):
        assert hit.score == pytest.approx(wanted[hit.row], abs=1e-14) and hit.stages["fused"] == (hit.score, rank)
        own = {name: ranking.index(hit.row) + 1 for name, ranking in rankings.items() if hit.row in ranking}
        assert {name: place for name, (_, place) in hit.stages.items() if name != "fused"} == own
        assert all(hit.stages[name][0] == scores[name][hit.row] for name in own)


def test_more_candidates_where_more_are_wanted():
    assert len(Pipeline(TEXTS, {"a": fixed(np.arange(61.0))}, candidates=3).search("q", 10)) == 10


def judged(mix, top=4):
    """Six texts that two rankings agree about, best first; of the first four the cross-encoder likes the third."""
    judge = Judge(dict(zip("abcdef", [0.2, 0.1, 0.9, 0.1, 5.0, 6.0], strict=True)))
    order = fixed([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    return Pipeline("abcdef", {"x": order, "y": order}, judge, rerank_top=top, rerank_mix=mix), judge


def test_reranked_by_the_score_alone():
    pipeline, judge = judged("score")
    hits = pipeline.search("q", 3)
    assert judge.asked == [("q", text) for text in "abcd"]
    assert rows(hits) == [2, 0, 1], "of equal scores the lower row first"
    assert [hit.stages["rerank"] for hit in hits] == [(pytest.approx(x), i) for i, x in ((1, 0.9), (2, 0.2), (3, 0.1))]
    assert [hit.score for hit in hits] == pytest.approx([0.9, 0.2, 0.1])


def test_reranked_by_the_sum():
    pipeline, _ = judged("sum")
    hits = pipeline.search("q", 4)
    first, own = np.array([6.0, 5.0, 4.0, 3.0]), np.array([0.2, 0.1, 0.9, 0.1])
    wanted = 2 * (first - first.mean()) / first.std() + (own - own.mean()) / own.std()  # 2: x and y
    assert rows(hits) == np.argsort(-wanted, kind="stable").tolist() == [0, 2, 1, 3]
    assert [hit.score for hit in hits] == pytest.approx(sorted(wanted, reverse=True), abs=1e-6)
    assert [hit.stages["sum"] for hit in hits] == [(hit.score, i) for i, hit in enumerate(hits, 1)]
    assert [hit.stages["rerank"][1] for hit in hits] == [2, 1, 3, 4]


def test_what_a_search_does_not_name_has_its_least():
    """x names rows 0, 1, 2 and y rows 5, 4, 3; z names none at all."""
    judge = Judge(dict.fromkeys("abcdef", 0.5))
    searches = {"x": fixed([9.0, 8, 3, 2, 1, 0]), "y": fixed([0.0, 1, 2, 3, 4, 9])}
    none = {"z": lambda query, k: (torch.empty(0), torch.empty(0, dtype=torch.long))}
    hits = Pipeline("abcdef", searches | none, judge, candidates=3).search("q", 3)
    x, y = np.array([9.0, 8, 3, 3, 3, 3]), np.array([3.0, 3, 3, 3, 4, 9])
    wanted = (x - x.mean()) / x.std() + (y - y.mean()) / y.std()
    assert rows(hits) == np.argsort(-wanted, kind="stable")[:3].tolist() == [5, 0, 1]
    assert [hit.score for hit in hits] == pytest.approx(sorted(wanted, reverse=True)[:3], abs=1e-6)


def test_all_that_are_shown_are_reranked():
    assert rows(judged("score", top=1)[0].search("q", 6)) == [5, 4, 2, 0, 1, 3]


@pytest.mark.parametrize("mix", ["sum", "score"])
def test_nan_never_wins(mix):
    judge = Judge({"a": NAN, "b": 0.1, "c": 0.3, "d": NAN})
    hits = Pipeline("abcd", {"x": fixed([4.0, 3.0, 2.0, 1.0])}, judge, rerank_mix=mix).search("q", 4)
    assert set(rows(hits)[:2]) == {1, 2} and rows(hits)[2:] == [0, 3]


def test_standard():
    np.testing.assert_allclose(standard(np.array([1.0, 2, 3])), [-(1.5**0.5), 0, 1.5**0.5])
    assert standard(np.array([2.0, 2])).tolist() == [0, 0]
    np.testing.assert_array_equal(standard(np.array([NAN, 5, 5])), [NAN, 0, 0])
    assert np.isnan(standard(np.array([NAN])))


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean"])
def test_dense_search_as_the_model_compares(name):
    model = tiny_model()
    model.similarity_name = name
    model.prompts |= {"query": "read "}
    embeddings = torch.from_numpy(model.encode_document(TEXTS))
    embeddings[7] = NAN
    scores, found = by_embedding(model, embeddings)("sort list", 100)
    wanted = model.similarity(model.encode_query(["sort list"]), embeddings)[0]
    assert 7 not in found.tolist() and len(found) == 60
    torch.testing.assert_close(scores, wanted[found], atol=1e-5, rtol=1e-5)
    assert (scores.diff() <= 0).all()


@pytest.mark.parametrize(("folder", "name"), [("sparse", "dot"), ("idf", "dot"), ("sparse", "cosine")])
def test_sparse_search_as_the_model_compares(folder, name):
    model = SparseEncoder(DATA / "folders/st6" / folder)
    model.similarity_name = name
    texts = ["the cat sat on the mat", "a dog", "red blue", ""]
    embeddings = model.encode_document(texts)
    index = SparseIndex(model.width, "")
    index.add([embeddings if name == "dot" else torch.nn.functional.normalize(embeddings.to_dense()).to_sparse()])
    scores, found = by_index(model, index)("the cat", 10)
    wanted = model.similarity(model.encode_query(["the cat"]), embeddings)[0]
    assert found.tolist() == [row for row in wanted.argsort(descending=True).tolist() if wanted[row] > 0]
    torch.testing.assert_close(scores, wanted[found], atol=1e-5, rtol=1e-5)


def test_sparse_embeddings_have_no_other_similarity():
    model = SparseEncoder(DATA / "folders/st6/sparse")
    model.similarity_name = "euclidean"
    with pytest.raises(ValueError, match="the similarity of a sparse model is 'euclidean', known are dot, cosine"):
        by_index(model, SparseIndex(model.width, ""))


def test_a_real_cross_encoder():
    reranker, texts = CrossEncoder(DATA / "folders/st6/ce"), ["the cat", "a dog sat", "cat mat"]
    pipeline = Pipeline(texts, {"bm25": by_words(BM25(texts))}, reranker, rerank_mix="score")
    scores = reranker.predict([("cat sat", text) for text in texts])
    assert rows(pipeline.search("cat sat", 3)) == np.argsort(-scores, kind="stable").tolist()


@pytest.mark.parametrize(("top_k", "mix"), [(0, "sum"), (1.5, "sum"), (2, "product")])
def test_mistakes(top_k, mix):
    with pytest.raises(ValueError, match=r"top_k is|rerank_mix is 'product', known are sum, score"):
        Pipeline("ab", {"x": fixed([1.0, 2.0])}, Judge({"a": 1, "b": 2}), rerank_mix=mix).search("q", top_k)
