"""AdamW: what is trained, at which rate and decay; the course of the rate over a run; and which steps are not taken."""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from minist.sharding import gathered, is_share

SCHEDULES: dict[str, Callable[[float], float]] = {  # from the share of the steps behind the warmup to a factor
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,  # Loshchilov and Hutter 2017, arXiv:1608.03983
    "constant": lambda progress: 1.0,
}
Named = Sequence[tuple[str, nn.Parameter]]  # such as "stack.0.layers.3.qkv.weight" and "loss.classifier.bias"


def make_optimizer(named: Named, lr: float, weight_decay: float, lr_for: dict[str, float], freeze: list[str]) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over the parameters of a model and of its loss.
    `freeze`: regular expressions, parameters in whose name one is found are not trained. `lr_for`: pattern -> a rate of
    their own, the last that fits. Each group has its "initial_lr", which `learning_rate` multiplies in every step."""
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
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        decay = weight_decay if parameter.ndim > 1 else 0.0  # matrices decay, norms and biases do not
        groups.setdefault((rates[name], decay, is_share(parameter)), []).append(parameter)  # a pass is of one kind
    tables = [{"params": ps, "lr": r, "initial_lr": r, "weight_decay": decay} for (r, decay, _), ps in groups.items()]
    return AdamW(tables, betas=(0.9, 0.999), eps=1e-8, fused=True)  # fused: one pass over all weights


def find_names(pattern: str, key: str, names: Sequence[str]) -> list[str]:
    """Those of `names` in which the regular expression is found, at least one. `key`: the setting it comes from."""
    try:
        expression = re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{key}: {pattern!r} is no regular expression ({e}); a point that is meant is \\.") from e
    found = [name for name in names if expression.search(name)]
    if not found:
        some = ", ".join(names[:: max(1, len(names) // 5)][:5])
        raise ValueError(f"{key}: {pattern!r} fits none of the {len(names)} parameters to train, such as {some}")
    return found


def learning_rate(step: int, total: int, warmup: float, schedule: str) -> float:
    """The factor, 0 to 1, on the rates of step 0, 1, .. total-1: up from 0 during the warmup, then by `schedule`."""
    rising = math.ceil(warmup * total) if warmup < 1 else int(warmup)  # below 1 it is a share of all steps
    if step < rising:
        return step / rising
    return SCHEDULES[schedule](min(1.0, (step - rising) / max(1, total - rising)))


def clip(optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
    """Shorten the gradient of all parameters to the length `limit`, 0 is any. Returns its length before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    kinds = [[p for p in parameters if is_share(p) == kind] for kind in (True, False)]  # torch takes one at a time
    norms = [gathered(nn.utils.get_total_norm([p.grad for p in alike])) for alike in kinds if alike]
    norm: Tensor = torch.stack(norms).norm() if len(norms) > 1 else next(iter(norms), torch.tensor(0.0))
    for alike in kinds:
        nn.utils.clip_grads_with_norm_(alike, limit or math.inf, norm)
    return norm


def check_finite(value: Tensor, norm: Tensor, scaler: torch.amp.GradScaler, where: str) -> None:
    """ValueError if a loss, or the norm of its gradient, is no number. `where` names step and data set."""
    if not math.isfinite(value.item()):
        hint = "try a lower learning rate or another dtype, and look at that data set's rows and labels"
        raise ValueError(f"the loss is {value.item()} at {where}; the weights are still those before it: {hint}")
    # in float16 a gradient may be too large: the scaler leaves that step out and scales less, until it cannot
    if not math.isfinite(norm.item()) and not (scaler.is_enabled() and scaler.get_scale() >= 1):
        raise ValueError(f"the gradient is not finite at {where}, though the loss is: try a lower learning rate")
