"""Losses round other losses: against their formulas, and through the model, in one pass and in three phases."""

import math
import random
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from tiny import sentences, tiny_model

from minist.batch import Batch
from minist.losses import (
    AdaptiveLayerLoss,
    CoSENTLoss,
    GISTEmbedLoss,
    Matryoshka2dLoss,
    MatryoshkaLoss,
    MSELoss,
    MultipleNegativesRankingLoss,
    TripletLoss,
    WeightedSumLoss,
)
from minist.losses.base import Loss
from minist.models.stack import Stack
from minist.modules.pooling import Pooling
from minist.training.gradcache import gradcache
from minist.training.step import Objective

MNRL = MultipleNegativesRankingLoss


def columns(n=2, rows=6, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, dtype=torch.float64, generator=generator) for _ in range(n)]


def total(parts):
    return sum(parts.values()) if isinstance(parts, dict) else parts


def cut(embeddings, dim):
    return [F.normalize(x[:, :dim], dim=-1) for x in embeddings]


# ---------------------------------------------------------------- Matryoshka


def test_matryoshka():
    x, loss = columns(), TripletLoss(triplet_margin=1.0)
    x.append(columns(1, seed=1)[0])
    found = MatryoshkaLoss(loss, [2, 8, 4], [3.0, 1.0, 2.0])(x, Batch())
    assert list(found) == ["matryoshka_8", "matryoshka_4", "matryoshka_2"]
    for dim, weight in ((8, 1.0), (4, 2.0), (2, 3.0)):
        assert found[f"matryoshka_{dim}"] == pytest.approx(weight * loss(cut(x, dim), Batch()).item(), abs=1e-12)


def test_labels_and_teachers_as_wide_as_the_embeddings_are_cut_with_them():
    (x,), teacher = columns(1), columns(1, seed=3)[0]
    expected = sum(
        F.mse_loss(*pair).item() for pair in zip(cut([x], 8) + cut([x], 4), (teacher, teacher[:, :4]), strict=True)
    )
    for batch in (Batch(labels=teacher), Batch(guide=(teacher,))):
        assert total(MatryoshkaLoss(MSELoss(), [8, 4])([x], batch)) == pytest.approx(expected, abs=1e-12)
    labels = torch.linspace(0, 1, 6)  # these are not
    x = columns()
    expected = sum(CoSENTLoss()(cut(x, dim), Batch(labels=labels)).item() for dim in (8, 4))
    assert total(MatryoshkaLoss(CoSENTLoss(), [8, 4])(x, Batch(labels=labels))) == pytest.approx(expected, abs=1e-12)


def test_a_guide_is_not_cut():
    x, guide = columns(), tuple(columns(seed=5))
    expected = sum(GISTEmbedLoss()(cut(x, dim), Batch(guide=guide)).item() for dim in (8, 4))
    loss = MatryoshkaLoss(GISTEmbedLoss(), [8, 4])
    assert loss.guide == "guide"
    assert total(loss(x, Batch(guide=guide))) == pytest.approx(expected, abs=1e-12)


def test_dimensions_are_drawn_by_step():
    loss, x = MatryoshkaLoss(MNRL(), [8, 6, 4, 2], n_dims_per_step=2), columns()
    drawn = [tuple(loss(x, Batch(step=step))) for step in range(40)]
    assert drawn == [tuple(loss(x, Batch(step=step))) for step in range(40)]
    assert all(len(names) == 2 for names in drawn)
    assert len({name for names in drawn for name in names}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "matryoshka_dims are .*: give different positive numbers"),
        (([4, 4],), "give different positive numbers"),
        (([0],), "give different positive numbers"),
        (([4, 2], [1.0]), r"matryoshka_dims are \[4, 2\], matryoshka_weights \[1.0\]: .* as many weights"),
    ],
)
def test_matryoshka_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaLoss(MNRL(), *arguments)


