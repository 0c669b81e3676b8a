"""Contrastive losses: definitions, recorded numbers of the real library, numeric gradients, lists, blocks of rows."""

import json

import numpy as np
import pytest
import torch
from models import DATA
from shelf import ALL_DIRECTIONS, random_columns
from slow_losses import SLOW

from minist import Batch, losses
from minist.losses import (
    GISTEmbedLoss,
    GlobalOrthogonalRegularizationLoss,
    MegaBatchMarginLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
    row_blocks,
)
from minist.losses.base import total

RANKING = "MultipleNegativesRankingLoss"
SYMMETRIC = "MultipleNegativesSymmetricRankingLoss"
GIST = "GISTEmbedLoss"
MEGA = "MegaBatchMarginLoss"
ORTHOGONAL = "GlobalOrthogonalRegularizationLoss"

SMOOTH = [  # what can be held against numeric gradients
    (RANKING, {}),
    (RANKING, {"similarity_fct": "dot", "scale": 1.0}),
    (RANKING, {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}),
    (RANKING, {"directions": ("query_to_doc", "query_to_query")}),
    (RANKING, {"directions": ("query_to_doc", "doc_to_doc")}),
    (RANKING, {"directions": ALL_DIRECTIONS}),
    (RANKING, {"in_batch_negatives": False}),
    (SYMMETRIC, {}),
    (SYMMETRIC, {"similarity_fct": "dot", "scale": 2.0}),
    (GIST, {"temperature": 0.05}),
    (GIST, {"temperature": 0.05, "margin": 0.2}),
    (GIST, {"temperature": 0.1, "margin": -0.1}),
    (GIST, {"temperature": 0.05, "margin": 0.3, "margin_strategy": "relative"}),
    (GIST, {"contrast_anchors": False}),
    (GIST, {"contrast_positives": False}),
    (MEGA, {}),
    (MEGA, {"positive_margin": 0.5, "negative_margin": -0.5}),
    (ORTHOGONAL, {}),
    (ORTHOGONAL, {"aggregation": "sum", "mean_weight": None, "second_moment_weight": 3.0}),
    (ORTHOGONAL, {"similarity_fct": "dot", "mean_weight": 2.0, "second_moment_weight": 0.0}),
]
HARDNESS = [  # meant to have no gradient of its own, so its numeric gradient is another one
    (RANKING, {"hardness_mode": mode, "hardness_strength": 5.0})
    for mode in ("in_batch_negatives", "hard_negatives", "all_negatives")
] + [
    (RANKING, {"directions": ALL_DIRECTIONS, "hardness_mode": "all_negatives", "hardness_strength": 9.0}),
    (RANKING, {"in_batch_negatives": False, "hardness_mode": "hard_negatives", "hardness_strength": 5.0}),
]
CASES = SMOOTH + HARDNESS
LISTS = [case for case in CASES if case[0] in (RANKING, SYMMETRIC, GIST)]
COUNTS = torch.tensor([2, 0, 3, 1])


@pytest.fixture(autouse=True)
def blocks_of_any_size(monkeypatch):
    monkeypatch.setattr(row_blocks, "ROWS_PER_BLOCK", 1)


def make(name, options):
    return getattr(losses, name)(**options)


def columns_of(name, options):
    """The numbers of columns a loss can take, up to 4."""
    if name == MEGA:
        return [2]
    return range(3 if options.get("in_batch_negatives") is False else 2 if name != ORTHOGONAL else 1, 5)


def guided(columns, seed=0, **fields):
    """A batch whose guide has its own opinion of each text; only GISTEmbedLoss asks for it."""
    generator = torch.Generator().manual_seed(seed + 100)
    guide = [torch.randn(len(column), 3, dtype=torch.float64, generator=generator) for column in columns]
    return Batch(guide=tuple(guide), **fields)


def lists(seed, counts=COUNTS, columns=4):
    """The last column has lists of texts, as many as `counts` says."""
    embeddings = random_columns(columns, seed=seed)
    embeddings[-1] = random_columns(1, rows=int(counts.sum()), seed=seed + 50)[0]
    return embeddings, guided(embeddings, seed, counts=(*[None] * (columns - 1), counts))


def gradients(value, embeddings):
    return torch.autograd.grad(total(value), embeddings, retain_graph=True, materialize_grads=True)


