"""Triplet losses: definitions, recorded numbers, directions, and batches where triplets are missing."""

import pytest
import torch
from loss_checks import assert_gradcheck, assert_recorded, assert_slow, falls, gradients, random_columns, unit

from minist import Batch
from minist.losses import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchSemiHardTripletLoss,
    TripletLoss,
)

DISTANCES = {"euc": "euclidean", "cos": "cosine", "man": "manhattan"}
BATCH_LOSSES = [BatchAllTripletLoss, BatchHardTripletLoss, BatchHardSoftMarginTripletLoss, BatchSemiHardTripletLoss]
WITH_MARGIN = [BatchAllTripletLoss, BatchHardTripletLoss, BatchSemiHardTripletLoss]
CLASSES = {
    "even": torch.tensor([0, 1, 0, 1, 2, 2, 0, 1]),
    "alone": torch.tensor([7, 1, 1, 3, 3, 3, 3, 4]),  # 7 and 4 have no positive
    "all alone": torch.arange(8),
    "one class": torch.zeros(8),
}


def options(loss, metric, margin):
    return {"distance_metric": metric} | ({"margin": margin} if loss in WITH_MARGIN else {})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", DISTANCES.values())
@pytest.mark.parametrize("margin", [0.0, 0.5, 20.0])
def test_triplets_equal_the_slow_definition(metric, margin, seed):
    chosen = {"distance_metric": metric, "triplet_margin": margin}
    assert_slow(TripletLoss(**chosen), random_columns(seed, 3), Batch(), **chosen)


@pytest.mark.parametrize("metric", DISTANCES.values())
def test_gradcheck_of_triplets(metric):
    assert_gradcheck(TripletLoss(metric), random_columns(0, 3), Batch())


@pytest.mark.parametrize("labels", CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("metric", DISTANCES.values())
@pytest.mark.parametrize("margin", [0.0, 0.3, 20.0])
@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_batches_equal_the_slow_definition(loss, margin, metric, labels):
    chosen = options(loss, metric, margin)
    assert_slow(loss(**chosen), random_columns(1, 1, rows=8), Batch(labels=labels), **chosen)


@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_a_larger_batch_equals_the_slow_definition(loss):
    """From 26 rows on torch computes Euclidean distances in another way."""
    labels = torch.randint(0, 5, (30,), generator=torch.Generator().manual_seed(0))
    chosen = options(loss, "euclidean", 1.0)
    assert_slow(loss(**chosen), random_columns(2, 1, rows=30), Batch(labels=labels), **chosen)


@pytest.mark.parametrize("metric", DISTANCES.values())
@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_gradcheck_of_batches(loss, metric):
    chosen = options(loss, metric, 0.3)
    assert_gradcheck(loss(**chosen), random_columns(3, 1, rows=8), Batch(labels=CLASSES["even"]))


RECORDED = {f"triplet_{short}": TripletLoss(name) for short, name in DISTANCES.items()}
for short in ("euc", "cos"):
    RECORDED |= {
        f"batch_all_{short}": BatchAllTripletLoss(DISTANCES[short], 0.5),
        f"batch_hard_{short}": BatchHardTripletLoss(DISTANCES[short], 0.5),
        f"batch_semihard_{short}": BatchSemiHardTripletLoss(DISTANCES[short], 0.5),
        f"batch_hardsoft_{short}": BatchHardSoftMarginTripletLoss(DISTANCES[short]),
    }


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name):
    assert_recorded(name, RECORDED[name])


# ---------------------------------------------------------------- which way they push


@pytest.mark.parametrize("metric", DISTANCES.values())
def test_a_nearer_positive_and_a_farther_negative_lower_the_loss(metric):
    loss, anchor = TripletLoss(metric), unit([0])
    assert falls([loss([anchor, unit([t]), unit([50])], Batch()).item() for t in (90, 60, 30, 0)])
    assert falls([loss([anchor, unit([50]), unit([t])], Batch()).item() for t in (10, 40, 70, 90)])


@pytest.mark.parametrize("metric", DISTANCES.values())
@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_a_tighter_class_lowers_the_loss(loss, metric):
    labels = Batch(labels=torch.tensor([0, 0, 1, 1]))
    values = [loss(metric)([unit([0, t, 80, 90])], labels).item() for t in (70, 50, 30, 10)]
    assert falls(values)


# ---------------------------------------------------------------- what there is to choose among


def line(*places):
    return torch.tensor(places, dtype=torch.float64)[:, None].requires_grad_()


def test_hard_takes_the_farthest_positive_and_the_nearest_negative():
    rows, labels = line(0, 1, 3, 10, 12), torch.tensor([0, 0, 0, 1, 1])
    # row:  0: 3 - 10, 1: 2 - 9, 2: 3 - 7, 3: 2 - 7, 4: 2 - 9; each plus 6, and not below 0
    assert BatchHardTripletLoss(margin=6.0)([rows], Batch(labels=labels)) == (0 + 0 + 2 + 1 + 0) / 5


