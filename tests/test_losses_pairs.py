"""Losses of labelled pairs: definitions, recorded numbers, directions, and what they refuse."""

import numpy as np
import pytest
import torch
from loss_checks import assert_gradcheck, assert_recorded, assert_slow, falls, random_columns, unit

from minist import Batch
from minist.losses import (
    AnglELoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    OnlineContrastiveLoss,
    SoftmaxLoss,
)
from minist.losses.pairs import ranking_loss

SCORES = torch.tensor([0.9, 0.1, 0.5, 0.5, 0.8], dtype=torch.float64)
BINARY = torch.tensor([1, 0, 1, 0, 0])
CLASSES = torch.tensor([0, 2, 1, 0, 2])
DISTANCES = {"cos": "cosine", "euc": "euclidean", "man": "manhattan"}


def softmax_loss(**options):
    """The classifier's start is drawn; here always the same."""
    torch.manual_seed(0)
    return SoftmaxLoss(6, 3, **options)


CASES = [
    (CosineSimilarityLoss, {}, SCORES),
    (CosineSimilarityLoss, {"loss_fct": "l1"}, SCORES),
    (CosineSimilarityLoss, {"loss_fct": "huber"}, 3 * SCORES),  # some are more than 1 away
    (CosineSimilarityLoss, {"loss_fct": "smooth_l1"}, 3 * SCORES),
    (CosineSimilarityLoss, {"cos_score_transformation": "sigmoid"}, SCORES),
    (CosineSimilarityLoss, {"cos_score_transformation": "tanh"}, SCORES),
    (CosineSimilarityLoss, {"cos_score_transformation": "relu"}, SCORES),
    (CoSENTLoss, {}, SCORES),
    (CoSENTLoss, {"scale": 1.0, "similarity_fct": "dot"}, SCORES),
    (CoSENTLoss, {"similarity_fct": "euclidean"}, torch.tensor([3, 1, 2, 2, 1])),
    (CoSENTLoss, {}, torch.tensor([True, False, True, True, False])),
    (AnglELoss, {}, SCORES),
    (AnglELoss, {"scale": 3.0}, BINARY),
    *[(ContrastiveLoss, {"distance_metric": name, "margin": 4.0}, BINARY) for name in DISTANCES.values()],
    (ContrastiveLoss, {"size_average": False}, BINARY),
    (ContrastiveLoss, {}, SCORES),
    *[(OnlineContrastiveLoss, {"distance_metric": name, "margin": 4.0}, BINARY) for name in DISTANCES.values()],
    (OnlineContrastiveLoss, {}, torch.ones(5)),
    (OnlineContrastiveLoss, {"margin": 1.5}, torch.zeros(5)),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("loss", "options", "labels"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_equals_the_slow_definition(loss, options, labels, seed):
    assert_slow(loss(**options), random_columns(seed, 2), Batch(labels=labels), **options)


@pytest.mark.parametrize(("loss", "options", "labels"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_gradcheck(loss, options, labels):
    assert_gradcheck(loss(**options), random_columns(4, 2), Batch(labels=labels))


def test_scores_that_no_cosine_can_reach():
    """A run with the scores of STS, 0 to 5, would pull all pairs together and say nothing."""
    loss, batch = CosineSimilarityLoss(), Batch(labels=5 * SCORES)
    loss.check(random_columns(0, 2), Batch(labels=SCORES))
    loss(random_columns(0, 2), batch)
    with pytest.raises(ValueError, match=r"numbers from -1 to 1 \[rows\], such as 0.8 .* got 2.5, 4.0, 4.5$"):
        loss.check(random_columns(0, 2), batch)
    with pytest.raises(ValueError, match="CosineSimilarityLoss takes two texts, labels numbers"):
        loss.check(random_columns(0, 3), Batch(labels=SCORES))


@pytest.mark.parametrize("width", [6, 5])
@pytest.mark.parametrize("columns", [3, 4])
@pytest.mark.parametrize("labels", [None, SCORES], ids=["no labels", "labels"])
def test_angle_with_negatives(columns, width, labels):
    """The labels may be left out; an odd width is filled up."""
    embeddings = random_columns(columns, columns, width=width)
    assert_slow(AnglELoss(scale=4.0), embeddings, Batch(labels=labels), scale=4.0)
    assert_gradcheck(AnglELoss(scale=4.0), embeddings, Batch(labels=labels))


def test_angle_with_lists_of_negatives():
    counts = torch.tensor([2, 0, 1, 3, 1])
    embeddings = [*random_columns(0, 2), *random_columns(1, 1, rows=7), *random_columns(2, 1)]
    batch = Batch(counts=(None, None, counts, None))
    assert_slow(AnglELoss(scale=4.0), embeddings, batch, scale=4.0)


RECORDED = {
    "cosine_similarity": CosineSimilarityLoss(),
    "cosent": CoSENTLoss(),
    "angle": AnglELoss(),
    **{f"contrastive_{short}": ContrastiveLoss(name) for short, name in DISTANCES.items()},
    **{f"online_contrastive_{short}": OnlineContrastiveLoss(name) for short, name in DISTANCES.items()},
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name):
    assert_recorded(name, RECORDED[name])


# ---------------------------------------------------------------- which way they push


@pytest.mark.parametrize(
    ("loss", "labels", "better"),
    [
        (CosineSimilarityLoss(), [1.0, 0.0, 0.5], [60, 40, 20, 0]),  # the first pair shall have cosine 1
        (CosineSimilarityLoss(), [0.0, 0.0, 0.5], [20, 40, 60, 90]),
        (CoSENTLoss(), [1.0, 0.0, 0.5], [60, 40, 20, 0]),
        (CoSENTLoss(), [0.0, 1.0, 0.5], [0, 20, 40, 60]),
        (ContrastiveLoss(), [1, 0, 0], [60, 40, 20, 0]),
        (ContrastiveLoss(), [0, 1, 0], [0, 20, 40, 55]),
        (OnlineContrastiveLoss(), [1, 0, 0], [80, 70, 60, 50]),
    ],
)
def test_a_better_pair_lowers_the_loss(loss, labels, better):
    others = unit([0, 0, 0])
    batch = Batch(labels=torch.tensor(labels))
    assert falls([loss([others, unit([angle, 30, 40])], batch).item() for angle in better])


def test_a_better_angle_lowers_the_loss():
    """|cos + sin| grows as u turns from 45 degrees behind v to 45 before it."""
    batch = Batch(labels=torch.tensor([1.0, 0.0]))
    assert falls([AnglELoss()([unit([t, 0]), unit([0, 0])], batch).item() for t in (-44, -20, 0, 20)])
    assert falls([AnglELoss()([unit([0, t]), unit([0, 0])], batch).item() for t in (20, 0, -20, -44)])


def test_online_contrastive_looks_at_hard_pairs_only():
    """With every positive pair nearer than every negative one nothing is left to learn."""
    first, second = unit([0, 0, 0]), unit([10, 50, 60])
    assert OnlineContrastiveLoss()([first, second], Batch(labels=torch.tensor([1, 0, 0]))) == 0
    assert OnlineContrastiveLoss()([first, second], Batch(labels=torch.tensor([0, 1, 0]))) > 0


# ---------------------------------------------------------------- ranking


def test_ties_make_no_pair():
    scores = torch.tensor([3.0, -2.0, 1.0], requires_grad=True)
    value = ranking_loss(scores, torch.zeros(3))
    value.backward()
    assert value == 0
    assert scores.grad.tolist() == [0, 0, 0]


def test_the_order_of_rows_does_not_count():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(50, generator=generator).double(), torch.randint(0, 5, (50,), generator=generator)
    turned = torch.randperm(50, generator=generator)
    expected = ranking_loss(scores, labels)
    torch.testing.assert_close(ranking_loss(scores[turned], labels[turned]), expected, rtol=1e-12, atol=0)


def test_large_differences_do_not_overflow():
    scores = torch.tensor([2000.0, -2000.0], requires_grad=True)
    value = ranking_loss(scores, torch.tensor([0.0, 1.0]))
    value.backward()
    assert value == 4000
    assert scores.grad.tolist() == [1, -1]


def test_ranking_needs_no_matrix_of_all_pairs():
    """A hundred thousand rows, whose 40 GB matrix would not fit."""
    scores = torch.linspace(-1, 1, 100_000, dtype=torch.float64, requires_grad=True)
    value = ranking_loss(scores, torch.arange(100_000).flip(0))
    value.backward()
    assert value > 20
    assert torch.isfinite(scores.grad).all()


# ---------------------------------------------------------------- the classifier

PARTS = [
    {"concatenation_sent_rep": a, "concatenation_sent_difference": b, "concatenation_sent_multiplication": c}
    for a in (True, False)
    for b in (True, False)
    for c in (True, False)
    if a or b or c
]


def parameters(loss):
    return {"weight": loss.classifier.weight, "bias": loss.classifier.bias}


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_softmax_equals_the_slow_definition(parts):
    loss = softmax_loss(**parts).double()
    short = {key.removeprefix("concatenation_sent_"): value for key, value in parts.items()}
    assert_slow(loss, random_columns(0, 2), Batch(labels=CLASSES), **short, **parameters(loss))


@pytest.mark.parametrize("loss_fct", ["cross_entropy", "bce"])
def test_softmax_with_shares_of_classes(loss_fct):
    loss = softmax_loss(loss_fct=loss_fct).double()
    shares = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = Batch(labels=shares / shares.sum(1, keepdim=True))
    assert_slow(loss, random_columns(1, 2), batch, loss_fct=loss_fct, **parameters(loss))
    assert_gradcheck(loss, random_columns(1, 2), batch)


def test_softmax_of_one_label():
    """Independent classes, and only one of them: a number per row will do."""
    loss = SoftmaxLoss(6, 1, loss_fct="bce")
    u, v = (x.float() for x in random_columns(0, 2))
    logits = loss.logits(u, v)
    assert logits.shape == (5, 1)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], BINARY.float())
    assert loss([u, v], Batch(labels=BINARY)) == expected


def test_softmax_recorded():
    loss = SoftmaxLoss(8, 3)
    weight = np.random.RandomState(20).randn(3, 24).astype(np.float32) * 0.1
    with torch.no_grad():
        loss.classifier.weight.copy_(torch.from_numpy(weight))
        loss.classifier.bias.zero_()
    assert_recorded("softmax", loss)


def test_the_classifier_learns():
    loss = softmax_loss()
    columns = [x.detach().float() for x in random_columns(0, 2)]
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    values = []
    for _ in range(5):
        value = loss(columns, Batch(labels=CLASSES))
        value.backward()
        assert all(p.grad.abs().max() > 0 for p in loss.parameters())
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    assert falls(values)


# ---------------------------------------------------------------- what they refuse


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CosineSimilarityLoss("rmse"), "loss_fct is 'rmse', known are mse, l1"),
        (lambda: CosineSimilarityLoss(cos_score_transformation="exp"), "cos_score_transformation is 'exp', known"),
        (lambda: CoSENTLoss(scale=0.0), "scale is 0.0: use a number above 0"),
        (lambda: CoSENTLoss(similarity_fct="angle"), "similarity is 'angle', known are"),
        (lambda: AnglELoss(scale=-1.0), "scale is -1.0: use a number above 0"),
        (lambda: ContrastiveLoss("dot"), "distance_metric is 'dot', known are cosine, euclidean, manhattan"),
        (lambda: ContrastiveLoss(margin=0.0), "margin is 0.0"),
        (lambda: OnlineContrastiveLoss("dot"), "distance_metric is 'dot'"),
        (lambda: OnlineContrastiveLoss(margin=-1.0), "margin is -1.0"),
        (lambda: SoftmaxLoss(6, 3, False, False, False), "that are true is 0: use a number at least 1"),
        (lambda: SoftmaxLoss(6, 3, loss_fct="mse"), "loss_fct is 'mse', known are cross_entropy, bce"),
    ],
)
def test_bad_options(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    "loss", [CosineSimilarityLoss(), CoSENTLoss(), ContrastiveLoss(), OnlineContrastiveLoss(), SoftmaxLoss(6, 3)]
)
@pytest.mark.parametrize(
    ("columns", "labels"), [(1, BINARY), (3, BINARY), (2, None), (2, torch.zeros(5, 2, 2)), (2, torch.zeros(4))]
)
def test_wrong_columns_and_labels(loss, columns, labels):
    with pytest.raises(ValueError, match=type(loss).__name__):
        loss(random_columns(0, columns), Batch(labels=labels))


