"""Figures of a batch against loops, and at the ends of their scales."""

import math

import numpy as np
import pytest
import torch

from minist.training.diagnostics import describe_batch, effective_rank, uniformity, warning


def unit(seed, n, d):
    x = np.random.RandomState(seed).randn(n, d)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_against_loops(seed):
    x, y = unit(seed, 9, 5), unit(seed + 10, 9, 5)
    y[:4] = x[:4]  # some pairs meet
    found = describe_batch([torch.tensor(x) * 3, torch.tensor(y) * 7])
    cosines = x @ y.T
    others = [cosines[i, j] for i in range(9) for j in range(9) if i != j]
    spread = [math.exp(-2 * np.sum((y[i] - y[j]) ** 2)) for i in range(9) for j in range(i)]
    values = np.linalg.svd(y, compute_uv=False)
    shares = values / values.sum()
    expected = {
        "positive": np.mean(np.diag(cosines)),
        "negative": np.mean(others),
        "alignment": np.mean([np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)]),
        "accuracy": np.mean([np.argmax(row) == i for i, row in enumerate(cosines)]),
        "uniformity": math.log(np.mean(spread)),
        "effective_rank": math.exp(-np.sum(shares * np.log(shares))),
    }
    assert found == pytest.approx(expected, abs=1e-5)


def test_ends_of_the_scales():
    same = torch.ones(6, 4)
    found = describe_batch([same, same])
    assert found["uniformity"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert found["negative"] == pytest.approx(1)
    assert effective_rank(torch.eye(4)) == pytest.approx(4, rel=1e-6)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)


def test_one_row_one_column_other_numbers_of_rows():
    x = torch.randn(1, 4)
    assert describe_batch([x, x])["positive"] == pytest.approx(1)
    assert set(describe_batch([torch.randn(5, 4)])) == {"uniformity", "effective_rank"}
    assert set(describe_batch([torch.randn(5, 4), torch.randn(7, 4)])) == {"uniformity", "effective_rank"}


def test_collapse_is_said_once_it_is_there():
    same = torch.ones(6, 4)
    assert "training has collapsed" in warning(describe_batch([same, same]))
    assert warning(describe_batch([torch.eye(4), torch.eye(4)])) == ""
