"""Losses made of other losses: what they share, WeightedSumLoss, and MatryoshkaLoss."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from minist.batch import Batch
from minist.losses.base import Loss, total
from minist.similarity import unit


class Part(NamedTuple):
    """weight * loss(embeddings, batch), one term of a wrapper's sum."""

    name: str  # in the log
    weight: float
    loss: Loss
    embeddings: Sequence[Tensor]
    batch: Batch


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
        self.class_names = all(loss.class_names for loss in losses)  # the labels go to each of them

    def parts(self, embeddings: Sequence[Tensor], batch: Batch) -> Iterator[Part]:
        """The terms of the sum for these embeddings [N, D] of each column."""
        raise NotImplementedError

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        return {name: weight * total(loss(x, b)) for name, weight, loss, x, b in self.parts(embeddings, batch)}

    def check(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        for part in self.parts(embeddings, batch):
            part.loss.check(part.embeddings, part.batch)

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

    def parts(self, embeddings: Sequence[Tensor], batch: Batch) -> Iterator[Part]:
        for i, (loss, weight) in enumerate(zip(self.inner, self.weights, strict=True)):
            yield Part(f"{type(loss).__name__}_{i}", weight, loss, embeddings, batch)  # i: two may be of one class


class MatryoshkaLoss(Wrapper):
    """Another loss at several widths (Kusupati et al. 2022, arXiv:2205.13147).
        loss = sum_d  w_d * L(x[:d] / |x[:d]|)      over the dimensions d and their weights
    Columns and labels are those of the loss L. Labels, and embeddings of a teacher, that are as wide as the
    embeddings are cut with them. `n_dims_per_step` > 0 draws so many of the dimensions anew at each step."""

    def __init__(
        self,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        """`matryoshka_weights` None is 1 for each dimension. ValueError for what is not described above."""
        super().__init__(loss)
        dims, weights = list(matryoshka_dims), list(matryoshka_weights or [1.0] * len(matryoshka_dims))
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims) or len(weights) != len(dims):
            given = f"matryoshka_dims are {dims}, matryoshka_weights {weights}"
            raise ValueError(f"{given}: give different positive numbers, and as many weights")  # equal: same log name
        self.matryoshka = sorted(zip(dims, weights, strict=True), reverse=True)  # (dimension, weight), widest first
        self.n_dims_per_step = n_dims_per_step

    def parts(self, embeddings: Sequence[Tensor], batch: Batch) -> Iterator[Part]:
        width = embeddings[0].shape[1]
        if self.matryoshka[0][0] > width:
            raise ValueError(f"matryoshka_dims has {self.matryoshka[0][0]}, the embeddings have {width} dimensions")
        for dim, weight in self.draw("dimensions", batch.step, self.matryoshka, self.n_dims_per_step):
            cut = [unit(x[:, :dim]) for x in embeddings]  # the first dimensions alone are no longer of length 1
            yield Part(f"matryoshka_{dim}", weight, self.inner[0], cut, self._cut_batch(batch, dim, width))

    def _cut_batch(self, batch: Batch, dim: int, width: int) -> Batch:
        """What is as wide as the embeddings [.., width] is cut like them: it stands for embeddings too."""
        labels, guide = batch.labels, batch.guide
        if labels is not None and labels.ndim > 1 and labels.shape[-1] == width:  # else they are scores, or classes
            labels = labels[..., :dim]
        if self.guide == "teacher":  # a guide only says who is similar, which it says best with all its dimensions
            guide = tuple(x[:, :dim] if x.shape[1] == width else x for x in guide)
        extra = {k: tuple(unit(x[:, :dim]) if x.shape[1] == width else x for x in xs) for k, xs in batch.extra.items()}
        return batch._replace(labels=labels, guide=guide, extra=extra)
