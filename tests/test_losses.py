"""Losses against their formulas, recorded numbers of the real library, and numeric gradients."""

import json

import numpy as np
import pytest
import torch
from models import DATA
from slow_losses import SLOW

from minist import Batch, losses
from minist.losses import MultipleNegativesRankingLoss

ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
OPTIONS = {
    "default": {},
    "dot": {"similarity_fct": "dot", "scale": 1.0},
    "symmetric": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "with_queries": {"directions": ("query_to_doc", "query_to_query")},
    "with_documents": {"directions": ("query_to_doc", "doc_to_doc")},
    "everything": {"directions": ALL_DIRECTIONS},
}
HARDNESS = {
    mode: {"hardness_mode": mode, "hardness_strength": 5.0}
    for mode in ("in_batch_negatives", "hard_negatives", "all_negatives")
} | {"hard_everything": {"directions": ALL_DIRECTIONS, "hardness_mode": "all_negatives", "hardness_strength": 9.0}}


def random_columns(seed, columns, rows=4, width=6):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, width)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(columns)]


def test_every_loss_has_a_slow_definition():
    assert set(SLOW) == set(losses.__all__)


@pytest.mark.parametrize("columns", [2, 3, 4])
@pytest.mark.parametrize("options", (OPTIONS | HARDNESS).values(), ids=OPTIONS | HARDNESS)
def test_equals_the_slow_definition(options, columns):
    embeddings = random_columns(columns, columns)
    fast = MultipleNegativesRankingLoss(**options)(embeddings, Batch())
    slow = SLOW["MultipleNegativesRankingLoss"](embeddings, **options)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(fast, embeddings), torch.autograd.grad(slow, embeddings), rtol=1e-10, atol=1e-10
    )


# hardness is left out: it is meant to have no gradient, so its numeric gradient is another one
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradcheck(options):
    loss = MultipleNegativesRankingLoss(**options)
    assert torch.autograd.gradcheck(lambda *columns: loss(columns, Batch()), random_columns(0, 3))


@pytest.mark.parametrize("options", (OPTIONS | HARDNESS).values(), ids=OPTIONS | HARDNESS)
def test_a_better_pair_lowers_the_loss(options):
    """All vectors are orthogonal, so only the similarity of the one pair changes."""
    loss = MultipleNegativesRankingLoss(**options)
    vectors = torch.linalg.qr(torch.randn(64, 18, generator=torch.Generator().manual_seed(0))).Q.T
    queries, positives, negatives = vectors.split(6)
    values = []
    for share in (0.4, 0.2, 0.0, -0.2):
        changed = positives.clone()
        changed[0] += share * queries[0]
        values.append(loss([queries, changed, negatives], Batch()).item())
    assert values == sorted(set(values))


RECORDED = json.loads((DATA / "losses_mnrl.json").read_text("utf-8"))["cases"]


def recorded_options(name):
    """mnrl_dir[a+b]_joint, mnrl_hardness_<mode>_5, mnrl_dot_scale1; the others have no options."""
    if name.startswith("mnrl_dir["):
        directions, mode = name.removeprefix("mnrl_dir[").split("]_")
        return {"directions": tuple(directions.split("+")), "partition_mode": mode}
    if name.startswith("mnrl_hardness_"):
        return {"hardness_mode": name.removeprefix("mnrl_hardness_").removesuffix("_5"), "hardness_strength": 5.0}
    return {
        "mnrl_dot_scale1": {"similarity_fct": "dot", "scale": 1.0},
        "mnrl_pair": {},
        "mnrl_triplet": {},
        "mnrl_2neg": {},
    }[name]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_value_and_gradients(name):
    case = RECORDED[name]
    columns = [np.random.RandomState(seed).randn(6, 8).astype(np.float32) for seed in case["columns"]]
    embeddings = [torch.from_numpy(column).requires_grad_() for column in columns]
    value = MultipleNegativesRankingLoss(**recorded_options(name))(embeddings, Batch())
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-5)
    for column, recorded in zip(embeddings, case["grad"], strict=True):
        np.testing.assert_allclose(column.grad.numpy(), recorded, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.0},
        {"scale": -1.0},
        {"similarity_fct": "cosinus"},
        {"directions": ()},
        {"directions": ("doc_to_query",)},
        {"directions": ("query_to_doc", "doc_to_dock")},
        {"partition_mode": "separate"},
        {"partition_mode": "per_direction", "directions": ("query_to_doc", "query_to_query")},
        {"partition_mode": "per_direction", "directions": ("query_to_doc", "doc_to_doc")},
        {"hardness_mode": "hard", "hardness_strength": 5.0},
        {"hardness_mode": "hard_negatives"},
        {"hardness_strength": 5.0},
        {"hardness_mode": "hard_negatives", "hardness_strength": -1.0},
    ],
    ids=str,
)
def test_bad_options(options):
    with pytest.raises(ValueError):
        MultipleNegativesRankingLoss(**options)


def test_one_column_is_too_few():
    with pytest.raises(ValueError, match="1 column"):
        MultipleNegativesRankingLoss()(random_columns(0, 1), Batch())
