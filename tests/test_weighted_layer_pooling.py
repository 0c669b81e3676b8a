"""WeightedLayerPooling against its formula, and models that have one."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import sentences, tiny_model

from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import WeightedLayerPooling
from minist.modules.pooling import Pooling

TEXTS = sentences(8, seed=3)


def states(layers, width=4):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(5, width, dtype=torch.float64, generator=draw) for _ in range(layers + 1)]


def weighted(layers, first, width=4):
    """With weights that differ, one of them negative."""
    module = WeightedLayerPooling(width, layers, first).double()
    module.layer_weights.data = torch.tensor([0.5, -0.2, 2.0, 0.7, 1.1, 0.3])[: layers + 1 - first].double()
    return module


@pytest.mark.parametrize(("layers", "first"), [(5, 0), (5, 2), (5, 4), (5, 5), (0, 0)])
def test_equals_its_formula(layers, first):
    module, hidden = weighted(layers, first), states(layers)
    weights = module.layer_weights.detach().numpy()
    stacked = np.stack(hidden)[first:]  # [layers, T, D]
    expected = (weights[:, None, None] * stacked).sum(0) / weights.sum()
    np.testing.assert_allclose(module(hidden).detach().numpy(), expected, atol=1e-14, rtol=0)


def test_starts_as_the_plain_average_of_the_last_layers():
    module, hidden = WeightedLayerPooling(4, 6).double(), states(6)
    assert module.first_layer == 4
    assert module.layer_weights.tolist() == [1, 1, 1]
    torch.testing.assert_close(module(hidden), (hidden[4] + hidden[5] + hidden[6]) / 3, atol=1e-14, rtol=0)


def test_takes_a_generator():
    module, hidden = weighted(3, 1), states(3)
    assert torch.equal(module(x for x in hidden), module(hidden))


@pytest.mark.parametrize("first", [-1, 3, 12])
def test_no_layer_is_left(first):
    with pytest.raises(ValueError, match=f"layer_start is {first}: use a number at least 0 and at most 2"):
        WeightedLayerPooling(4, 2, first)


def test_gradient():
    module, hidden = weighted(3, 1), [x.requires_grad_() for x in states(3)]

    def run(weights, *layers):
        return torch.func.functional_call(module, {"layer_weights": weights}, (layers,))

    torch.autograd.gradcheck(run, (module.layer_weights, *hidden))
    module(hidden).square().sum().backward()
    assert all(module.layer_weights.grad.abs() > 1e-3)
    assert hidden[0].grad is None and all(x.grad.any() for x in hidden[1:])


# ---------------------------------------------------------------- models


@pytest.fixture
def model():
    model = tiny_model()
    layers = WeightedLayerPooling(16, 2, 1)
    layers.layer_weights.data = torch.tensor([0.4, 1.3])
    return SentenceTransformer.from_modules([model.stack[0], layers, Pooling(16)], model.tokenizer).eval()


def test_model(model):
    tokens = model.tokenizer(TEXTS).packed()
    _, middle, end = model.stack[0].hidden_states(tokens)
    expected = Pooling(16)((0.4 * middle + 1.3 * end) / 1.7, tokens)
    torch.testing.assert_close(model.encode(TEXTS, convert_to_tensor=True), expected, atol=1e-5, rtol=0)
    model([tokens])[0][0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.stack[1].parameters())
    with pytest.raises(ValueError, match="keep_layers needs a model with an encoder, and without WeightedLayerPooling"):
        model.keep_layers([0])


def test_saved_and_read_again(model, tmp_path):
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    assert torch.equal(loaded.encode(TEXTS, convert_to_tensor=True), model.encode(TEXTS, convert_to_tensor=True))
    assert json.loads((tmp_path / "m/config.json").read_text())["output_hidden_states"] is True
    folder = tmp_path / "m/1_WeightedLayerPooling"
    about = {"word_embedding_dimension": 16, "num_hidden_layers": 2, "layer_start": 1}
    assert json.loads((folder / "config.json").read_text()) == about
    assert load_file(folder / "model.safetensors")["layer_weights"].tolist() == model.stack[1].layer_weights.tolist()
    renamed = {"embedding_dimension": 16, "num_hidden_layers": 2, "layer_start": 1}  # as version 6 spells it
    (folder / "config.json").write_text(json.dumps(renamed))
    again = SentenceTransformer(tmp_path / "m")
    assert torch.equal(again.encode(TEXTS, convert_to_tensor=True), model.encode(TEXTS, convert_to_tensor=True))


def test_other_models_do_not_ask_for_all_layers(tmp_path):
    tiny_model().save(tmp_path / "m")
    assert "output_hidden_states" not in json.loads((tmp_path / "m/config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_start": 0}, r"layer_weights is \[2\], by its config\.json it has shape \[3\]"),
        ({"layer_start": 3}, "layer_start is 3: use a number at least 0 and at most 2"),
        ({"num_hidden_layers": 3, "layer_start": 2}, r"modules\.json: .* is made for 3 layers, not 2"),
        ({"word_embedding_dimension": 8}, r"modules\.json: WeightedLayerPooling takes vectors of width 8, but gets 16"),
        ({"layer_start": None}, r"config\.json: layer_start is None: use a number"),
    ],
)
def test_a_folder_that_contradicts_itself(model, tmp_path, change, message):
    model.save(tmp_path / "m")
    file = tmp_path / "m/1_WeightedLayerPooling/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(tmp_path / "m")