def assert_same(a, b, embeddings, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    found, wanted = (gradients(value, embeddings) for value in (a, b))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize(("name", "options"), CASES)
def test_equals_the_slow_definition(name, options):
    for columns in columns_of(name, options):
        for seed in range(3):
            embeddings = random_columns(columns, seed=10 * columns + seed)
            batch = guided(embeddings, seed)
            slow = SLOW[name](embeddings, batch, **options)
            assert_same(make(name, options)(embeddings, batch), slow, embeddings)


@pytest.mark.parametrize(("name", "options"), LISTS)
def test_lists_equal_the_slow_definition(name, options):
    for seed in range(3):
        embeddings, batch = lists(seed)
        assert_same(make(name, options)(embeddings, batch), SLOW[name](embeddings, batch, **options), embeddings)


@pytest.mark.parametrize(("name", "options"), LISTS)
def test_lists_of_equal_length_are_columns(name, options):
    """Two negatives in a list of each row, beside the same two in columns of their own."""
    embeddings = random_columns(4)
    batch = guided(embeddings)

    def listed(tensors):
        return [tensors[0], tensors[1], torch.stack([tensors[2], tensors[3]], dim=1).flatten(0, 1)]

    ragged = Batch(guide=tuple(listed(batch.guide)), counts=(None, None, torch.full((4,), 2)))
    loss = make(name, options)
    assert_same(loss(listed(embeddings), ragged), loss(embeddings, batch), embeddings, 1e-12)


@pytest.mark.parametrize(("name", "options"), SMOOTH)
@pytest.mark.parametrize("scores_per_block", [2**22, 9])
def test_gradcheck(name, options, scores_per_block, monkeypatch):
    monkeypatch.setattr(row_blocks, "SCORES_PER_BLOCK", scores_per_block)
    embeddings, batch = lists(0) if (name, options) in LISTS else (random_columns(2), Batch())
    loss, in_blocks = make(name, options), scores_per_block == 9  # slow number by number: there in random directions
    assert torch.autograd.gradcheck(lambda *columns: total(loss(columns, batch)), embeddings, fast_mode=in_blocks)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_blocks_of_rows_change_nothing(name, options, monkeypatch):
    for columns in columns_of(name, options):
        embeddings = random_columns(columns, rows=7)
        batch, loss = guided(embeddings), make(name, options)
        loss_of_all = loss(embeddings, batch)
        for scores in (1, 30, 60):  # one row to a block, some rows to a block, an uneven rest
            with monkeypatch.context() as patch:
                patch.setattr(row_blocks, "SCORES_PER_BLOCK", scores)
                assert_same(loss(embeddings, batch), loss_of_all, embeddings, 1e-12)


@pytest.mark.parametrize(("name", "options"), LISTS)
def test_blocks_of_rows_and_lists(name, options, monkeypatch):
    embeddings, batch = lists(3)
    whole = make(name, options)(embeddings, batch)
    monkeypatch.setattr(row_blocks, "SCORES_PER_BLOCK", 1)
    assert_same(make(name, options)(embeddings, batch), whole, embeddings, 1e-12)


# ---------------------------------------------------------------- recorded numbers

RECORDED = json.loads((DATA / "losses_contrastive.json").read_text("utf-8"))["cases"]


def recorded_loss(name):
    """mnrl_dir[a+b]_joint, mnrl_hardness_<mode>_5, gist(margin, strategy, anchors, positives), and a few more."""
    if name.startswith("mnrl_dir["):
        directions, mode = name.removeprefix("mnrl_dir[").split("]_")
        return MultipleNegativesRankingLoss(directions=directions.split("+"), partition_mode=mode)
    if name.startswith("mnrl_hardness_"):
        mode = name.removeprefix("mnrl_hardness_").removesuffix("_5")
        return MultipleNegativesRankingLoss(hardness_mode=mode, hardness_strength=5.0)
    if name == "mnrl_dot_scale1":
        return MultipleNegativesRankingLoss(scale=1.0, similarity_fct="dot")
    if name.startswith("gist"):
        margin, strategy, anchors, positives = name.removeprefix("gist(").removesuffix(")").split(", ")
        return GISTEmbedLoss(0.05, strategy.strip("'"), float(margin), anchors == "True", positives == "True")
    return {
        "mnrl_pair": MultipleNegativesRankingLoss,
        "mnrl_triplet": MultipleNegativesRankingLoss,
        "mnrl_2neg": MultipleNegativesRankingLoss,
        "mnsrl_pair": MultipleNegativesSymmetricRankingLoss,
        "mnsrl_triplet": MultipleNegativesSymmetricRankingLoss,
        "megabatch_full": MegaBatchMarginLoss,
        "gor": GlobalOrthogonalRegularizationLoss,
    }[name]()


def recorded_columns(seeds):
    return [torch.from_numpy(np.random.RandomState(seed).randn(6, 8).astype(np.float32)) for seed in seeds]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_value_and_gradients(name):
    case = RECORDED[name]
    embeddings = [column.requires_grad_() for column in recorded_columns(case["columns"])]
    value = recorded_loss(name)(embeddings, Batch(guide=tuple(recorded_columns(case["guide"] or []))))
    assert total(value).item() == pytest.approx(case["loss"], rel=1e-5)
    if case["components"]:
        assert {part: x.item() for part, x in value.items()} == pytest.approx(case["components"], rel=1e-5)
    for found, recorded in zip(gradients(value, embeddings), case["grad"], strict=True):
        np.testing.assert_allclose(found.numpy(), recorded, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- what they are for


def orthogonal(columns, rows=6):
    """Columns of unit vectors that are all at right angles, so that one pair can change and no other."""
    width = columns * rows + 10
    start = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return list(torch.linalg.qr(start).Q[: columns * rows].split(rows))


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] != ORTHOGONAL])
def test_a_better_pair_lowers_the_loss(name, options):
    embeddings = orthogonal(2 if name == MEGA else 3)
    guide = (embeddings[0], embeddings[0], *embeddings[2:])  # which knows the pairs
    batch, loss, values = Batch(guide=guide), make(name, options), []
    for share in (0.4, 0.2, 0.0, -0.2):
        changed = embeddings[1].clone()
        changed[0] += share * embeddings[0][0]
        values.append(loss([embeddings[0], changed, *embeddings[2:]], batch).item())
    assert values == sorted(set(values))


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
def test_spread_embeddings_are_not_regularized(aggregation):
    loss, (spread,) = GlobalOrthogonalRegularizationLoss(aggregation=aggregation), orthogonal(1)
    assert total(loss([spread], Batch())).item() == pytest.approx(0, abs=1e-6)
    narrower = [total(loss([spread + share], Batch())).item() for share in (0.1, 0.2, 0.4)]
    assert 0 < narrower[0] < narrower[1] < narrower[2]
    once, thrice = (total(loss([spread + 0.2] * columns, Batch())).item() for columns in (1, 3))
    assert thrice == pytest.approx(once * (3 if aggregation == "sum" else 1))