@pytest.mark.parametrize(
    ("loss", "columns", "labels", "says"),
    [
        (AnglELoss(), 2, None, "AnglELoss takes two texts, or anchor"),
        (AnglELoss(), 1, SCORES, "got 1 column"),
        (AnglELoss(), 3, torch.zeros(5, 2), "labels of shape"),
        (ContrastiveLoss(), 2, torch.tensor([1, 0, 2, 0, 0]), "takes labels numbers from 0 to 1 .*; got 2.0"),
        (ContrastiveLoss(), 2, torch.tensor([1, 0, -1, 0, 0]), "takes labels numbers from 0 to 1 .*; got -1.0"),
        (OnlineContrastiveLoss(), 2, SCORES, "takes labels 0 or 1 .*; got 0."),
        (SoftmaxLoss(6, 3), 2, torch.tensor([0, 1, 3, 0, 0]), "labels go from 0 to 3: use 0 to 2"),
        (SoftmaxLoss(6, 3), 2, torch.tensor([0, 1, -1, 0, 0]), "labels go from -1 to 1: use 0 to 2"),
        (SoftmaxLoss(6, 3), 2, torch.zeros(5, 2), r"labels have shape \[5, 2\]: use \[5, 3\]"),
        (SoftmaxLoss(6, 3, loss_fct="bce"), 2, BINARY, r"labels have shape \[5\]: use \[5, 3\]"),
        (SoftmaxLoss(7, 3), 2, CLASSES, "embedding_dimension is 7, the embeddings have 6: set it"),
    ],
)
def test_what_labels_may_be(loss, columns, labels, says):
    with pytest.raises(ValueError, match=says):
        loss.double()(random_columns(0, columns), Batch(labels=labels))
