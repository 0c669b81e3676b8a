"""Figures of a batch against loops, and at the ends of their scales; when a collapse is said."""

import math

import numpy as np
import pytest
import torch

from minist.diagnostics import ROWS, describe_batch, describe_scores, effective_rank
from minist.training.log import ALIKE, APART, LOOKS, CollapseWatch

PAIRS = {"positive", "alignment", "negative", "accuracy"}
ALONE = {"uniformity", "effective_rank"}


def unit(seed, n, d):
    x = np.random.RandomState(seed).randn(n, d)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_loops(x, y):
    """The definitions, of unit vectors."""
    n = len(x)
    cosines = x @ y.T
    others = [cosines[i, j] for i in range(n) for j in range(n) if i != j]
    spread = [math.exp(-2 * np.sum((y[i] - y[j]) ** 2)) for i in range(n) for j in range(i)]
    values = np.linalg.svd(y, compute_uv=False)
    shares = values / values.sum()
    return {
        "positive": np.mean(np.diag(cosines)),
        "negative": np.mean(others),
        "alignment": np.mean([np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]),
        "accuracy": np.mean([all(row[i] > row[j] for j in range(n) if j != i) for i, row in enumerate(cosines)]),
        "uniformity": math.log(np.mean(spread)),
        "effective_rank": math.exp(-np.sum(shares * np.log(shares))),
    }


@pytest.mark.parametrize("seed", range(3))
def test_against_loops(seed):
    x, y = unit(seed, 9, 5), unit(seed + 10, 9, 5)
    y[:4] = x[:4]  # some pairs meet
    found = describe_batch([torch.tensor(x) * 3, torch.tensor(y) * 7])
    assert 0 < found["accuracy"] < 1
    assert found == pytest.approx(by_loops(x, y), abs=1e-9)  # float64 stays float64


