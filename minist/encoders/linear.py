"""A linear layer that adds its bias in the fastest way, where torch's own is slow: without gradients on a CPU.

There torch first copies the bias to every row of the output, and adds the product to it. In bfloat16 oneDNN, which
multiplies for torch, can add the bias to each sum as it is ready, and take its gelu too: one saves a twentieth of
encoding's time, the other a seventh. In float32 it is faster to add the bias, and to take gelu, in the product's place:
together about a twentieth with AVX-512, nothing with AVX2."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """x W^T + b, [.., in] -> [.., out]. Tools that look for exactly torch's own class pass it by."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_slow(self, x):
            return super().forward(x)
        return _at_once(self, x, "none") if x.dtype == torch.bfloat16 else (x @ self.weight.T).add_(self.bias)


def activated(linear: nn.Module, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """act(linear(x)), [.., in] -> [.., out]. Without gradients a hook on `linear` sees both, or nothing."""
    if act is not F.gelu or torch.is_grad_enabled():
        return act(linear(x))
    if type(linear) is Linear and x.dtype == torch.bfloat16 and _is_slow(linear, x):  # no LoRA, nor int8
        return _at_once(linear, x, "gelu")
    return torch.ops.aten.gelu_(linear(x))


def _is_slow(linear: Linear, x: Tensor) -> bool:
    """Whether torch's own layer is: on a CPU, without gradients, in numbers that the faster way is for."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or linear.bias is None:
        return False
    if x.dtype != torch.bfloat16:
        return x.dtype == torch.float32
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _at_once(linear: Linear, x: Tensor, act: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, act, [], "none")
