"""Two rankings as one: by hand, and what the evaluator makes of them."""

import math

import pytest

from minist.evaluation import ReciprocalRankFusionEvaluator
from minist.retrieval.search import fuse_rankings


def sample(number, positive, documents):
    return {"query_id": number, "query": f"q{number}", "positive": positive, "documents": documents}


def test_fused_by_hand():
    # a: 1/61 + 1/62, b: 1/62, c: 1/61 + 1/63, d: 1/63
    assert list(fuse_rankings([["a", "b", "c"], ["c", "a", "d"]])) == ["a", "c", "b", "d"]
    assert list(fuse_rankings([["a", "b"], ["b", "a"]])) == ["a", "b"], "of equal scores the earlier ranking's"
    assert list(fuse_rankings([["a", "b", "a"]])) == ["a", "b"] and fuse_rankings([]) == {}
    # with k = 0 the first of the second list is worth more than the second of both: 1 > 1/2 + 1/3
    assert list(fuse_rankings([["a", "b"], ["c", "d", "b"]], 0)) == ["a", "c", "b", "d"]


def test_evaluator_by_hand():
    dense = [sample(1, "x", ["a", "x", "b"]), sample(2, ["y", "z"], ["a", "b"])]
    sparse = [sample(1, "x", ["x", "c"]), sample(2, ["y", "z"], ["y", "a"])]
    found = ReciprocalRankFusionEvaluator(dense, sparse, name="h")()
    assert found["h_dense_mrr@10"] == (1 / 2 + 0) / 2
    assert found["h_sparse_mrr@10"] == 1
    missed = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))  # z, which stands behind the last document
    assert found["h_sparse_ndcg@10"] == pytest.approx((1 + missed) / 2)
    # fused: x 1/61 + 1/62 first; then a 1/61 + 1/62, y 1/61, b 1/62, and z that nobody found
    assert found["h_mrr@10"] == (1 + 1 / 2) / 2
    assert found["h_map"] == pytest.approx((1 + (1 / 2 + 2 / 4) / 2) / 2)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="1 dense and 0 sparse samples: give the same query_ids in one order"):
        ReciprocalRankFusionEvaluator([sample(1, "x", ["x"])], [])
    with pytest.raises(ValueError, match="1 dense and 1 sparse samples: give the same"):
        ReciprocalRankFusionEvaluator([sample(1, "x", ["x"])], [sample(2, "x", ["x"])])