def test_without_in_batch_negatives_rows_stand_alone():
    """The loss is the mean of those of batches with one row each."""
    embeddings = random_columns(4)
    loss = MultipleNegativesRankingLoss(in_batch_negatives=False)
    alone = [MultipleNegativesRankingLoss()([column[i : i + 1] for column in embeddings], Batch()) for i in range(4)]
    assert_same(loss(embeddings, Batch()), torch.stack(alone).mean(), embeddings)


def test_a_row_without_negatives_of_its_own_has_nothing_to_tell():
    embeddings = random_columns(2) + random_columns(1, rows=6)
    batch = Batch(counts=(None, None, COUNTS))
    gradient = gradients(MultipleNegativesRankingLoss(in_batch_negatives=False)(embeddings, batch), embeddings)
    assert gradient[0][1].abs().max() == 0
    assert (gradient[0][[0, 2, 3]].abs().amax(1) > 0).all()


def test_the_guide_takes_out_false_negatives():
    """Positive 1 is a text that the guide finds nearer to anchor 0 than its own positive: nothing pushes it away."""
    embeddings = random_columns(2, rows=2)
    guide = torch.tensor([[1.0, 0.0], [-1.0, 0.1]]), torch.tensor([[0.8, 0.6], [0.9, 0.1]])
    loss = GISTEmbedLoss(contrast_anchors=False, contrast_positives=False)
    value = loss(embeddings, Batch(guide=guide))
    ((own, _), *_) = [[row.abs().max().item() for row in column] for column in gradients(value, embeddings)]
    assert own == 0  # anchor 0 has only its positive left

    guide[1][1] = torch.tensor([0.1, 0.9])
    value = loss(embeddings, Batch(guide=guide))
    assert gradients(value, embeddings)[0][0].abs().max() > 0


