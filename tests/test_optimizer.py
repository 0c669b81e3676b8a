"""Learning rates as Hugging Face's schedulers give them, and which parameters decay."""

import math

import pytest
import torch
from tiny import tiny_model
from torch import nn

from minist.training.optimizer import SCHEDULES, learning_rate, make_optimizer, warmup_steps

# recorded from the trainer of sentence-transformers 6.2: 12 steps, peak 1e-3
LINEAR = [0.0, 5e-4, 1e-3, 9e-4, 8e-4, 7e-4, 6e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4]  # warmup_ratio 0.1
COSINE = [
    0.001,
    0.0009829629131445341,
    0.0009330127018922195,
    0.0008535533905932737,
    0.00075,
    0.0006294095225512603,
    0.0005,
    0.0003705904774487396,
    0.0002500000000000001,
    0.00014644660940672628,
    6.698729810778065e-05,
    1.70370868554659e-05,
]


@pytest.mark.parametrize(("schedule", "warmup", "expected"), [("linear", 0.1, LINEAR), ("cosine", 0.0, COSINE)])
def test_recorded(schedule, warmup, expected):
    found = [learning_rate(step, 12, 1e-3, warmup_steps(warmup, 12), schedule) for step in range(12)]
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3, 10, 15])
def test_rises_then_never_rises_again(schedule, warmup):
    rates = [learning_rate(step, 10, 2.0, warmup, schedule) for step in range(10)]
    rising, falling = rates[: warmup + 1], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= rate <= 2.0 for rate in rates)
    assert warmup >= 10 or rates[warmup] == 2.0
    assert schedule != "constant" or set(falling) <= {2.0}


@pytest.mark.parametrize(
    ("warmup", "total", "steps"), [(0.1, 12, 2), (0.1, 10, 1), (0.0, 5, 0), (1, 50, 1), (7, 50, 7)]
)
def test_warmup_is_a_share_or_a_number(warmup, total, steps):
    assert warmup_steps(warmup, total) == steps


def test_matrices_decay_and_vectors_do_not():
    model, loss = tiny_model(), nn.Linear(3, 2)
    loss.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = make_optimizer([model, loss], 1e-3, 0.05)
    decay, no_decay = optimizer.param_groups
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    assert {p.ndim for p in decay["params"]} == {2}
    assert {p.ndim for p in no_decay["params"]} == {1}
    taken = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert taken == {id(p) for part in (model, loss) for p in part.parameters()} - {id(loss.frozen)}


def test_one_step_against_the_formula():
    """After one step m = g and v = g^2 once corrected, so AdamW moves by lr * sign(g), and decays first."""
    layer = nn.Linear(2, 2).double()
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = make_optimizer([layer], 0.01, 0.1)
    gradients = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    for name, parameter in layer.named_parameters():
        parameter.grad = gradients[name]
    optimizer.step()
    for name, parameter in layer.named_parameters():
        shrink = 1 - 0.01 * 0.1 if name == "weight" else 1.0
        expected = before[name] * shrink - 0.01 * gradients[name] / (gradients[name].abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-12, rtol=0)


def test_cosine_ends_near_zero():
    assert learning_rate(99, 100, 1.0, 0, "cosine") == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2, abs=1e-12)
