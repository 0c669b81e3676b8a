"""Blocks of rows: which they are, and that a sum over them is the sum."""

import pytest
import torch

from minist.losses import row_blocks
from minist.losses.row_blocks import same_row, sum_over_rows


@pytest.fixture
def limit(monkeypatch):
    """Sets the number of scores of a block; a block may have a single row."""
    monkeypatch.setattr(row_blocks, "ROWS_PER_BLOCK", 1)
    return lambda scores: monkeypatch.setattr(row_blocks, "SCORES_PER_BLOCK", scores)


def blocks_of(rows, scores_per_row):
    seen = []

    def part(block, own, shared):
        seen.append((block.start, block.stop))
        return own[0].sum()

    x = torch.arange(rows, dtype=torch.float64, requires_grad=True)
    value = sum_over_rows(part, [x], [], scores_per_row)
    (gradient,) = torch.autograd.grad(3 * value, x)
    assert value == rows * (rows - 1) / 2
    assert torch.equal(gradient, torch.full((rows,), 3.0, dtype=torch.float64))
    return seen


def test_blocks_have_a_bounded_number_of_scores(limit):
    limit(30)
    assert blocks_of(7, 10) == [(0, 3), (3, 6), (6, 7)]
    assert blocks_of(6, 10) == [(0, 3), (3, 6)]
    assert blocks_of(3, 10) == [(0, 3)]
    assert blocks_of(2, 31) == [(0, 1), (1, 2)]


def test_blocks_have_a_least_number_of_rows(limit, monkeypatch):
    limit(30)
    monkeypatch.setattr(row_blocks, "ROWS_PER_BLOCK", 4)
    assert blocks_of(7, 10) == [(0, 4), (4, 7)]
    assert blocks_of(7, 6) == [(0, 5), (5, 7)]


def exponentials(block, own, shared):
    return (own[0] @ shared[0].T).exp().sum() + own[1].sum()


@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
def test_gradients_only_of_what_asks_for_them(given, limit):
    limit(4)
    x, y = (torch.randn(4, 2, dtype=torch.float64).requires_grad_(wanted) for wanted in given)
    unused = torch.ones(4, requires_grad=True)
    value = sum_over_rows(exponentials, [x, torch.zeros(4)], [y * 1, unused], 4)
    whole = exponentials(slice(0, 4), [x, torch.zeros(4)], [y])
    asking = [tensor for tensor in (x, y) if tensor.requires_grad]
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(torch.autograd.grad(value, asking), torch.autograd.grad(whole, asking))


def test_the_same_tensor_may_be_own_and_shared(limit):
    limit(4)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sum_over_rows(exponentials, [x, x], [x], 4), x)


def test_no_gradient_is_taken_where_none_is_wanted(limit):
    limit(4)
    x, states = torch.randn(4, 2, requires_grad=True), []

    def part(block, own, shared):
        states.append(torch.is_grad_enabled())
        return own[0].sum()

    with torch.no_grad():
        value = sum_over_rows(part, [x], [], 4)
    assert not value.requires_grad
    assert states == [False] * 4
    torch.testing.assert_close(value, x.detach().sum())
    assert not sum_over_rows(part, [x.detach()], [], 4).requires_grad


def test_backward_may_come_twice(limit):
    limit(4)
    x = torch.randn(4, 2, requires_grad=True)
    value = sum_over_rows(lambda block, own, shared: own[0].square().sum(), [x], [], 4)
    first, second = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, 2 * x.detach())
    torch.testing.assert_close(second, first)


def test_same_row():
    rows = torch.tensor([0, 1, 2, 0, 2, 2])
    assert same_row(slice(1, 3), rows).tolist() == [
        [False, True] + 4 * [False],
        [False, False, True, False, True, True],
    ]
