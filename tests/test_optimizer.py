"""Learning rates as Hugging Face's schedulers give them; which parameters are trained, at which rate, and decay."""

import math

import pytest
import torch
from tiny import tiny_model
from torch import nn

from minist.training.optimizer import SCHEDULES, learning_rate, make_optimizer

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
SIX_STEPS = [0.0, 1e-3, 8e-4, 6e-4, 4e-4, 2e-4]  # warmup_ratio 0.1
CONSTANT = [0.0, 1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3]  # constant_with_warmup, 3 steps


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [("linear", 0.1, LINEAR), ("linear", 0.1, SIX_STEPS), ("cosine", 0.0, COSINE), ("constant", 3, CONSTANT)],
)
def test_recorded(schedule, warmup, expected):
    total = len(expected)
    found = [1e-3 * learning_rate(step, total, warmup, schedule) for step in range(total)]
    assert found == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("warmup", "peak"), [(0, 0), (0.3, 3), (3, 3), (10, 10), (15, 15)])
def test_rises_then_never_rises_again(schedule, warmup, peak):
    factors = [learning_rate(step, 10, warmup, schedule) for step in range(12)]  # two more than there are
    rising, falling = factors[: peak + 1], factors[peak:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    assert peak >= 10 or factors[peak] == 1.0
    assert schedule != "constant" or set(falling) <= {1.0}


@pytest.mark.parametrize(
    ("warmup", "total", "steps"), [(0.1, 12, 2), (0.1, 10, 1), (0.0, 5, 0), (1, 50, 1), (7.0, 50, 7), (0.99, 50, 50)]
)
def test_warmup_is_a_share_or_a_number(warmup, total, steps):
    factors = [learning_rate(step, total, warmup, "constant") for step in range(total + 1)]
    assert factors.index(1.0) == steps


def test_cosine_ends_near_zero():
    assert learning_rate(99, 100, 0, "cosine") == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2, abs=1e-12)


# ---------------------------------------------------------------- groups


def named_parameters():
    """Of a model and a loss, as train.py names them."""
    loss = nn.ModuleDict({"classifier": nn.Linear(3, 2)})
    return [*tiny_model().named_parameters(), *((f"loss.{name}", p) for name, p in loss.named_parameters())]


def settings(optimizer, named):
    """name -> (rate, decay) of what is trained."""
    of = {id(p): (g["initial_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert all(group["lr"] == group["initial_lr"] for group in optimizer.param_groups)
    assert len(of) == sum(len(group["params"]) for group in optimizer.param_groups)
    return {name: of[id(p)] for name, p in named if id(p) in of}


def test_matrices_decay_and_vectors_do_not():
    named = named_parameters()
    found = settings(make_optimizer(named, 1e-3, 0.05, {}, []), named)
    assert found == {name: (1e-3, 0.05 if p.ndim > 1 else 0.0) for name, p in named}
    for name, (_, decay) in found.items():  # biases and norms, by their names
        assert (decay == 0.0) == (name.endswith("bias") or "norm" in name), name


def test_rates_by_name():
    named = named_parameters()
    patterns = {r"^stack\.0\.layers\.": 3e-4, r"layers\.1\.": 1e-4, r"^loss\.": 1, "bias$": 0.0}
    found = settings(make_optimizer(named, 1e-5, 0.05, patterns, []), named)
    rates = {name: rate for name, (rate, _) in found.items()}
    assert rates["stack.0.embeddings.word.weight"] == 1e-5
    assert rates["stack.0.layers.0.qkv.weight"] == 3e-4
    assert rates["stack.0.layers.1.qkv.weight"] == 1e-4  # both fit, the later one counts
    assert rates["loss.classifier.weight"] == 1.0
    assert {rate for name, rate in rates.items() if name.endswith("bias")} == {0.0}
    assert found["stack.0.layers.1.qkv.weight"][1] == 0.05  # its decay stays
    reversed_ = settings(make_optimizer(named, 1e-5, 0.05, dict(reversed(patterns.items())), []), named)
    assert reversed_["stack.0.layers.1.qkv.weight"][0] == 3e-4


def test_a_rate_of_its_own_moves_a_parameter_so_far():
    named = named_parameters()
    optimizer = make_optimizer(named, 1e-2, 0.0, {"layers": 1e-3, "^loss": 0.0}, [])
    before = {name: p.detach().clone() for name, p in named}
    for _, parameter in named:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in named:
        rate = 1e-3 if "layers" in name else 0.0 if name.startswith("loss") else 1e-2
        torch.testing.assert_close(
            before[name] - parameter.detach(), torch.full_like(parameter, rate), atol=1e-6, rtol=0
        )


def test_frozen_parameters():
    named = named_parameters()
    already = dict(named)["loss.classifier.bias"].requires_grad_(False)
    optimizer = make_optimizer(named, 1e-3, 0.05, {"layers": 1e-4}, ["embeddings", r"layers\.0\.", "word"])
    frozen = {name for name, p in named if "embeddings" in name or "layers.0." in name or p is already}
    assert 5 < len(frozen) < len(named) - 5
    assert {name for name, p in named if not p.requires_grad} == frozen
    assert settings(optimizer, named).keys() == {name for name, _ in named} - frozen


@pytest.mark.parametrize(
    ("lr_for", "freeze", "message"),
    [
        ({"layer.0": 1e-3}, [], r"lr_for: 'layer.0' fits none of the \d+ parameters to train, such as stack.0.embedd"),
        ({}, ["^layers"], r"freeze: '\^layers' fits none of the \d+ parameters to train, such as stack.0.embeddings"),
        ({"embeddings": 1e-3}, ["embeddings"], "lr_for: 'embeddings' fits none of the"),  # it would change nothing
        ({"(layers": 1e-3}, [], r"lr_for: '\(layers' is no regular expression \(missing \)"),
        ({}, ["*"], r"freeze: '\*' is no regular expression \(nothing to repeat"),
        ({}, ["stack", "loss"], r"freeze is \['stack', 'loss'\]: that leaves no parameter to train"),
    ],
)
def test_errors(lr_for, freeze, message):
    with pytest.raises(ValueError, match=message) as raised:
        make_optimizer(named_parameters(), 1e-3, 0.0, lr_for, freeze)
    assert "\n" not in str(raised.value)


def test_one_step_against_the_formula():
    """After one step m = g and v = g^2 once corrected, so AdamW moves by lr * sign(g), and decays first."""
    layer = nn.Linear(2, 2).double()
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = make_optimizer(list(layer.named_parameters()), 0.01, 0.1, {}, [])
    gradients = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    for name, parameter in layer.named_parameters():
        parameter.grad = gradients[name]
    optimizer.step()
    for name, parameter in layer.named_parameters():
        shrink = 1 - 0.01 * 0.1 if name == "weight" else 1.0
        expected = before[name] * shrink - 0.01 * gradients[name] / (gradients[name].abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-12, rtol=0)
