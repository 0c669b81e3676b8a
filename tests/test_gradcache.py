"""Three phases against one pass, and against torch's own checkpointing of the same mini-batches."""

import pytest
import torch
from tiny import sentences, tiny_model
from torch.utils.checkpoint import checkpoint

from minist.batch import Batch
from minist.losses import MultipleNegativesRankingLoss
from minist.training.gradcache import gradcache
from minist.training.run import set_dropout

TEXTS = (sentences(14, seed=1), sentences(14, seed=2, longest=20), sentences(14, seed=3))
LOSS = MultipleNegativesRankingLoss(scale=5.0)


def model_and_columns(dtype, dropout=0.0):
    model = tiny_model().to(dtype).train()
    set_dropout(model, dropout, dropout)
    return model, [model.tokenizer(texts).packed() for texts in TEXTS]


def gradients(model, run):
    model.zero_grad()
    value = run()
    return value.detach(), {name: p.grad for name, p in model.named_parameters()}


def three_phases(model, columns, max_tokens, loss=LOSS):
    return gradcache(
        lambda texts, c: model([texts])[0], columns, lambda e: loss([x for (x,) in e], Batch()), max_tokens, seed=7
    )


def one_pass(model, columns, loss=LOSS):
    value = loss([x for (x,) in model(columns)], Batch())
    value.backward()
    return value


@pytest.mark.parametrize("max_tokens", [1, 40, 10**6])
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "tolerance"), [(torch.float32, 1e-6, 1e-5), (torch.float64, 1e-12, 1e-12)]
)
def test_equals_one_pass(dtype, loss_tolerance, tolerance, max_tokens):
    model, columns = model_and_columns(dtype)
    found = gradients(model, lambda: three_phases(model, columns, max_tokens))
    wanted = gradients(model, lambda: one_pass(model, columns))
    torch.testing.assert_close(found[0], wanted[0], atol=loss_tolerance, rtol=0)
    torch.testing.assert_close(found[1], wanted[1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("max_tokens", [30, 10**6])
def test_equals_checkpointing_with_dropout(max_tokens):
    """torch keeps the random state of each mini-batch and runs it again in backward: the same, but inside autograd."""
    model, columns = model_and_columns(torch.float64, dropout=0.3)

    def checkpointed():
        embeddings, number = [], 0
        for column in columns:
            parts = []
            for part in column.split(max_tokens):
                torch.manual_seed(7 + number)
                parts.append(checkpoint(lambda p: model([p])[0][0], part, use_reentrant=False))
                number += 1
            embeddings.append(torch.cat(parts))
        value = LOSS(embeddings, Batch())
        value.backward()
        return value

    found = gradients(model, lambda: three_phases(model, columns, max_tokens))
    wanted = gradients(model, checkpointed)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    without = gradients(model.eval(), lambda: three_phases(model, columns, max_tokens))
    assert abs(without[0] - found[0]) > 1e-3  # the dropout did something


def test_a_rank_without_rows_has_zero_gradients():
    model, columns = model_and_columns(torch.float64)
    none = [column.slice(0, 0) for column in columns]
    value, found = gradients(
        model, lambda: gradcache(lambda t, c: model([t])[0], none, lambda e: e[0][0].sum() + 3, 50, 0)
    )
    assert value == 3
    assert all(torch.equal(g, torch.zeros_like(g)) for g in found.values())


@pytest.mark.parametrize("max_tokens", [40, 10**6])
def test_together_with_layers_that_run_again(max_tokens):
    model, columns = model_and_columns(torch.float64, dropout=0.3)
    wanted = gradients(model, lambda: three_phases(model, columns, max_tokens))
    model.stack[0].checkpoint_layers = True
    found = gradients(model, lambda: three_phases(model, columns, max_tokens))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_frozen_weights():
    """Some of them, and all of the way to the embeddings: then only the loss learns."""
    model, columns = model_and_columns(torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1" in name)
    found = gradients(model, lambda: three_phases(model, columns, 40))
    wanted = gradients(model, lambda: one_pass(model, columns))
    assert found[1]["stack.0.layers.0.qkv.weight"] is None
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)

    model.requires_grad_(False)
    scale = torch.ones(16, dtype=torch.float64, requires_grad=True)

    def scaled(embeddings, batch):
        return LOSS([x * scale for x in embeddings], batch)

    three_phases(model, columns, 40, scaled)
    found, scale.grad = scale.grad, None
    one_pass(model, columns, scaled)
    torch.testing.assert_close(found, scale.grad, atol=1e-12, rtol=0)


def test_a_column_that_the_loss_does_not_use():
    model, columns = model_and_columns(torch.float64)

    def first_two(embeddings, batch):
        return LOSS(embeddings[:2], batch)

    found = gradients(model, lambda: three_phases(model, columns, 40, first_two))
    wanted = gradients(model, lambda: one_pass(model, columns[:2]))
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_the_graph_of_one_mini_batch_is_alive_at_a_time():
    model, columns = model_and_columns(torch.float32)
    sizes = []

    def embed(texts, c):
        sizes.append((texts.input_ids.numel(), torch.is_grad_enabled()))
        return model([texts])[0]

    gradcache(embed, columns, lambda e: LOSS([x for (x,) in e], Batch()), 40, 0)
    assert all(size <= 40 for size, _ in sizes)
    half = len(sizes) // 2
    assert [graph for _, graph in sizes] == [False] * half + [True] * half
