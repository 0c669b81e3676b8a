"""Losses round other losses beside the real ones: the same model, layers and widths, fresh texts, all gradients.

Once in double precision with large weights, where both must agree to rounding; once as people run it.
"""

import random

import pytest
import torch
from models import DATA
from sentence_transformers import SentenceTransformer as Real
from sentence_transformers.sentence_transformer import losses as real
from torch import nn

from minist import Batch, SentenceTransformer, losses
from minist.encoders.weights import checkpoint_names
from minist.training.run import set_dropout
from minist.training.step import Objective

WORDS = "the cat sat on mat quiz zebra a b sat. read, write 7 ?".split()  # noqa: SIM905
DIMS, WEIGHTS = [16, 8, 3], [1.0, 0.5, 2.0]
LAYERS = {"last_layer_weight": 1.5, "prior_layers_weight": 0.7, "kl_div_weight": 0.4, "kl_temperature": 0.3}


def inner(name, library, model):
    """The loss inside, number of columns, and labels of 8 rows; `model` is () for ours."""
    if name == "mnrl":
        return library.MultipleNegativesRankingLoss(*model), 3, None
    if name == "triplet":
        return library.TripletLoss(*model), 3, None
    return library.CoSENTLoss(*model), 2, torch.linspace(0, 1, 8)


WRAPPERS = {
    "matryoshka": lambda library, model, loss: library.MatryoshkaLoss(*model, loss, DIMS, WEIGHTS),
    "layers": lambda library, model, loss: library.AdaptiveLayerLoss(*model, loss, -1, **LAYERS),
    "log layers": lambda library, model, loss: library.AdaptiveLayerLoss(
        *model, loss, -1, **LAYERS, layer_weighting="log"
    ),
    "2d": lambda library, model, loss: library.Matryoshka2dLoss(
        *model, loss, DIMS, WEIGHTS, n_layers_per_step=-1, n_dims_per_step=-1, **LAYERS
    ),
}


def prepare(model: nn.Module, dtype: torch.dtype) -> None:
    """No dropout; in double precision with larger weights, since the checkpoint's make all texts nearly the same."""
    model.train().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for parameter in model.parameters():
        if parameter.dim() > 1 and dtype == torch.float64:
            parameter.data *= 10


def our_step(wrapper, name, texts, dtype):
    """Value, and gradients by the names of the checkpoint."""
    model = SentenceTransformer(DATA / "enc" / "bert", device="cpu")
    prepare(model, dtype)
    set_dropout(model, 0.0, 0.0)
    loss, columns, labels = inner(name, losses, ())
    loss = WRAPPERS[wrapper](losses, (), loss)
    outputs = loss.outputs(0, model.stack.num_layers)
    packed = [model.tokenizer(column).packed() for column in texts[:columns]]
    value = Objective(loss, Batch(labels=labels), 1.0, outputs)(model(packed, (), outputs))
    value.backward()
    gradients, encoder = {}, model.stack[0]
    for ours, parameter in encoder.named_parameters():
        names = checkpoint_names(ours, encoder.weights)
        gradients |= dict(zip(names, parameter.grad.chunk(len(names)), strict=True))
    return value.detach(), gradients


def their_step(wrapper, name, texts, dtype):
    model = Real(str(DATA / "enc" / "bert"), device="cpu")
    prepare(model, dtype)
    bert = model[0].auto_model
    bert.set_attn_implementation("eager")
    bert.config.attention_probs_dropout_prob = 0.0
    loss, columns, labels = inner(name, real, (model,))
    features = [model.preprocess(column) for column in texts[:columns]]
    value = WRAPPERS[wrapper](real, (model,), loss)(features, labels)
    value.backward()
    return value.detach(), {name: p.grad for name, p in bert.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", ["mnrl", "triplet", "cosent"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_value_and_gradients(wrapper, name, dtype, tolerance):
    draw = random.Random()  # other texts in every run
    texts = [[" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(8)] for _ in range(3)]
    found, gradients = our_step(wrapper, name, texts, dtype)
    wanted, theirs = their_step(wrapper, name, texts, dtype)
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    assert gradients.keys() == theirs.keys() and len(theirs) > 30
    scale = max(gradient.abs().max().item() for gradient in theirs.values())
    assert scale > 1e-2
    for key, gradient in theirs.items():
        torch.testing.assert_close(gradients[key] / scale, gradient / scale, atol=tolerance, rtol=0)
