"""Dropout on a CPU: how often, in what size, with which randomness."""

import pytest
import torch
from torch import nn

from minist.encoders.dropout import Dropout, keep

MANY = 200_003  # no multiple of four


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_how_many_are_dropped_and_what_the_others_become(p):
    x = torch.ones(MANY)
    y = Dropout(p)(x)
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=2e-4)  # p is rounded to 1 / 65536
    share = (y == 0).double().mean().item()
    assert abs(share - p) < 4 * (p * (1 - p) / MANY) ** 0.5 + 1e-5  # four standard deviations


def test_neighbours_are_independent():
    """Four numbers come from one draw: neither they nor the same place of the next draws go together."""
    kept = keep(torch.ones(4 * MANY), 0.3).double() - 0.7
    for distance in (1, 2, 3, 4, 8):
        assert abs((kept[:-distance] * kept[distance:]).mean().item()) < 4 * 0.3 * 0.7 / (4 * MANY) ** 0.5


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5, 0), (3, 5, 7)])
def test_shapes(shape):
    x = torch.ones(shape, dtype=torch.float64)
    assert Dropout(0.5)(x).shape == x.shape and Dropout(0.5)(x).dtype == x.dtype
    assert not Dropout(1.0)(x).any() and torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1e-9)(x), x)  # less than a step is none


def test_where_it_does_nothing():
    x = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert isinstance(Dropout(0.5), nn.Dropout)  # by which training finds it


def test_the_seed_decides_and_gradients_go_where_numbers_went():
    x = torch.randn(1000, requires_grad=True)
    torch.manual_seed(0)
    y = Dropout(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.3)(x), y)
    assert not torch.equal(Dropout(0.3)(x), y)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)
