"""Linear layers against torch's own, in every mode they can be in."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minist.encoders import linear as linear_file
from minist.encoders.config import ACTIVATIONS
from minist.encoders.linear import Linear, activated
from minist.modules.lora import LoraLinear, LowRank

FAST = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def layer_and_input(bias=True, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return Linear(32, 50, bias=bias).to(dtype), torch.randn(20, 32).to(dtype)


def in_float(linear, x):
    return F.linear(x.float(), linear.weight.float(), None if linear.bias is None else linear.bias.float())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", [None, "gelu", "gelu_new", "relu"])
def test_bfloat16_without_gradients(act, bias):
    """Sums and activation are of more digits than bfloat16, which rounds but once: 2^-8 of the number."""
    linear, x = layer_and_input(bias)
    function = ACTIVATIONS[act] if act else nn.Identity()
    with torch.inference_mode():
        found = activated(linear, function, x) if act else linear(x)
    assert found.dtype == torch.bfloat16
    once = FAST and act in (None, "gelu") and bias  # else torch's own, which rounds before it goes on
    tolerance = 2**-7.99 if once else 0.02
    torch.testing.assert_close(found.float(), function(in_float(linear, x)), atol=tolerance / 10, rtol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", [None, "gelu", "gelu_new", "relu"])
def test_float32_without_gradients(act, bias):
    """The same numbers as with gradients, but for the order of two additions; the input stays as it was."""
    linear, x = layer_and_input(bias, torch.float32)
    before, function = x.clone(), ACTIVATIONS[act] if act else nn.Identity()
    with torch.inference_mode():
        found = activated(linear, function, x) if act else linear(x)
    torch.testing.assert_close(found, function(F.linear(x, linear.weight, linear.bias)), atol=1e-6, rtol=1e-6)
    assert torch.equal(x, before)


def test_with_lora():
    """The change of the weight is there with an activation, too."""
    linear, x = layer_and_input()
    a, b = torch.randn(4, 32).bfloat16(), torch.randn(50, 4).bfloat16()
    lora = LoraLinear(linear, ["a"], {"a": LowRank(a, b, 4, 0.0)})
    wanted = F.gelu(in_float(linear, x) + x.float() @ (b.float() @ a.float()).T)
    with torch.inference_mode():
        torch.testing.assert_close(activated(lora, F.gelu, x).float(), wanted, atol=0.2, rtol=0.02)
    assert (wanted - F.gelu(in_float(linear, x))).abs().mean() > 1


def test_where_the_bias_goes_into_the_product(monkeypatch):
    """Nowhere that gradients are asked for, or weights are not in bfloat16."""
    product = mock.Mock(wraps=linear_file._at_once)
    monkeypatch.setattr(linear_file, "_at_once", product)
    (linear, x), (plain, y) = layer_and_input(), layer_and_input(dtype=torch.float32)
    linear(x).sum().backward()
    assert linear.weight.grad is not None
    with torch.no_grad():
        plain(y), activated(nn.Linear(32, 50), F.gelu, y)
        with torch.autocast("cpu", torch.bfloat16):  # as GradCache goes through a batch the first time
            assert plain(x).dtype == torch.bfloat16
        assert product.call_count == 0
        linear(x), activated(linear, F.gelu, x), activated(linear, F.relu, x)
    assert [call.args[2] for call in product.call_args_list] == (["none", "gelu", "none"] if FAST else [])
