"""MatryoshkaLoss: embeddings of which the first dimensions alone are good ones too."""

from collections.abc import Iterator, Sequence

from minist.batch import Batch
from minist.losses.base import Loss, Tensors
from minist.losses.wrapper import Part, Wrapper
from minist.similarity import unit


class MatryoshkaLoss(Wrapper):
    """Another loss L, with its columns and labels, at several widths (Kusupati et al. 2022, arXiv:2205.13147):
        loss = sum_d  w_d * L(x[:d] / |x[:d]|)      over the dimensions d and their weights, or 1 each
    `n_dims_per_step` > 0 draws so many of the dimensions anew at each step."""

    def __init__(
        self,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(loss)
        dims, weights = list(matryoshka_dims), list(matryoshka_weights or [1.0] * len(matryoshka_dims))
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims) or len(weights) != len(dims):
            given = f"matryoshka_dims are {dims}, matryoshka_weights {weights}"
            raise ValueError(f"{given}: give different positive numbers, and as many weights")  # equal: same log name
        self.matryoshka = sorted(zip(dims, weights, strict=True), reverse=True)  # (dimension, weight), widest first
        self.n_dims_per_step = n_dims_per_step

    def parts(self, embeddings: Tensors, batch: Batch) -> Iterator[Part]:
        width = embeddings[0].shape[1]
        if self.matryoshka[0][0] > width:
            raise ValueError(f"matryoshka_dims has {self.matryoshka[0][0]}, the embeddings have {width} dimensions")
        for dim, weight in self.draw("dimensions", batch.step, self.matryoshka, self.n_dims_per_step):
            cut = [unit(x[:, :dim]) for x in embeddings]  # the first dimensions alone are no longer of length 1
            yield f"matryoshka_{dim}", weight, self.inner[0], cut, self._cut_batch(batch, dim, width)

    def _cut_batch(self, batch: Batch, dim: int, width: int) -> Batch:
        """What is as wide as the embeddings [.., width] is cut like them: it stands for embeddings too."""
        labels, guide = batch.labels, batch.guide
        if labels is not None and labels.ndim > 1 and labels.shape[-1] == width:  # else they are scores, or classes
            labels = labels[..., :dim]
        if self.guide == "teacher":  # a guide only says who is similar, which it says best with all its dimensions
            guide = tuple(x[:, :dim] if x.shape[1] == width else x for x in guide)
        extra = {k: tuple(unit(x[:, :dim]) if x.shape[1] == width else x for x in xs) for k, xs in batch.extra.items()}
        return batch._replace(labels=labels, guide=guide, extra=extra)
