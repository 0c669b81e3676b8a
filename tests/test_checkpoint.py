"""Checkpoints: everything comes back, old ones go, and each opens as a model."""

import pytest
import torch
from tiny import sentences, tiny_model
from torch import nn

from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import Trained, checkpoints, load_checkpoint, read_run, save_checkpoint
from minist.training.optimizer import make_optimizer

REST = {"seal": {}, "selection": {}}


class Loss(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 3))

    def forward(self, x):
        return (x @ self.weight).square().mean()


def start(model=None):
    model, losses = model or tiny_model(), nn.ModuleList([Loss()])
    named = [*model.named_parameters(), *losses.named_parameters("loss")]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
    return Trained(model, losses, make_optimizer(named, 1e-2, 0.1, {}, []), scaler)


def steps(trained, n):
    packed = trained.model.tokenizer(sentences(6)).packed()
    for _ in range(n):
        value = trained.losses[0](trained.model([packed])[0][0])
        trained.scaler.scale(value).backward()
        trained.scaler.step(trained.optimizer)
        trained.scaler.update()
        trained.optimizer.zero_grad()


def state(trained):
    return [p.detach().clone() for part in trained[:2] for p in part.parameters()]


def test_going_on_is_the_same_as_never_stopping(tmp_path):
    trained = start()
    steps(trained, 3)
    run = {"step": 3, "seal": {"seed": 1}, "selection": {}}
    save_checkpoint(tmp_path, trained, run, keep=2)
    steps(trained, 3)

    folder = tmp_path / "checkpoint-3"
    other = start(SentenceTransformer(folder))
    load_checkpoint(folder, other)
    assert read_run(folder) == run
    assert other.scaler.get_scale() == 2.0**21  # it grew in the second step
    steps(other, 3)
    for a, b in zip(state(trained), state(other), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_opens_as_a_model(tmp_path):
    trained, texts = start(), sentences(5)
    save_checkpoint(tmp_path, trained, {"step": 1} | REST, keep=1)
    found = SentenceTransformer(tmp_path / "checkpoint-1").encode(texts, convert_to_tensor=True)
    assert torch.equal(found, trained.model.encode(texts, convert_to_tensor=True))


@pytest.mark.parametrize(("keep", "left"), [(1, [100]), (2, [20, 100]), (9, [3, 20, 100])])
def test_the_last_are_kept(tmp_path, keep, left):
    trained = start()
    (tmp_path / "checkpoint-50").mkdir()  # incomplete: nothing in it says what it is
    for step in (3, 20, 100):  # by number, not by name
        save_checkpoint(tmp_path, trained, {"step": step} | REST, keep=keep)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]
    assert (tmp_path / "checkpoint-50").exists()


def test_no_checkpoints(tmp_path):
    assert checkpoints(tmp_path) == []
    assert checkpoints(tmp_path / "none") == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trained = start()
    save_checkpoint(tmp_path, trained, {"step": 1} | REST, keep=1)
    trained.model.stack[0].layers[1].up.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"after step 2 the weight stack\.0\.layers\.1\.up\.weight is not finite"):
        save_checkpoint(tmp_path, trained, {"step": 2} | REST, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]
