"""Metrics against their definitions, one result at a time."""

import math

import numpy as np
import pytest

from minist.evaluation import metrics

CASES = [(seed, k) for seed in range(6) for k in (1, 3, 10, 50)]


def random_hits(seed):
    draw = np.random.RandomState(seed)
    hits = draw.rand(20) < draw.choice([0.0, 0.1, 0.4])
    return hits, int(hits.sum()) + draw.randint(1, 4)  # some relevant documents were never found


@pytest.mark.parametrize(("seed", "k"), CASES)
def test_against_loops(seed, k):
    hits, relevant = random_hits(seed)
    found = [rank for rank, hit in enumerate(hits[:k], 1) if hit]
    best = [1 / math.log2(rank + 1) for rank in range(1, min(k, relevant) + 1)]
    precisions = [sum(hits[:rank]) / rank for rank in found]
    assert metrics.accuracy_at(hits, k) == (1.0 if found else 0.0)
    assert metrics.precision_at(hits, k) == len(found) / k
    assert metrics.recall_at(hits, k, relevant) == len(found) / relevant
    assert metrics.mrr_at(hits, k) == (1 / found[0] if found else 0.0)
    ndcg = sum(1 / math.log2(rank + 1) for rank in found) / sum(best)
    assert metrics.ndcg_at(hits, k, relevant) == pytest.approx(ndcg, abs=1e-12)
    assert metrics.map_at(hits, k, relevant) == pytest.approx(sum(precisions) / min(k, relevant), abs=1e-12)


def test_a_perfect_ranking():
    hits = np.array([True] * 3 + [False] * 7)
    assert metrics.ndcg_at(hits, 10, 3) == pytest.approx(1, abs=1e-12)
    assert metrics.map_at(hits, 10, 3) == metrics.recall_at(hits, 10, 3) == metrics.mrr_at(hits, 10) == 1


def test_rank_two_by_hand():
    hits = np.array([False, True, False])
    assert metrics.ndcg_at(hits, 10, 1) == pytest.approx(1 / math.log2(3), abs=1e-12)
    assert metrics.mrr_at(hits, 10) == metrics.map_at(hits, 10, 1) == 0.5


def test_ranks_share_their_mean():
    assert metrics.ranks(np.array([10.0, 30.0, 10.0, 20.0, 30.0, 30.0])).tolist() == [1.5, 5, 1.5, 3, 5, 5]


@pytest.mark.parametrize("seed", range(3))
def test_correlations(seed):
    draw = np.random.RandomState(seed)
    x, y = draw.randint(0, 6, 30).astype(float), draw.randn(30)
    assert metrics.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    places = [[sum(v < w for v in z) + (sum(v == w for v in z) + 1) / 2 for w in z] for z in (x, y)]
    assert metrics.spearman(x, y) == pytest.approx(np.corrcoef(*places)[0, 1], abs=1e-12)


def test_spearman_sees_only_the_order():
    x = np.array([1.0, 2.0, 5.0, 9.0])
    assert metrics.spearman(x, np.exp(x)) == pytest.approx(1, abs=1e-12)
    assert metrics.spearman(x, -(x**3)) == pytest.approx(-1, abs=1e-12)
    assert metrics.pearson(x, np.exp(x)) < 0.9


def test_a_constant_has_no_correlation():
    for constant in (np.ones(4), np.full(4, 0.1), np.full(7, 1e-200)):
        for x, y in ((constant, np.arange(float(len(constant)))), (np.arange(float(len(constant))), constant)):
            assert math.isnan(metrics.pearson(x, y)) and math.isnan(metrics.spearman(x, y))


def test_what_holds_nan_has_no_correlation():
    x, y = np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, 3.0])
    for correlation in (metrics.pearson, metrics.spearman):
        assert math.isnan(correlation(x, y)) and math.isnan(correlation(y, x))