def test_more_dimensions_than_there_are():
    with pytest.raises(ValueError, match="matryoshka_dims has 16, the embeddings have 8 dimensions"):
        MatryoshkaLoss(MNRL(), [16, 4])(columns(), Batch())


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize(
    ("weighting", "weights"), [("uniform", (1, 1)), ("log", (1, 1 / (1 + math.log(3)))), ("linear", (1, 1 / 3))]
)
def test_adaptive_layer(weighting, weights):
    x, extra = columns(), {"layer 0": tuple(columns(seed=7)), "layer 2": tuple(columns(seed=8))}
    loss = AdaptiveLayerLoss(MNRL(), -1, 2.0, 3.0, 5.0, 0.7, weighting)
    found = loss(x, Batch(extra=extra))
    assert found["last_layer"] == pytest.approx(2 * MNRL()(x, Batch()).item(), abs=1e-12)
    teacher = torch.cat(x).div(0.7).softmax(1)
    for layer, weight in zip((0, 2), weights, strict=True):
        shallow = extra[f"layer {layer}"]
        assert found[f"layer_{layer}"] == pytest.approx(3 * weight * MNRL()(shallow, Batch()).item() / 2, abs=1e-12)
        student = torch.cat(shallow).div(0.7).softmax(1)
        divergence = (teacher * (teacher / student).log()).sum(1).mean().item()
        assert found[f"layer_{layer}_kl"] == pytest.approx(5 * 0.7 * divergence, abs=1e-12)
    assert not any("kl" in name for name in AdaptiveLayerLoss(MNRL(), kl_temperature=0)(x, Batch(extra=extra)))


def test_the_last_layer_does_not_learn_from_the_divergence():
    x, shallow = columns()[0].requires_grad_(), columns(seed=2)[0].requires_grad_()
    loss = AdaptiveLayerLoss(MNRL(), last_layer_weight=0.0, prior_layers_weight=0.0)
    total(loss([x, x], Batch(extra={"layer 1": (shallow, shallow)}))).backward()
    assert x.grad is None or not x.grad.any()
    assert shallow.grad.any()


def test_layers_are_drawn_by_step():
    loss = AdaptiveLayerLoss(MNRL(), 2)
    drawn = [loss.outputs(step, 6) for step in range(60)]
    assert all(len(names) == 2 for names in drawn)
    assert {name for names in drawn for name in names} == {f"layer {i}" for i in range(6)}  # the last, 6, is not drawn
    assert AdaptiveLayerLoss(MNRL(), -1).outputs(0, 3) == AdaptiveLayerLoss(MNRL(), 9).outputs(0, 3)
    with pytest.raises(ValueError, match="needs an encoder with layers"):
        loss.outputs(0, 0)


def test_two_dimensions():
    x, extra = columns(), {"layer 1": tuple(columns(seed=7))}
    loss = Matryoshka2dLoss(MNRL(), [8, 4], n_dims_per_step=2, kl_div_weight=0.0)
    expected = sum(MNRL()(cut(y, dim), Batch()).item() for y in (x, extra["layer 1"]) for dim in (8, 4))
    assert total(loss(x, Batch(extra=extra))) == pytest.approx(expected, abs=1e-12)


