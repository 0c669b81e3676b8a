"""Dense, its residual, Normalize, LayerNorm, Dropout and the activation functions of encoders against numpy."""

import math

import numpy as np
import pytest
import torch

from minist.encoders import config as activations
from minist.modules.dense import ACTIVATIONS, Dense, Dropout, LayerNorm, Normalize

DEFINITIONS = {
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def spelled(name):
    return f"torch.nn.modules.{'linear' if name == 'Identity' else 'activation'}.{name}"


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_dense(name, bias):
    dense = Dense(5, 3, bias, spelled(name)).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    linear = x.numpy() @ dense.linear.weight.detach().numpy().T
    if bias:
        linear = linear + dense.linear.bias.detach().numpy()
    expected = DEFINITIONS[name](linear)
    np.testing.assert_allclose(dense(x).detach().numpy(), expected, atol=1e-12, rtol=0)
    assert dense.out_width == 3
    assert (dense.linear.bias is not None) == bias


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")  # torch asks softmax for the axis; it is the last here
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_takes_the_output_of_the_layer(name):
    dense = Dense(5, 3, True, name).eval()
    x = torch.randn(4, 5)
    torch.testing.assert_close(dense(x), dense.activation_function(dense.linear(x)))
    assert dense(x).shape == (4, 3)


@pytest.mark.parametrize("width", [5, 3])
def test_residual(width):
    dense = Dense(5, width, residual=True).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    rest = x if width == 5 else x @ dense.residual.weight.T
    expected = np.tanh(dense.linear(x).detach().numpy()) + rest.detach().numpy()
    np.testing.assert_allclose(dense(x).detach().numpy(), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["os.system", "torch.nn.modules.linear.Linear", "torch.nn.modules.activation.GLU"])
def test_unknown_activation(name):
    with pytest.raises(ValueError, match=rf"activation_function is '{name}', known are .*Tanh"):
        Dense(2, 2, True, name)


def test_layer_norm():
    norm, x = LayerNorm(6).double(), torch.randn(4, 6, dtype=torch.float64)
    norm.norm.weight.data.uniform_(1, 2)
    norm.norm.bias.data.uniform_(-1, 1)
    centered = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), centered * norm.norm.weight + norm.norm.bias, atol=1e-12, rtol=0)


def test_dropout():
    x = torch.ones(50, 50)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert set(Dropout(0.5).train()(x).unique().tolist()) == {0.0, 2.0}


def test_normalize():
    found = Normalize()(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
def test_activations_of_encoders(name):
    def tanh_gelu(x):
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    exact = {"gelu": DEFINITIONS["GELU"], "relu": DEFINITIONS["ReLU"]} | dict.fromkeys(
        ("silu", "swish"), DEFINITIONS["SiLU"]
    )
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    found = activations.activation(name)(x).numpy()
    np.testing.assert_allclose(found, exact.get(name, tanh_gelu)(x.numpy()), atol=1e-12, rtol=0)