@pytest.mark.parametrize("strategy", ["absolute", "relative"])
def test_the_positive_always_stays(strategy):
    """Whatever the margin; with a large one all else is taken out, and the loss is 0."""
    embeddings = random_columns(3)
    guide = tuple(column.detach().abs() for column in embeddings)  # similarities above 0
    for margin, left in ((-5.0, True), (5.0, False)):
        value = GISTEmbedLoss(temperature=0.5, margin_strategy=strategy, margin=margin)(embeddings, Batch(guide=guide))
        assert torch.isfinite(value)
        assert bool(value > 1e-3) == left


def test_copies_of_the_positive_are_treated_alike():
    """A guide's similarity of the same two texts may differ in the last digits: no more similar, so it is kept."""
    base = torch.randn(1, 77, generator=torch.Generator().manual_seed(0))
    noise = 1 + 1e-7 * torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    guide = base.repeat(64, 1), base.roll(1) * noise
    embeddings = [torch.zeros(64, 4) + torch.tensor([1.0, 0, 0, 0]) for _ in range(2)]
    value = GISTEmbedLoss(contrast_anchors=False, contrast_positives=False)(embeddings, Batch(guide=guide))
    assert value.item() == pytest.approx(np.log(64), rel=1e-5)  # all 64 are left


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (RANKING, {"scale": 0.0}),
        (RANKING, {"scale": -1.0}),
        (RANKING, {"similarity_fct": "cosinus"}),
        (RANKING, {"directions": ()}),
        (RANKING, {"directions": ("doc_to_query",)}),
        (RANKING, {"directions": ("query_to_doc", "doc_to_dock")}),
        (RANKING, {"partition_mode": "separate"}),
        (RANKING, {"partition_mode": "per_direction", "directions": ("query_to_doc", "query_to_query")}),
        (RANKING, {"partition_mode": "per_direction", "directions": ("query_to_doc", "doc_to_doc")}),
        (RANKING, {"hardness_mode": "hard", "hardness_strength": 5.0}),
        (RANKING, {"hardness_mode": "hard_negatives"}),
        (RANKING, {"hardness_strength": 5.0}),
        (RANKING, {"hardness_mode": "hard_negatives", "hardness_strength": -1.0}),
        (RANKING, {"in_batch_negatives": False, "directions": ("query_to_doc", "doc_to_query")}),
        (RANKING, {"in_batch_negatives": False, "hardness_mode": "all_negatives", "hardness_strength": 5.0}),
        (RANKING, {"in_batch_negatives": False, "hardness_mode": "in_batch_negatives", "hardness_strength": 5.0}),
        (SYMMETRIC, {"scale": 0.0}),
        (SYMMETRIC, {"similarity_fct": "cosinus"}),
        (GIST, {"temperature": 0.0}),
        (GIST, {"margin_strategy": "percent"}),
        (MEGA, {"positive_margin": 1.5}),
        (MEGA, {"negative_margin": -1.5}),
        (ORTHOGONAL, {"mean_weight": 0.0, "second_moment_weight": None}),
        (ORTHOGONAL, {"mean_weight": -1.0}),
        (ORTHOGONAL, {"aggregation": "max"}),
        (ORTHOGONAL, {"similarity_fct": "cosinus"}),
    ],
    ids=str,
)
def test_bad_options(name, options):
    with pytest.raises(ValueError):
        make(name, options)


def test_too_few_columns():
    with pytest.raises(ValueError, match="takes anchor, positive, any negatives, labels none; got 1 column and no lab"):
        MultipleNegativesRankingLoss()(random_columns(1), Batch())
    with pytest.raises(ValueError, match="at least one negative, labels none; got 2 columns"):
        MultipleNegativesRankingLoss(in_batch_negatives=False)(random_columns(2), Batch())
    with pytest.raises(ValueError, match="MegaBatchMarginLoss takes anchor, positive, labels none; got 3 columns"):
        MegaBatchMarginLoss()(random_columns(3), Batch())


def test_lists_only_of_negatives():
    counts = (None, torch.ones(4, dtype=torch.long), None)
    with pytest.raises(ValueError, match="one text per cell in column 2"):
        MultipleNegativesRankingLoss()(random_columns(3), Batch(counts=counts))


def test_the_guide_must_be_there():
    with pytest.raises(ValueError, match=r"set \[guide\] in the config"):
        GISTEmbedLoss()(random_columns(2), Batch())
    embeddings = random_columns(3)
    with pytest.raises(ValueError, match=r"\[4, 4\] are given for \[4, 4, 4\]"):
        GISTEmbedLoss()(embeddings, guided(embeddings[:2]))
