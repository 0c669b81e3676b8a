"""One model of several that were trained from the same one: its weights lie between theirs.

Models that went different ways from the same start are often better in the middle than each is alone, and no slower:
Wortsman et al. 2022, "Model soups", arXiv:2203.05482. Of weights a and b, flattened, with the share t of b:

    average   (1 - t) a + t b
    slerp     sin((1 - t) o) / sin(o) a  +  sin(t o) / sin(o) b,    o the angle of a and b (Shoemake 1985)

An average of two directions is shorter than both; slerp stays on the arc from one to the other. Of more than two models
the third joins what the first two made, with its share of the three, and so on: for averages the order is no matter."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minist.checks import number, pick
from minist.models.text_model import TextModel

FREE = ("dropout", "initializer_range")  # parts of the names of settings that matter to a training alone


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    x, y = a.flatten().double(), b.flatten().double()
    angle = (x @ y / (x.norm() * y.norm())).clamp(-1, 1).acos()
    if not angle.sin() > 1e-6:  # the same direction, the opposite one, or none: there is no arc, or no single one
        return torch.lerp(a, b, t)
    return (((1 - t) * angle).sin() / angle.sin() * a.double() + (t * angle).sin() / angle.sin() * b.double()).to(a)


METHODS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"average": torch.lerp, "slerp": slerp}


@torch.no_grad()
def merge(models: Iterable[TextModel], weights: Sequence[float], method: str = "average") -> TextModel:
    """The first of `models`, with its prompts and settings and the weights of all, each by its share of the sum of
    `weights`. No more than two are looked at together: they may be opened as they are asked for. ValueError for another
    kind of model, other settings or words, or a weight of another name or shape."""
    between = pick("the method of merging", method, METHODS)
    shares = [number("a weight of merging", weight, 0) for weight in weights]
    if not sum(shares):
        raise ValueError("the weights of merging are all 0: use one above 0")
    rest = zip(shares, models, strict=True)
    total, first = next(rest)
    first.refuse_int8("merged")  # its linear layers are no part of its state
    first.merge_adapter()
    found = {name: x.clone() for name, x in first.state_dict().items()}
    for share, model in rest:
        model.refuse_int8("merged")
        model.merge_adapter()
        check_alike(first, model)
        total += share
        for name, x in model.state_dict().items():
            if share and x.is_floating_point():
                found[name] = between(found[name], x, share / total)
    first.load_state_dict(found)
    return first


def check_alike(first: TextModel, other: TextModel) -> None:
    """ValueError names the first thing in which `other` is built otherwise: a middle of the two would mean nothing."""
    one, two = ([of, *of.stack] for of in (first, other))
    kinds = [", ".join(type(part).__name__ for part in parts) for parts in (one, two)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"a model of {kinds[0]} and one of {kinds[1]} have no middle: merge models of one kind")
    of_first, of_other = (dict(features(of)) for of in (first, other))
    for name in [*of_first, *of_other]:
        if of_first.get(name) != of_other.get(name):
            given = [of.get(name, "missing") for of in (of_first, of_other)]
            raise ValueError(f"{name} is {given[0]} in the first model, and {given[1]} in another: they have no middle")
    for route, tokenizer in first.tokenizers.items():
        if tokenizer.backend.get_vocab() != other.tokenizers[route].backend.get_vocab():
            raise ValueError("two models have other tokens: a row of the one's words is another word in the other")


def features(model: TextModel) -> Iterable[tuple[str, Any]]:
    """The shape of each weight, and the settings of each module that decide what its weights do."""
    yield from ((f"the weight {name}", list(x.shape)) for name, x in model.state_dict().items())
    parts: Iterable[Any] = model.stack
    for part in parts:
        config = part.to_folder()[0].items()
        yield from ((f"{key} of {part.name}", v) for key, v in config if not any(free in key for free in FREE))
