"""AdamW, its parameter groups, and the learning rate of each step."""

import math

import torch
from torch import nn

SCHEDULES = ("linear", "cosine", "constant")


def make_optimizer(parts: list[nn.Module], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over all parameters of `parts`.

    Matrices decay; norms and biases, which have one dimension, do not.
    """
    parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True)


def warmup_steps(warmup: float, total: int) -> int:
    """`warmup` below 1 is a share of all steps, from 1 on it is a number of steps."""
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def learning_rate(step: int, total: int, lr: float, warmup: int, schedule: str) -> float:
    """The rate of step 0, 1, .. total-1: up from 0 during `warmup` steps, then by `schedule` towards 0."""
    if step < warmup:
        return lr * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    factors = {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "constant": 1.0}
    return lr * factors[schedule]
