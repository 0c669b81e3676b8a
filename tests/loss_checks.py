"""What losses are compared with: slow definitions, recorded numbers of the real library, numeric gradients."""

import json
from itertools import pairwise

import numpy as np
import torch
from models import DATA
from slow_losses import SLOW

from minist import Batch
from minist.losses.base import total

FILES = ("losses_labelled.json", "losses_sparse.json")
RECORDED = {
    name: case for file in FILES for name, case in json.loads((DATA / file).read_text("utf-8"))["cases"].items()
}


def random_columns(seed, columns, rows=5, width=6):
    """Embeddings in float64 that ask for their gradient."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, width)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(columns)]


def gradients(value, embeddings):
    return torch.autograd.grad(value, embeddings, retain_graph=True, allow_unused=True, materialize_grads=True)


def assert_slow(loss, embeddings, batch, **options):
    """Value and gradients are those of the definition; `options` are what that is called with."""
    fast = loss.double()(embeddings, batch)
    slow = SLOW[type(loss).__name__](embeddings, batch, **options)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(fast, embeddings), gradients(slow, embeddings), rtol=1e-10, atol=1e-10)


def assert_recorded(name, loss):
    """Value and gradients are those that the real library gave in single precision."""
    case = RECORDED[name]
    columns = [np.random.RandomState(seed).randn(6, 8).astype(np.float32) for seed in case["columns"]]
    if case.get("relu"):  # weights of a sparse encoder
        columns = [column.clip(0) for column in columns]
    embeddings = [torch.from_numpy(column).requires_grad_() for column in columns]
    labels = None if case["labels"] is None else torch.tensor(case["labels"])
    parts = loss(embeddings, Batch(labels=labels))
    if isinstance(parts, dict):
        wanted = {part: torch.tensor(value) for part, value in case["components"].items()}
        torch.testing.assert_close(parts, wanted, rtol=1e-5, atol=1e-6)
    value = total(parts)
    torch.testing.assert_close(value, torch.tensor(case["loss"]), rtol=1e-5, atol=1e-6)
    for found, recorded in zip(gradients(value, embeddings), case["grad"], strict=True):
        torch.testing.assert_close(found, torch.tensor(recorded), atol=1e-5, rtol=1e-5)


def assert_gradcheck(loss, embeddings, batch):
    assert torch.autograd.gradcheck(lambda *columns: loss.double()(columns, batch), embeddings)


def unit(degrees):
    """Vectors of the plane at these angles, [n, 2] in float64: the cosine of two is that of the angle between them."""
    radians = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def falls(values):
    return all(later < earlier - 1e-6 for earlier, later in pairwise(values))
