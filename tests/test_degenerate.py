"""Every loss on inputs that a formula forgets: equal, opposite, zero, single and repeated rows, in every precision."""

import pytest
import torch
from shelf import CASES, LAYERS, SHELF, WIDTH, random_columns

from minist.losses.base import total
from minist.training.step import Objective


def identical(columns, rows=4):
    """All texts of all columns have one embedding."""
    return [random_columns(1)[0][:1].repeat(rows, 1) for _ in range(columns)]


def opposite(columns):
    """Every other column is the first one turned round."""
    first = random_columns(1)[0]
    return [first * (-1) ** c for c in range(columns)]


def zero(columns):
    return [torch.zeros(4, WIDTH) for _ in range(columns)]


def a_zero_row(columns):
    return [torch.cat([column[:3], torch.zeros(1, WIDTH)]) for column in random_columns(columns)]


def one_row(columns):
    return random_columns(columns, rows=1)


def one_identical_row(columns):
    return identical(columns, rows=1)


def duplicate_rows(columns):
    return [column[[0, 0, 1, 1]] for column in random_columns(columns)]


def tiny(columns):
    return [column * 1e-3 for column in random_columns(columns)]


def one_number(columns):
    """Nothing but the first number is not 0."""
    return [column * torch.eye(WIDTH)[0] for column in random_columns(columns)]


INPUTS = [identical, opposite, zero, a_zero_row, one_row, one_identical_row, duplicate_rows, tiny, one_number]


# a wrapper does the same to all losses, so three are enough
WRAPPED = ("MultipleNegativesRankingLoss", "CoSENTLoss", "GISTEmbedLoss")
WRAPPERS = ("matryoshka", "all layers", "2d")
GRID = [case for case in CASES if case.wrapper == "plain"]
GRID += [case for case in CASES if case.wrapper in WRAPPERS and case.example.loss in WRAPPED]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("inputs", INPUTS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("case", GRID, ids=str)
def test_value_and_gradients_are_finite(case, inputs, dtype):
    """As at a training step: half types are raised, and their gradient must fit into the half type again."""
    loss = case.make().to(torch.float64 if dtype == torch.float64 else torch.float32)
    outputs = loss.outputs(0, LAYERS)
    columns = inputs(case.example.columns)
    together = [tuple(column.detach().to(dtype) for _ in range(1 + len(outputs))) for column in columns]
    leaves = [x.clone().requires_grad_() for column in together for x in column]  # all layers give the same
    objective = Objective(loss, case.example.batch(len(columns[0])), 1.0, outputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = objective([tuple(leaves[i : i + len(together[0])]) for i in range(0, len(leaves), len(together[0]))])
    assert torch.isfinite(value)
    scale = 1 / 16 if dtype == torch.float16 else 1.0  # in float16 the scaler goes down to what fits
    for gradient in torch.autograd.grad(value * scale, leaves, allow_unused=True, materialize_grads=True):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("example", [e for e in SHELF if e.guide], ids=str)
@pytest.mark.parametrize("inputs", INPUTS, ids=lambda function: function.__name__)
def test_a_degenerate_guide(example, inputs):
    leaves = random_columns(example.columns, rows=len(inputs(1)[0]))
    guide = tuple(column.detach() for column in inputs(example.columns))
    if example.options.get("projection_dim"):
        pytest.skip("its guide has the width of the projection")
    value = total(example.make().double()(leaves, example.batch(len(leaves[0]))._replace(guide=guide)))
    gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
    assert torch.isfinite(value) and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_the_losses_of_half_types_are_near(example):
    """What the loss of bfloat16 embeddings is, beside that of the same embeddings in float64."""
    exact = random_columns(example.columns)
    rounded = [column.detach().bfloat16() for column in exact]
    loss, batch = example.make(), example.batch(4)
    wanted = total(loss.double()([column.double() for column in rounded], batch))
    found = total(loss.float()([column.float() for column in rounded], batch))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
