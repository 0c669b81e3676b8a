"""Dropout (Srivastava et al. 2014, jmlr.org/papers/v15/srivastava14a.html) that a CPU does not wait for.

There torch draws a random number for each that may be dropped. Here 64 bits of a faster generator decide for four. On a
GPU, and in layers with windows where a text is long, the masks are torch's."""

import numpy as np
import torch
from torch import Tensor, nn

STEPS = 2**16  # to which the probability is rounded: as many numbers as 16 bits have


class Dropout(nn.Dropout):
    """x -> x with each number 0 by probability p, and else divided by 1 - p; x as it is where nothing is trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.p > 0 and x.device.type == "cpu":
            return x * keep(x, self.p).mul_(factor(self.p))
        return super().forward(x)


def keep(like: Tensor, p: float) -> Tensor:
    """In the shape of `like`, on the CPU: 0 with probability p, else 1."""
    dropped = round(p * STEPS)
    if dropped == STEPS:  # all: the limit below would not fit into 16 bits
        return torch.zeros_like(like)
    seed = int(torch.randint(2**62, ()))  # torch's seed decides of these too
    drawn = np.random.SFC64(seed).random_raw(-(-like.numel() // 4)).view(np.int16)  # from -STEPS / 2 to STEPS / 2 - 1
    sixteen = torch.from_numpy(drawn[: like.numel()]).view(like.shape)
    return torch.ge(sixteen, dropped - STEPS // 2, out=torch.empty_like(like))  # 0 and 1, not by way of bool


def factor(p: float) -> float:
    """1 / (1 - p) for what is kept, so that a sum stays as it was in the mean; 0 where nothing is."""
    kept = STEPS - round(p * STEPS)
    return STEPS / kept if kept else 0.0
