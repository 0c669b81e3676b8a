"""Losses made of other losses: what they share, and WeightedSumLoss."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from minist.batch import Batch
from minist.losses.base import Loss, Tensors, total

Part = tuple[str, float, Loss, Tensors, Batch]  # weight * loss(embeddings, batch), and its name in the log


class Wrapper(Loss):
    """loss = sum of its `parts`. It takes, and asks for, what the losses inside do."""

    def __init__(self, *losses: Loss) -> None:
        super().__init__()
        guides = {loss.guide for loss in losses} - {""}
        if len(guides) > 1:
            raise ValueError("one of the losses wants a guide, another a teacher: a batch has one of them")
        for name in [type(loss).__name__ for loss in losses if loss.over_tokens]:  # it takes a model, not embeddings
            raise ValueError(f"{name} cannot stand inside another loss: give it a [[data]] entry of its own")
        self.inner, self.losses = losses, nn.ModuleList(losses)  # the list makes their weights ours
        self.columns, self.labels, self.guide = losses[0].columns, losses[0].labels, "".join(guides)
        self.negatives = None if any(loss.negatives is None for loss in losses) else 0
        self.class_names = all(loss.class_names for loss in losses)  # the labels go to each of them

    def parts(self, embeddings: Tensors, batch: Batch) -> Iterator[Part]:
        """The terms of the sum for these embeddings."""
        raise NotImplementedError

    def forward(self, embeddings: Tensors, batch: Batch) -> dict[str, Tensor]:
        return {name: weight * total(loss(x, b)) for name, weight, loss, x, b in self.parts(embeddings, batch)}

    def check(self, embeddings: Tensors, batch: Batch) -> None:
        for _, _, loss, x, b in self.parts(embeddings, batch):
            loss.check(x, b)

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        wanted = [name for loss in self.inner for name in loss.outputs(step, num_layers)]
        return tuple(dict.fromkeys(wanted))  # each once: two losses may want the same layer

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        for loss in self.inner:
            loss.attach(model, roles, checkpoint)


class WeightedSumLoss(Wrapper):
    """loss = sum_k  w_k * L_k, of the same columns and labels. `weights` None is 1 for each."""

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        weights = list(weights or [1.0] * len(losses))
        if not losses or len(weights) != len(losses):
            raise ValueError(f"there are {len(losses)} losses and {len(weights)} weights: give as many")
        super().__init__(*losses)
        self.weights = weights

    def parts(self, embeddings: Tensors, batch: Batch) -> Iterator[Part]:
        for i, (loss, weight) in enumerate(zip(self.inner, self.weights, strict=True)):
            yield f"{type(loss).__name__}_{i}", weight, loss, embeddings, batch  # i: two may be of one class