def test_matryoshka_outside_cuts_layers_too():
    x, extra = columns(), {"layer 1": tuple(columns(seed=7))}
    inner = AdaptiveLayerLoss(MNRL())
    found = MatryoshkaLoss(inner, [4])(x, Batch(extra=extra))
    expected = inner(cut(x, 4), Batch(extra={"layer 1": tuple(cut(extra["layer 1"], 4))}))
    assert total(found) == pytest.approx(total(expected).item(), abs=1e-12)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"layer_weighting": "x"}, "known are uniform"),
        ({"n_layers_per_step": 0}, "-1 for all layers. is 0: use a number at least 1"),
    ],
)
def test_adaptive_layer_mistakes(argument, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveLayerLoss(MNRL(), **argument)


# ---------------------------------------------------------------- sums


def test_weighted_sum():
    x = columns(3)
    found = WeightedSumLoss([MNRL(), TripletLoss()], [2.0, 0.5])(x, Batch())
    assert list(found) == ["MultipleNegativesRankingLoss_0", "TripletLoss_1"]
    assert total(found) == pytest.approx(
        2 * MNRL()(x, Batch()).item() + TripletLoss()(x, Batch()).item() / 2, abs=1e-12
    )
    both = WeightedSumLoss([AdaptiveLayerLoss(MNRL(), -1), AdaptiveLayerLoss(MNRL(), -1), GISTEmbedLoss()])
    assert both.outputs(0, 2) == ("layer 0", "layer 1")
    assert both.guide == "guide"
    with pytest.raises(ValueError, match="one of the losses wants a guide, another a teacher"):
        WeightedSumLoss([GISTEmbedLoss(), MSELoss()])
    with pytest.raises(ValueError, match="2 losses and 1 weights"):
        WeightedSumLoss([MNRL(), MNRL()], [1.0])


# ---------------------------------------------------------------- what all have in common


class Spy(TripletLoss):
    """Remembers what it is told, and asks for something."""

    guide = "teacher"
    class_names = True
    labels = "words"

    def outputs(self, step, num_layers):
        return ("words",)

    def attach(self, model, roles, checkpoint):
        self.attached = (model, roles, checkpoint)

    def check(self, embeddings, batch):
        raise ValueError(f"checked {embeddings[0].shape[1]}")


def wrapped(*losses):
    """In each wrapper, and in a wrapper in a wrapper; in the sum beside others."""
    loss, *others = losses
    return [
        WeightedSumLoss(losses),
        *([] if others else [MatryoshkaLoss(loss, [4, 2]), AdaptiveLayerLoss(loss), Matryoshka2dLoss(loss, [4])]),
        *([] if others else [WeightedSumLoss([AdaptiveLayerLoss(MatryoshkaLoss(loss, [4]))])]),
    ]


def test_wrappers_hand_on_what_the_loss_inside_says():
    for loss in wrapped(spy := Spy()):
        assert loss.guide == "teacher" and loss.class_names and loss.labels == "words" and loss.columns == spy.columns
        assert "words" in loss.outputs(0, 2)
        loss.attach("model", ("query",), {})
        assert spy.attached == ("model", ("query",), {})
        del spy.attached
        extra = {"layer 0": tuple(columns(3, width=4)), "words": tuple(columns(3, width=2))}
        with pytest.raises(ValueError, match="checked 4"):
            loss.check(columns(3, width=4), Batch(extra=extra))
        loss.set_seed(5)
        assert {part.seed for part in loss.modules() if isinstance(part, Loss)} == {5}
    for loss in wrapped(MNRL(), Spy()):
        assert not loss.class_names  # one of them takes none


def test_a_loss_over_tokens_stands_alone():
    spy = Spy()
    spy.over_tokens = True
    with pytest.raises(ValueError, match=r"Spy cannot stand inside another loss: give it a \[\[data\]\] entry"):
        wrapped(spy)


def test_what_has_another_width_is_not_cut():
    class Reads(TripletLoss):
        def forward(self, embeddings, batch):
            assert batch.extra["words"][0].shape[1] == 3 and batch.extra["layer"][0].shape[1] == 2
            return super().forward(embeddings, batch)

    extra = {"words": tuple(columns(3, width=3)), "layer": tuple(columns(3, width=4))}
    MatryoshkaLoss(Reads(), [2])(columns(3, width=4), Batch(extra=extra))


# ---------------------------------------------------------------- draws


def draws(loss, steps, layers):
    """(layer, dimension) of each step."""
    for step in range(steps):
        names = loss.outputs(step, layers)
        extra = {name: tuple(columns(rows=2)) for name in names}
        yield names, next(loss.inner[0].parts(columns(rows=2), Batch(step=step, extra=extra)))[0]


@pytest.mark.slow
def test_layers_and_dimensions_are_drawn_independently():
    """All 72 pairs of 12 layers and 6 dimensions come, each about as often as another."""
    loss = Matryoshka2dLoss(MNRL(), [8, 7, 6, 5, 4, 3])
    found = Counter(draws(loss, 3000, 12))
    assert len(found) == 72
    mean = 3000 / 72
    assert sum((n - mean) ** 2 / mean for n in found.values()) < 115  # chi squared of 71, of which 0.1% are larger
    assert found == Counter(draws(Matryoshka2dLoss(MNRL(), [8, 7, 6, 5, 4, 3]), 3000, 12))  # as on another rank


def test_draws_depend_on_seed_step_and_name_alone():
    loss = MatryoshkaLoss(MNRL(), [8, 4])
    drawn = [loss.draw("x", step, range(1000), 3) for step in range(20)]
    random.seed(1)
    torch.manual_seed(1)
    assert drawn == [MatryoshkaLoss(MNRL(), [8]).draw("x", step, range(1000), 3) for step in range(20)]
    assert all(len(set(some)) == 3 for some in drawn) and len({tuple(some) for some in drawn}) == 20
    assert drawn != [loss.draw("y", step, range(1000), 3) for step in range(20)]
    loss.set_seed(1)
    assert drawn != [loss.draw("x", step, range(1000), 3) for step in range(20)]
    assert loss.draw("x", 0, [1, 2], -1) == loss.draw("x", 0, [1, 2], 2) == loss.draw("x", 0, [1, 2], 9) == [1, 2]


# ---------------------------------------------------------------- through the model


def test_a_layer_is_the_model_that_ends_behind_it():
    model = tiny_model(encoder={"num_hidden_layers": 3})
    packed = model.tokenizer(sentences(9)).packed()
    outputs = ("layer 2", "layer 0")
    whole, behind_two, behind_none = model([packed], (), outputs)[0]
    torch.testing.assert_close(whole, model([packed])[0][0])
    encoder = model.stack[0]
    torch.testing.assert_close(behind_none, Pooling(16)(encoder.embeddings(packed), packed), atol=1e-6, rtol=0)
    model.keep_layers([0, 1])
    torch.testing.assert_close(behind_two, model([packed])[0][0], atol=1e-6, rtol=0)
    assert isinstance(model.stack, Stack) and model.stack.num_layers == 2
    with pytest.raises(ValueError, match="the output is 'layer 7', known are layer 0, layer 1, layer 2"):
        model([packed], (), ("layer 7",))


LOSSES = {
    "adaptive": (AdaptiveLayerLoss(MNRL(scale=5.0)), Batch()),
    "matryoshka of gist": (MatryoshkaLoss(GISTEmbedLoss(0.2), [16, 8]), Batch(guide=tuple(columns(rows=14)))),
    "2d of cosent": (Matryoshka2dLoss(CoSENTLoss(), [16, 8, 4]), Batch(labels=torch.linspace(0, 1, 14))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_three_phases_are_one_pass(name):
    loss, batch = LOSSES[name]
    gradients = []
    for budget in (0, 40):
        model = tiny_model().double().train()
        texts = [model.tokenizer(sentences(14, seed)).packed() for seed in (1, 2)]
        outputs = loss.outputs(3, model.stack.num_layers)
        objective = Objective(loss, batch._replace(step=3), 1.0, outputs)
        if budget:
            gradcache(lambda part, c: model([part], (), outputs)[0], texts, objective, budget, 0)  # noqa: B023
        else:
            objective(model(texts, (), outputs)).backward()
        gradients.append([objective.value, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)
    assert sum(g.abs().max() > 1e-6 for g in gradients[0]) > 20
