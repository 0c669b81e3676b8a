"""Metrics against their definitions, one result at a time."""

import itertools
import math

import numpy as np
import pytest

from minist.evaluation import metrics
from minist.evaluation.information_retrieval import METRICS

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
    assert METRICS["accuracy"](hits, k, np.ones(relevant)) == (1.0 if found else 0.0)
    assert METRICS["precision"](hits, k, np.ones(relevant)) == len(found) / k
    assert METRICS["recall"](hits, k, np.ones(relevant)) == len(found) / relevant
    assert metrics.mrr_at(hits, k) == (1 / found[0] if found else 0.0)
    ndcg = sum(1 / math.log2(rank + 1) for rank in found) / sum(best)
    assert metrics.ndcg_at(hits, k, np.ones(relevant)) == pytest.approx(ndcg, abs=1e-12)
    assert metrics.map_at(hits, k, relevant) == pytest.approx(sum(precisions) / min(k, relevant), abs=1e-12)


def test_a_perfect_ranking():
    hits = np.array([True] * 3 + [False] * 7)
    assert metrics.ndcg_at(hits, 10, np.ones(3)) == pytest.approx(1, abs=1e-12)
    assert metrics.map_at(hits, 10, 3) == METRICS["recall"](hits, 10, np.ones(3)) == metrics.mrr_at(hits, 10) == 1


def test_rank_two_by_hand():
    hits = np.array([False, True, False])
    assert metrics.ndcg_at(hits, 10, np.ones(1)) == pytest.approx(1 / math.log2(3), abs=1e-12)
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


# ---------------------------------------------------------------- classes


def slow_f1(labels, predicted, one):
    hits = sum(a == b == one for a, b in zip(labels, predicted, strict=True))
    wrong = sum((a == one) != (b == one) for a, b in zip(labels, predicted, strict=True))
    return 2 * hits / (2 * hits + wrong)


@pytest.mark.parametrize("seed", range(5))
def test_classes_against_loops(seed):
    """Class 1 is never a label, 3 is never predicted, 4 is neither."""
    draw = np.random.RandomState(seed)
    labels, predicted = draw.choice([0, 2, 3, 5], 25), draw.choice([0, 1, 2, 5], 25)
    seen = sorted({*labels, *predicted})
    found = metrics.class_metrics(labels, predicted)
    assert found["f1_macro"] == pytest.approx(np.mean([slow_f1(labels, predicted, one) for one in seen]), abs=1e-12)
    weighted = np.mean([slow_f1(labels, predicted, one) for one in labels])
    assert found["f1_weighted"] == pytest.approx(weighted, abs=1e-12)
    assert found["accuracy"] == found["f1_micro"] == np.mean(labels == predicted)


# ---------------------------------------------------------------- scores of what is positive and what is not


def random_scores(seed, n=30):
    """Every other seed has many equal scores."""
    draw = np.random.RandomState(seed)
    scores = draw.randint(0, 6, n) if seed % 2 else draw.randn(n)
    return draw.rand(n) < 0.4, scores.astype(np.float32)


def thresholds(scores):
    return [math.inf, *sorted(set(scores.tolist()), reverse=True)]


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_against_loops(seed):
    positive, scores = random_scores(seed)
    total, recall = 0.0, 0.0
    for least in thresholds(scores)[1:]:
        taken = [yes for yes, score in zip(positive, scores, strict=True) if score >= least]
        total += sum(taken) / len(taken) * (sum(taken) / sum(positive) - recall)
        recall = sum(taken) / sum(positive)
    assert metrics.average_precision(positive, scores) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_best_thresholds_against_loops(seed):
    """A threshold gives what is said of it, and no other one gives more; it is halfway between two scores."""
    positive, scores = random_scores(seed)
    accuracy, at = metrics.best_accuracy(positive, scores)
    assert accuracy == np.mean((scores >= at) == positive)
    assert accuracy == max(np.mean((scores >= least) == positive) for least in thresholds(scores))
    best = metrics.best_f1(positive, scores)

    def f1(least):
        hits = np.sum(positive & (scores >= least))
        return 2 * hits / (positive.sum() + np.sum(scores >= least))

    assert best["f1"] == pytest.approx(max(map(f1, thresholds(scores))), abs=1e-12)
    assert best["f1"] == pytest.approx(f1(best["f1_threshold"]), abs=1e-12)
    taken = scores >= best["f1_threshold"]
    assert best["precision"] == np.mean(positive[taken]) and best["recall"] == np.mean(taken[positive])
    for least in (at, best["f1_threshold"]):
        below, above = scores[scores < least], scores[scores >= least]
        if len(below) and len(above):
            assert least == pytest.approx((below.max() + above.min()) / 2, abs=1e-6)


def test_thresholds_at_the_ends():
    up = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    none, all_of_them = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    just_above = float(np.nextafter(np.float32(3), np.float32(4)))
    assert metrics.best_accuracy(none, up) == (1.0, just_above)  # nothing is taken
    assert metrics.best_accuracy(all_of_them, up) == (1.0, 1.0)  # the least score, and nothing below it
    assert metrics.best_accuracy(np.array([True, False, False]), up) == (2 / 3, just_above)
    assert metrics.best_f1(all_of_them, up) == {"f1": 1, "f1_threshold": 1, "precision": 1, "recall": 1}
    assert set(metrics.best_f1(none, up).values()) == {0.0}
    assert metrics.average_precision(none, up) == metrics.ndcg_of_scores(none, up, 3) == 0


@pytest.mark.parametrize("step", range(4))
def test_a_threshold_between_neighbouring_floats(step):
    """There is no float between them: halfway is rounded to one of both, and must not take the lower one too."""
    low = np.float32(1 + step * 2.0**-23)
    scores = np.array([low, np.nextafter(low, np.float32(2))])
    positive = np.array([False, True])
    assert metrics.best_accuracy(positive, scores) == (1.0, float(scores[1]))
    assert metrics.best_f1(positive, scores)["f1_threshold"] == float(scores[1])


@pytest.mark.parametrize("scores", [[1, 1, 1, 1, 1], [3, 1, 1, 1, 0], [2, 2, 0, 0, 0], [5, 4, 3, 2, 1]])
@pytest.mark.parametrize("positive", [[0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 1]])
@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_ndcg_is_the_mean_over_orders_of_equal_scores(scores, positive, k):
    scores, positive, relevant = np.array(scores, dtype=np.float32), np.array(positive, dtype=bool), sum(positive)
    orders = [list(o) for o in itertools.permutations(range(5)) if all(np.diff(scores[list(o)]) <= 0)]
    mean = np.mean([metrics.ndcg_at(positive[order], k, np.ones(relevant)) for order in orders])
    assert metrics.ndcg_of_scores(positive, scores, k) == pytest.approx(mean, abs=1e-12)


def test_scores_that_are_no_numbers():
    positive, scores = np.array([True, False, True]), np.array([1.0, np.nan, 3.0])
    found = [*metrics.best_accuracy(positive, scores), *metrics.best_f1(positive, scores).values()]
    found += [metrics.average_precision(positive, scores), metrics.ndcg_of_scores(positive, scores, 2)]
    assert np.isnan(found).all()
