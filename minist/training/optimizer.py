"""AdamW: what is trained, at which rate, with which decay; and the course of the rate over a run."""

import math
import re
from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import AdamW

SCHEDULES: dict[str, Callable[[float], float]] = {  # from the share of the steps behind the warmup to a factor
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,  # Loshchilov and Hutter 2017, arXiv:1608.03983
    "constant": lambda progress: 1.0,
}
SHOWN = 5  # names in an error message

Named = Sequence[tuple[str, nn.Parameter]]  # such as "stack.0.layers.3.qkv.weight" and "loss.classifier.bias"


def make_optimizer(named: Named, lr: float, weight_decay: float, lr_for: dict[str, float], freeze: list[str]) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over the parameters of a model and of its loss.

    `freeze` are regular expressions: parameters in whose name one is found are not trained. `lr_for` gives others a
    rate of their own, {pattern: rate}; where several match the last one counts. Each group has its rate as
    "initial_lr", to be multiplied by `learning_rate` in every step.
    """
    parameters = dict(named)
    assert len(parameters) == len(named), "each name stands for one parameter"
    for name in (name for pattern in freeze for name in find_names(pattern, "freeze", list(parameters))):
        parameters[name].requires_grad_(False)
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    if not trained:
        raise ValueError(f"freeze is {freeze}: that leaves no parameter to train, freeze fewer")
    rates = dict.fromkeys(trained, lr)
    for pattern, rate in lr_for.items():
        rates |= dict.fromkeys(find_names(pattern, "lr_for", list(trained)), float(rate))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        decay = weight_decay if parameter.ndim > 1 else 0.0  # matrices decay, norms and biases do not
        groups.setdefault((rates[name], decay), []).append(parameter)
    tables = [{"params": ps, "lr": r, "initial_lr": r, "weight_decay": decay} for (r, decay), ps in groups.items()]
    return AdamW(tables, betas=(0.9, 0.999), eps=1e-8, fused=True)  # fused: one pass over all weights


def find_names(pattern: str, key: str, names: Sequence[str]) -> list[str]:
    """Those of `names` in which the regular expression is found, at least one. `key`: the setting it comes from."""
    try:
        expression = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{key}: {pattern!r} is no regular expression ({e}); a point that is meant is \\.") from e
    found = [name for name in names if expression.search(name)]
    if not found:
        some = ", ".join(names[:: max(1, len(names) // SHOWN)][:SHOWN])
        raise ValueError(f"{key}: {pattern!r} fits none of the {len(names)} parameters to train, such as {some}")
    return found


def warmup_steps(warmup: float, total: int) -> int:
    """`warmup` below 1 is a share of all steps, from 1 on it is a number of steps."""
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def learning_rate(step: int, total: int, warmup: float, schedule: str) -> float:
    """The factor, 0 to 1, on the rates of step 0, 1, .. total-1: up from 0 during the warmup, then by `schedule`."""
    rising = warmup_steps(warmup, total)
    if step < rising:
        return step / rising
    return SCHEDULES[schedule](min(1.0, (step - rising) / max(1, total - rising)))