def test_the_first_rows_of_a_large_batch():
    x, y = unit(0, ROWS + 50, 6), unit(1, ROWS + 50, 6)
    found = describe_batch([torch.tensor(x), torch.tensor(y)])
    assert found == pytest.approx(by_loops(x[:ROWS], y[:ROWS]), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    """Their sums and squares would leave their range."""
    x, y = (torch.tensor(unit(seed, 40, 64) * 3000).to(dtype) for seed in (0, 1))
    wanted = describe_batch([x.double(), y.double()])
    assert describe_batch([x, y]) == pytest.approx(wanted, abs=1e-3)


def test_ends_of_the_scales():
    same = torch.ones(6, 4)
    found = describe_batch([same, same])
    assert found["uniformity"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert (found["positive"], found["negative"]) == pytest.approx((1, 1))
    assert found["alignment"] == pytest.approx(0)
    apart = describe_batch([torch.eye(4), torch.eye(4)])
    assert (apart["accuracy"], apart["negative"], apart["effective_rank"]) == pytest.approx((1, 0, 4))
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert describe_batch([opposite])["uniformity"] == pytest.approx(-8)
    assert effective_rank(torch.diag(torch.tensor([3.0, 3.0, 0.0]))) == pytest.approx(2)
    even = torch.randn(500, 1000, generator=torch.Generator().manual_seed(0))
    assert describe_batch([even, even])["uniformity"] == pytest.approx(-4, abs=0.02)


def test_a_positive_that_is_there_twice_is_not_nearer_than_every_other():
    x = torch.eye(3)
    assert describe_batch([x, x[[0, 0, 2]]])["accuracy"] == pytest.approx(1 / 3)


def test_what_cannot_be_said_is_left_out():
    x = torch.randn(7, 4)
    assert set(describe_batch([x, x])) == PAIRS | ALONE
    assert set(describe_batch([x])) == ALONE
    assert set(describe_batch([x[:1], x[:1]])) == {"positive", "alignment"}
    for nothing in ([x[:1]], [x[:0], x[:0]], [x[:0]], []):
        assert describe_batch(nothing) == {}


def test_columns_that_are_no_pairs():
    x, many = torch.randn(ROWS + 8, 4), torch.randn(ROWS + 9, 4)
    assert set(describe_batch([x, many])) == ALONE  # though as many of each are looked at
    assert set(describe_batch([x[:2], x[:2]], (None, torch.tensor([0, 2])))) == ALONE
    assert set(describe_batch([x[:2], x[:2]], (None, None, torch.tensor([5, 2])))) == PAIRS | ALONE


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(number):
    x, broken = torch.randn(5, 4), torch.randn(5, 4)
    broken[2, 1] = number
    assert describe_batch([x, broken]) == describe_batch([broken, x]) == {}
    assert describe_batch([x, x, broken]) != {}  # a column that is not looked at


def test_vectors_of_zeros():
    zeros = describe_batch([torch.zeros(5, 4), torch.zeros(5, 4)])
    assert zeros == pytest.approx(
        {"positive": 0, "negative": 0, "alignment": 0, "accuracy": 0, "uniformity": 0, "effective_rank": 1}
    )
    assert describe_batch([torch.zeros(5, 4), torch.eye(5, 4)])["alignment"] == pytest.approx(0.8)  # the last is 0 too


def test_no_gradient_and_no_change():
    x = torch.randn(5, 4, requires_grad=True)
    before = x.detach().clone()
    describe_batch([x, x])
    assert torch.equal(x, before)


# ---------------------------------------------------------------- collapse


def batch(cosine, n=32, d=64, accurate=False):
    """Pairs of texts whose mean cosine is about `cosine`; `accurate`: the two of a pair are the same."""
    common, rest = math.sqrt(cosine), math.sqrt(1 - cosine)
    columns = []
    for seed in (0, 0 if accurate else 1):
        own = torch.tensor(unit(seed, n, d - 1))
        columns.append(torch.cat([torch.full((n, 1), common), rest * own], dim=1))
    return columns


ALIKE_BATCH, APART_BATCH, BETWEEN = (describe_batch(batch(cosine)) for cosine in (0.999, 0.3, 0.97))


def test_the_thresholds_are_these_cosines():
    for threshold, cosine in ((ALIKE, 0.99), (APART, 0.95)):
        found = describe_batch(batch(cosine))
        assert found["negative"] == pytest.approx(cosine, abs=1e-3)
        assert found["uniformity"] == pytest.approx(threshold, abs=0.01)


def said(watch, *figures):
    return [bool(watch.see(f)) for f in figures]


def test_a_collapse_is_said_once():
    watch = CollapseWatch()
    assert said(watch, *[ALIKE_BATCH] * 20) == [number == LOOKS - 1 for number in range(20)]


def test_and_again_only_after_recovery():
    watch = CollapseWatch()
    assert any(said(watch, *[ALIKE_BATCH] * LOOKS))
    assert not any(said(watch, *[BETWEEN, ALIKE_BATCH] * 20))  # to and fro about the threshold
    assert said(watch, APART_BATCH, *[ALIKE_BATCH] * LOOKS) == [False] * LOOKS + [True]


def test_texts_that_start_alike_and_part_have_not_collapsed():
    watch = CollapseWatch()
    assert not any(said(watch, *[*[ALIKE_BATCH] * (LOOKS - 1), APART_BATCH] * 5))


def test_alike_but_told_apart():
    """The angle between texts is small, and still every one finds its own."""
    figures = describe_batch(batch(0.999, accurate=True))
    assert figures["uniformity"] > ALIKE
    assert figures["accuracy"] == 1.0
    assert not any(said(CollapseWatch(), *[figures] * 20))


def test_a_collapse_to_zeros_or_of_one_column():
    for columns in ([torch.zeros(8, 4)] * 2, [torch.ones(8, 4)], [torch.ones(8, 4), torch.ones(9, 4)]):
        assert any(said(CollapseWatch(), *[describe_batch(columns)] * LOOKS))


def test_two_kinds_of_texts_are_no_collapse():
    columns = [torch.eye(2).repeat_interleave(16, 0)] * 2
    assert not any(said(CollapseWatch(), *[describe_batch(columns)] * 20))


def test_batches_of_which_nothing_is_known():
    watch = CollapseWatch()
    one_row = describe_batch([torch.ones(1, 4)] * 2)
    assert not any(said(watch, *[{}, one_row] * 20))
    assert said(watch, *[ALIKE_BATCH, {}] * LOOKS)[-2]


# ---------------------------------------------------------------- scores of pairs


def scores(*values):
    return torch.tensor(values)[:, None]


def test_scores_of_lists():
    """Three rows: the relevant one first; not; a row of one pair, which says nothing."""
    logits, counts = scores(2.0, 1.0, 0.0, -1.0, 3.0, 9.0), torch.tensor([3, 2, 1])
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    found = describe_scores(logits, torch.sigmoid, labels, counts)
    assert found["best_is_relevant"] == 0.5
    assert found["spread"] == pytest.approx((math.sqrt(2 / 3) + 2.0) / 2)
    assert found["predicted"] == pytest.approx(torch.sigmoid(logits).mean().item()) and found["label"] == 0.5
    positives_first = describe_scores(logits, torch.sigmoid, None, counts)
    assert positives_first["best_is_relevant"] == 0.5 and "label" not in positives_first
    margins = describe_scores(logits, torch.sigmoid, torch.tensor([[1.0, 2.0]] * 3), counts)
    assert margins["best_is_relevant"] == 0.5 and "label" not in margins
    tied = describe_scores(scores(0.0, 1.0), torch.sigmoid, torch.tensor([2.0, 2.0]), torch.tensor([2]))
    assert tied["best_is_relevant"] == 1.0  # either is one with the highest label


def test_scores_of_single_pairs():
    found = describe_scores(scores(1.0, -1.0), torch.nn.Identity(), torch.tensor([1.0, 0.0]), None)
    assert found == {"predicted": 0.0, "label": 0.5, "spread": 1.0}


def test_scores_of_several_labels():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    found = describe_scores(logits, torch.nn.Identity(), torch.tensor([0, 2]), None)
    assert found["accuracy"] == 0.5
    assert found["confidence"] == pytest.approx(logits.softmax(1).amax(1).mean().item())
    shares = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]])
    assert describe_scores(logits, torch.nn.Identity(), shares, None) == found


@pytest.mark.parametrize("logits", [torch.empty(0, 1), scores(float("nan"), 1.0)])
def test_scores_of_which_nothing_can_be_said(logits):
    assert describe_scores(logits, torch.sigmoid, None, None) == {}
