"""Checkpoints: everything comes back, old ones go, and each opens as a model."""

import pytest
import torch
from tiny import sentences, tiny_model
from torch import nn

from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from minist.training.optimizer import make_optimizer


class Loss(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 3))

    def forward(self, x):
        return (x @ self.weight).square().mean()


def start(seed=0):
    model, loss = tiny_model(seed), Loss()
    return model, loss, make_optimizer([model, loss], 1e-2, 0.1)


def steps(model, loss, optimizer, n):
    packed = model.tokenizer(sentences(6)).packed()
    for _ in range(n):
        loss(model([packed])[0]).backward()
        optimizer.step()
        optimizer.zero_grad()


def state(*parts):
    return [p.detach().clone() for part in parts for p in part.parameters()]


def test_going_on_is_the_same_as_never_stopping(tmp_path):
    model, loss, optimizer = start()
    steps(model, loss, optimizer, 3)
    save_checkpoint(tmp_path, 3, model, loss, optimizer, keep=2)
    steps(model, loss, optimizer, 3)

    other, other_loss, other_optimizer = start(seed=1)  # other weights, so that each must be restored
    assert load_checkpoint(tmp_path / "checkpoint-3", other, other_loss, other_optimizer) == 3
    steps(other, other_loss, other_optimizer, 3)
    for a, b in zip(state(model, loss), state(other, other_loss), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_opens_as_a_model(tmp_path):
    model, loss, optimizer = start()
    save_checkpoint(tmp_path, 1, model, loss, optimizer, keep=1)
    texts = sentences(5)
    found = SentenceTransformer(tmp_path / "checkpoint-1").encode(texts, convert_to_tensor=True)
    assert torch.equal(found, model.encode(texts, convert_to_tensor=True))


@pytest.mark.parametrize(("keep", "left"), [(1, [100]), (2, [20, 100]), (9, [3, 20, 100])])
def test_the_last_are_kept(tmp_path, keep, left):
    parts = start()
    (tmp_path / "checkpoint-50").mkdir()  # incomplete: no state in it
    for step in (3, 20, 100):  # by number, not by name
        save_checkpoint(tmp_path, step, *parts, keep=keep)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]
    assert (tmp_path / "checkpoint-50").exists()


def test_no_checkpoints(tmp_path):
    assert checkpoints(tmp_path) == []
    assert checkpoints(tmp_path / "none") == []
