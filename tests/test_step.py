"""What is minimized at a step, and what is said when it is no number."""

import pytest
import torch
from tiny import sentences, tiny_model

from minist.batch import Batch
from minist.losses.base import Loss
from minist.training.guide import embed_in_parts
from minist.training.optimizer import check_finite
from minist.training.step import Objective

OFF = torch.amp.GradScaler("cpu", enabled=False)


class Parts(Loss):
    """Remembers what it was given."""

    def forward(self, embeddings, batch):
        self.given = embeddings
        self.autocast = torch.is_autocast_enabled("cpu")
        return {"first": embeddings[0].sum(), "second": 2 * embeddings[1].sum()}


def test_parts_are_summed_and_weighted():
    x, y = torch.ones(2, 3), torch.full((2, 3), 2.0)
    objective = Objective(Parts(), Batch(), weight=0.5)
    assert objective([(x,), (y,)]) == objective.value == (6 + 24) / 2
    assert objective.parts == {"first": 3, "second": 12}  # they add up to the value
    assert torch.equal(objective.embeddings[1], y)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_types_are_raised_and_autocast_is_off(given, seen):
    loss = Parts()
    with torch.autocast("cpu", torch.bfloat16):
        Objective(loss, Batch())([(torch.ones(2, 3, dtype=given),)] * 2)
    assert all(x.dtype == seen for x in loss.given)
    assert not loss.autocast


def test_embeddings_in_parts_are_those_of_one_pass():
    model = tiny_model()
    columns = [model.tokenizer(sentences(300, seed)).packed() for seed in (1, 2)] + [model.tokenizer([]).packed()]
    found = embed_in_parts(model, columns, (None,) * 3)
    assert len(columns[0].split(model.default_batch_tokens)) > 1
    for x, y in zip(found, model(columns), strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=0)
        assert not x[0].requires_grad
    assert found[2][0].shape == (0, 16)


NAN, INF, ONE = (torch.tensor(value) for value in (float("nan"), float("inf"), 1.0))


def test_finite():
    check_finite(ONE, ONE, OFF, "step 3")
    for value in (NAN, INF):
        with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step 3, data set a; the weights are still"):
            check_finite(value, ONE, OFF, "step 3, data set a")
        with pytest.raises(ValueError, match="the gradient is not finite at step 3, though the loss is"):
            check_finite(ONE, value, OFF, "step 3")


def test_in_float16_a_gradient_may_be_too_large_for_a_while():
    check_finite(ONE, INF, torch.amp.GradScaler("cpu", init_scale=2.0), "step 3")
    with pytest.raises(ValueError, match="the gradient is not finite"):
        check_finite(ONE, INF, torch.amp.GradScaler("cpu", init_scale=0.5), "step 3")
