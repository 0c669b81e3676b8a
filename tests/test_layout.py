"""Places in the plane: PCA by another way, t-SNE's gradient by autograd, neighbours kept, and few or equal texts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minist.retrieval import layout
from minist.retrieval.layout import lay_out, neighbours, pca, tsne


def groups(count=40, kinds=4, width=12, seed=0):
    """Unit vectors round `kinds` directions, and which."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count * kinds) % kinds
    around = torch.eye(width)[:kinds][labels] + 0.15 * torch.randn(count * kinds, width, generator=draw)
    return F.normalize(around, dim=-1), labels


def share_of_alike(places, labels):
    nearest = torch.cdist(places, places).fill_diagonal_(math.inf).argmin(1)
    return (labels[nearest] == labels).float().mean().item()


def test_pca_is_the_singular_value_decomposition():
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    centered = (x - x.mean(0)).double().numpy()
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    wanted = centered @ directions[:2].T
    found = pca(x).numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-5)
    np.testing.assert_allclose(pca(x + 5), found, atol=1e-4)  # signs included


def test_neighbours():
    x, _ = groups()
    p = neighbours(x, 10.0)
    assert torch.equal(p, p.T) and p.sum().item() == pytest.approx(1, abs=1e-5) and p.diagonal().abs().max() == 0
    tries = torch.logspace(-1, 3, 4001, dtype=torch.float64)[:, None]  # widths, of which one gives 10 neighbours
    conditional = []
    for i in range(len(x)):
        others = torch.cdist(x[i : i + 1], x).square()[0].double()
        others[i] = math.inf
        rows = (-others * tries).softmax(1)
        entropies = -(rows * rows.clamp_min(1e-300).log()).sum(1)
        conditional.append(rows[(entropies - math.log(10)).abs().argmin()])
    both = torch.stack(conditional)
    torch.testing.assert_close(p.double(), (both + both.T) / (2 * len(x)), atol=3e-5, rtol=0)


def test_the_gradient(monkeypatch):
    """One step without momentum goes down KL(P | Q), by autograd."""
    monkeypatch.setattr(layout, "STEPS", 1)
    monkeypatch.setattr(layout, "EARLY", 0)
    x, _ = groups()
    y = pca(x)
    y = (y / y.std() * 1e-4).requires_grad_()
    w = 1 / (1 + torch.cdist(y, y).square())
    off = ~torch.eye(len(x), dtype=torch.bool)
    p, q = neighbours(x, 30.0)[off], (w / w[off].sum())[off]
    (slope,) = torch.autograd.grad((p * (p.clamp_min(1e-30) / q).log()).sum(), y)
    wanted = y.detach() - 50.0 * slope
    torch.testing.assert_close(tsne(x, 30.0, lambda steps: None), wanted - wanted.mean(0), atol=1e-7, rtol=1e-3)


def test_neighbours_stay_together():
    x, labels = groups()
    steps = []
    found = lay_out(x, done=steps.append)
    assert share_of_alike(found, labels) > 0.98 and sum(steps) == layout.STEPS
    assert torch.equal(found, lay_out(x))
    assert share_of_alike(found[torch.randperm(len(x))], labels) < 0.6  # what the share is by chance


def test_more_than_landmarks(monkeypatch):
    monkeypatch.setattr(layout, "LANDMARKS", 120)
    x, labels = groups()
    found = lay_out(x, 10.0)
    assert found.shape == (160, 2) and share_of_alike(found, labels) > 0.95
    assert torch.equal(found, lay_out(x, 10.0)) and not torch.equal(found, lay_out(x, 10.0, seed=1))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_few(count):
    found = lay_out(groups()[0][:count])
    assert found.shape == (count, 2) and found.isfinite().all()


def test_equal_texts():
    found = lay_out(torch.ones(30, 4) / 2)
    assert found.isfinite().all()
