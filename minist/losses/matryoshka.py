"""MatryoshkaLoss: embeddings of which the first dimensions alone are good ones too."""

import random
from collections.abc import Sequence

from torch import Tensor

from minist.batch import Batch
from minist.losses.base import Loss, total
from minist.similarity import unit


class MatryoshkaLoss(Loss):
    """Another loss at several widths (Kusupati et al. 2022, arXiv:2205.13147).

        loss = sum_d  w_d * L(x[:d] / |x[:d]|)      over the dimensions d and their weights

    Columns and labels are those of the loss L. Labels, and embeddings of a teacher, that are as wide as the
    embeddings are cut with them. `n_dims_per_step` > 0 draws so many of the dimensions anew at each step.
    """

    def __init__(
        self,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        """`matryoshka_weights` None is 1 for each dimension. ValueError for what is not described above."""
        super().__init__()
        dims, weights = list(matryoshka_dims), list(matryoshka_weights or [1.0] * len(matryoshka_dims))
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims):
            raise ValueError(f"matryoshka_dims are {dims}: give different positive numbers")
        if len(weights) != len(dims):
            raise ValueError(f"matryoshka_weights are {len(weights)}, matryoshka_dims {len(dims)}: give as many")
        self.loss, self.n_dims_per_step, self.guide = loss, n_dims_per_step, loss.guide
        self.matryoshka = sorted(zip(dims, weights, strict=True), reverse=True)  # (dimension, weight), widest first

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """What the loss inside wants."""
        return self.loss.outputs(step, num_layers)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Embeddings [N, D] of each column -> one part per dimension, "matryoshka_64" for instance."""
        width = embeddings[0].shape[1]
        if self.matryoshka[0][0] > width:
            raise ValueError(f"matryoshka_dims has {self.matryoshka[0][0]}, the embeddings have {width} dimensions")
        chosen = self.matryoshka
        if 0 < self.n_dims_per_step < len(chosen):
            chosen = random.Random(batch.step).sample(chosen, self.n_dims_per_step)
        parts = {}
        for dim, weight in chosen:
            shrunk = [unit(x[:, :dim]) for x in embeddings]
            value = self.loss(shrunk, self._shrunk(batch, dim, width))
            parts[f"matryoshka_{dim}"] = weight * total(value)
        return parts

    def _shrunk(self, batch: Batch, dim: int, width: int) -> Batch:
        labels, guide = batch.labels, batch.guide
        if labels is not None and labels.ndim > 1 and labels.shape[-1] == width:
            labels = labels[..., :dim]
        if self.guide == "teacher":
            guide = tuple(x[:, :dim] if x.shape[1] == width else x for x in guide)
        extra = batch.extra
        if self.loss.outputs(batch.step, 1):  # layers of its own: they are cut like the embeddings
            extra = {name: tuple(unit(x[:, :dim]) for x in xs) for name, xs in extra.items()}
        return batch._replace(labels=labels, guide=guide, extra=extra)
