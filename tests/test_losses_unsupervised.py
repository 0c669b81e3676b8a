"""Contrastive tension: definitions, recorded numbers, directions, and what it refuses."""

import pytest
import torch
from loss_checks import assert_gradcheck, assert_recorded, assert_slow, falls, gradients, random_columns, unit

from minist import Batch
from minist.losses import ContrastiveTensionLoss, ContrastiveTensionLossInBatchNegatives

LABELS = torch.tensor([1, 0, 0, 1, 0])


def test_equals_the_slow_definition():
    assert_slow(ContrastiveTensionLoss(), random_columns(0, 2), Batch(labels=LABELS))
    assert_gradcheck(ContrastiveTensionLoss(), random_columns(0, 2), Batch(labels=LABELS))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("options", [{}, {"similarity_fct": "dot", "scale": 0.5}], ids=str)
def test_in_batch_equals_the_slow_definition(options, columns):
    loss = ContrastiveTensionLossInBatchNegatives(**options).double()
    chosen = {key: value for key, value in options.items() if key != "scale"} | {"logit_scale": loss.logit_scale}
    assert_slow(loss, random_columns(1, columns), Batch(), **chosen)
    assert_gradcheck(loss, random_columns(1, columns), Batch())


def test_recorded():
    assert_recorded("ct", ContrastiveTensionLoss())
    assert_recorded("ct_inbatch", ContrastiveTensionLossInBatchNegatives())


@pytest.mark.parametrize(("label", "better"), [(1, [80, 40, 20, 0]), (0, [0, 40, 80, 120])])
def test_a_better_pair_lowers_the_loss(label, better):
    batch = Batch(labels=torch.tensor([label, 0]))
    others = unit([0, 90])
    assert falls([ContrastiveTensionLoss()([others, unit([angle, 0])], batch).item() for angle in better])


def test_a_better_pair_lowers_the_in_batch_loss():
    loss, others = ContrastiveTensionLossInBatchNegatives(scale=5.0), unit([0, 120, 240])
    assert falls([loss([others, unit([angle, 120, 240])], Batch()).item() for angle in (50, 40, 20, 0)])


@pytest.mark.parametrize("direction", ["up", "down"])
def test_the_scale_is_learned(direction):
    """It grows where the right text is the most similar one, and shrinks where it is the least."""
    loss, first = ContrastiveTensionLossInBatchNegatives(scale=2.0), unit([0, 120, 240])
    second = first if direction == "up" else -first
    (gradient,) = gradients(loss([first, second], Batch()), [loss.logit_scale])
    assert loss.logit_scale.exp().item() == pytest.approx(2)
    assert (gradient < 0) == (direction == "up")
    assert gradient.abs() > 1e-3


@pytest.mark.parametrize(
    ("loss", "columns", "labels", "says"),
    [
        (ContrastiveTensionLoss(), 1, LABELS, "got 1 column"),
        (ContrastiveTensionLoss(), 3, LABELS, "got 3 columns"),
        (ContrastiveTensionLoss(), 2, None, "got 2 columns and no labels"),
        (ContrastiveTensionLoss(), 2, torch.tensor([1, 0, 0.5, 0, 0]), "takes labels 0 or 1 .*; got 0.5"),
        (ContrastiveTensionLossInBatchNegatives(), 3, None, "got 3 columns"),
        (ContrastiveTensionLossInBatchNegatives(), 2, LABELS, "labels none; got 2 columns and labels of shape"),
    ],
)
def test_wrong_columns_and_labels(loss, columns, labels, says):
    with pytest.raises(ValueError, match=says):
        loss(random_columns(0, columns), Batch(labels=labels))


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": -1.0}, {"similarity_fct": "cosinus"}], ids=str)
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"use a number above 0|known are"):
        ContrastiveTensionLossInBatchNegatives(**options)
