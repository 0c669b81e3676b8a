"""Dropout (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html) that a CPU does not wait for.

There torch draws a random number for each that may be dropped, which takes longer than the attention whose weights are
dropped. Here 64 random bits decide for four. On a GPU, and for windows of long texts, the masks are torch's."""

import torch
from torch import Tensor, nn

STEPS = 2**16  # to which the probability is rounded: as many numbers as 16 bits have


class Dropout(nn.Dropout):
    """x -> x with each number 0 by probability p, and else divided by 1 - p; x as it is where nothing is trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p > 0 and x.device.type == "cpu":
            return x * keep(x, self.p)
        return super().forward(x)


def keep(like: Tensor, p: float) -> Tensor:
    """In the shape of `like`, on the CPU: 0 with probability p, else 1 / (1 - p)."""
    drawn = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    sixteen = drawn.view(torch.int16)[: like.numel()].view(like.shape)  # from -STEPS / 2 to STEPS / 2 - 1
    dropped = round(p * STEPS)
    if dropped == STEPS:  # all: the limit below would not fit into 16 bits
        return torch.zeros_like(like)
    kept = torch.ge(sixteen, dropped - STEPS // 2, out=torch.empty_like(like))  # 0 and 1, not by way of bool
    return kept.mul_(STEPS / (STEPS - dropped))


def attention_with_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """As scaled_dot_product_attention, [n, H, L, D/H] -> [n, H, L, D/H], with its weights dropped as above."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)  # [n, H, L, L]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(3)
    return weights * keep(weights, p) @ v
