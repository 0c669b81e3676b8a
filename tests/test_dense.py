"""Dense, Normalize and the activation functions of encoders against numpy."""

import math

import numpy as np
import pytest
import torch

from minist.encoders import activations
from minist.modules.dense import ACTIVATIONS, Dense, Normalize

DEFINITIONS = {
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_dense(name, bias):
    dense = Dense(5, 3, bias, name).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    linear = x.numpy() @ dense.linear.weight.detach().numpy().T
    if bias:
        linear = linear + dense.linear.bias.detach().numpy()
    expected = DEFINITIONS[name.split(".")[-1]](linear)
    np.testing.assert_allclose(dense(x).detach().numpy(), expected, atol=1e-12, rtol=0)
    assert dense.out_width == 3
    assert (dense.linear.bias is not None) == bias


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation_function is 'os\.system', known are .*Tanh"):
        Dense(2, 2, True, "os.system")


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