def test_semi_hard_takes_the_next_negative_beyond_the_positive():
    rows, labels = line(0, 2, 1, 5, 50), torch.tensor([0, 0, 1, 1, 2])
    loss = BatchSemiHardTripletLoss(margin=10.0)
    # (0, 2): beyond 2 comes 5; (2, 0): negatives at 1, 3, 48: 3; (1, 5): positive at 4, negatives 1, 1, 49: 49;
    # (5, 1): positive at 4, negatives 5, 3, 45: 5
    assert loss([rows], Batch(labels=labels)) == ((2 - 5 + 10) + (2 - 3 + 10) + 0 + (4 - 5 + 10)) / 4


def test_semi_hard_takes_the_farthest_negative_if_none_is_beyond():
    rows, labels = line(0, 10, 1, 2), torch.tensor([0, 0, 1, 2])
    # (0, 10): negatives at 1, 2: 2; (10, 0): 9, 8: 9
    assert BatchSemiHardTripletLoss(margin=1.0)([rows], Batch(labels=labels)) == ((10 - 2 + 1) + (10 - 9 + 1)) / 2


def test_a_negative_as_far_as_the_positive_is_not_beyond():
    rows, labels = line(0, 2, -2, 3), torch.tensor([0, 0, 1, 2])
    # (0, 2): negatives at 2, 3: 3; (2, 0): at 4, 1: 4
    assert BatchSemiHardTripletLoss(margin=9.0)([rows], Batch(labels=labels)) == ((2 - 3 + 9) + (2 - 4 + 9)) / 2


def test_all_is_averaged_over_active_triplets():
    rows, labels = line(0, 1, 3), torch.tensor([0, 0, 1])
    # (0, 1, 3): 1 - 3 + 1.5 < 0; (1, 0, 3): 1 - 2 + 1.5
    assert BatchAllTripletLoss(margin=1.5)([rows], Batch(labels=labels)) == 0.5


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.arange(4)], ids=["one class", "all alone"])
@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_a_batch_without_triplets(loss, labels):
    """Of one class: 0. With every row alone: the hard losses take a row itself as its positive."""
    rows = random_columns(0, 1, rows=4)
    value = loss()(rows, Batch(labels=labels))
    hard = loss in (BatchHardTripletLoss, BatchHardSoftMarginTripletLoss)
    assert (value > 0) == (hard and labels.max() > 0)
    assert torch.isfinite(gradients(value, rows)[0]).all()


@pytest.mark.parametrize("rows", [6, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", BATCH_LOSSES)
def test_duplicates_have_finite_gradients(loss, dtype, rows):
    """The distance of equal rows is 0, where the Euclidean one has no derivative."""
    same = torch.randn(1, 16, dtype=dtype).repeat(rows, 1).requires_grad_()
    value = loss()([same], Batch(labels=torch.arange(rows) % 2))
    assert torch.isfinite(value)
    assert torch.isfinite(gradients(value, [same])[0]).all()


def test_all_triplets_need_no_cube():
    """Two thousand rows have 8e9 triplets."""
    rows = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = BatchAllTripletLoss(margin=0.5)([rows], Batch(labels=torch.arange(2000) % 2))
    value.backward()
    assert 0 < value < 10
    assert torch.isfinite(rows.grad).all()


def test_single_precision_is_enough_for_many_triplets():
    rows = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    labels = Batch(labels=torch.arange(600) % 3)
    single, double = (BatchAllTripletLoss()([x], labels).item() for x in (rows, rows.double()))
    assert abs(single - double) < 1e-5 * double


# ---------------------------------------------------------------- what they refuse


@pytest.mark.parametrize("loss", [TripletLoss, *BATCH_LOSSES])
def test_unknown_distance(loss):
    with pytest.raises(ValueError, match="distance_metric is 'dot', known are cosine, euclidean, manhattan"):
        loss("dot")


@pytest.mark.parametrize("loss", [TripletLoss, *WITH_MARGIN])
@pytest.mark.parametrize("margin", [-1.0, float("nan")])
def test_bad_margin(loss, margin):
    with pytest.raises(ValueError, match="use a number at least 0"):
        loss("euclidean", margin)


@pytest.mark.parametrize("loss", BATCH_LOSSES)
@pytest.mark.parametrize(
    ("columns", "labels"), [(2, torch.zeros(5)), (1, None), (1, torch.zeros(5, 2)), (1, torch.zeros(4))]
)
def test_wrong_columns_and_labels(loss, columns, labels):
    with pytest.raises(ValueError, match=loss.__name__):
        loss()(random_columns(0, columns), Batch(labels=labels))


@pytest.mark.parametrize(("columns", "labels"), [(2, None), (4, None), (3, torch.zeros(5))])
def test_wrong_columns_of_a_triplet(columns, labels):
    with pytest.raises(ValueError, match="TripletLoss takes anchor, positive, negative"):
        TripletLoss()(random_columns(0, columns), Batch(labels=labels))
