"""Learning to rank from pairs of documents: RankNet, LambdaRank and the LambdaLoss framework that holds both.

Burges et al. 2005, doi:10.1145/1102351.1102363; Burges et al. 2006, NeurIPS; Wang et al. 2018, doi:10.1145/3269206.3271784

"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
import math
from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.cross_encoder.base import ListLoss

LOGARITHMS = {"binary": math.log(2), "natural": 1.0}  # of the base


class WeightingScheme(nn.Module):
    """How much each pair of documents counts.

    all_pairs says that every two documents count, and not only those with y_i > y_j.
    """

    all_pairs = False

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        """G [lists, n] and D [n], documents in the model's order -> w, which broadcasts to [lists, n, n]."""
        raise NotImplementedError


class NoWeightingScheme(WeightingScheme):
    """All pairs alike: w_ij = 1. That is RankNet."""

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return gains.new_ones(1, 1, 1)


class NDCGLoss1Scheme(WeightingScheme):
    """w_ij = G_i / D_i."""

    all_pairs = True

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return (gains / discounts)[:, :, None]


class NDCGLoss2Scheme(WeightingScheme):
    """w_ij = |1 / D_d - 1 / D_(d+1)| * |G_i - G_j|,  d = |i - j|."""

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        ranks = torch.arange(len(discounts), device=gains.device)
        apart = (ranks[:, None] - ranks).abs()  # d [n, n]
        # rank d is at d - 1; for d = 0 that is the last one, which does no harm: a document's gain equals its own
        steps = 1 / discounts[apart - 1] - 1 / discounts[apart]
        return steps.abs() * gaps(gains).abs()


class LambdaRankScheme(WeightingScheme):
    """w_ij = |1 / D_i - 1 / D_j| * |G_i - G_j|."""

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return gaps(1 / discounts).abs() * gaps(gains).abs()


class NDCGLoss2PPScheme(WeightingScheme):
    """w_ij = mu * NDCGLoss2 + LambdaRank."""

    def __init__(self, mu: float = 10.0) -> None:
        super().__init__()
        self.mu = number("mu", mu, least=0)
        self.by_distance, self.by_rank = NDCGLoss2Scheme(), LambdaRankScheme()

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return self.mu * self.by_distance(gains, discounts) + self.by_rank(gains, discounts)


SCHEMES = {
    kind.__name__: kind
    for kind in (NoWeightingScheme, NDCGLoss1Scheme, NDCGLoss2Scheme, LambdaRankScheme, NDCGLoss2PPScheme)
}


class LambdaLoss(ListLoss):
    """x"""

    def __init__(
        self,
        weighting_scheme: str | WeightingScheme = "NDCGLoss2PPScheme",
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: str = "binary",
        activation_fn: str | nn.Module = "Identity",
    ) -> None:
        super().__init__(activation_fn)
        made = isinstance(weighting_scheme, WeightingScheme)
        self.weighting_scheme = weighting_scheme if made else pick("weighting_scheme", weighting_scheme, SCHEMES)()
        self.k = None if k is None else number("k", k, least=1)
        self.sigma, self.eps = number("sigma", sigma, above=0), number("eps", eps, above=0)
        self.log_of_base = pick("reduction_log", reduction_log, LOGARITHMS)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        scores, labels, there = self.lists(embeddings, batch)
        # the model's order: of equal scores the first given first, and cells without a document last
        order = scores.masked_fill(~there, float("-inf")).argsort(dim=1, descending=True, stable=True)
        scores, labels, there = (x.gather(1, order) for x in (scores, labels, there))
        discounts = torch.arange(2, 2 + scores.shape[1]).to(scores).log2()  # of ranks 1 .. n
        pairs = self._pairs(labels, there)
        weights = self.weighting_scheme(self._gains(labels, discounts), discounts).expand_as(pairs)
        losses = -weights[pairs] * F.logsigmoid(self.sigma * gaps(scores)[pairs])  # of what counts only, [pairs]
        return losses.sum() / (max(len(losses), 1) * self.log_of_base)

    def _pairs(self, labels: Tensor, there: Tensor) -> Tensor:
        """Which pairs (i, j) count, [rows, n, n]."""
        counts = there[:, :, None] & there[:, None, :]
        if not self.weighting_scheme.all_pairs:
            counts = counts & (gaps(labels) > 0)
        first = torch.arange(labels.shape[1], device=labels.device) < (self.k or labels.shape[1])
        return counts & (first[:, None] | first)

    def _gains(self, labels: Tensor, discounts: Tensor) -> Tensor:
        """G of each document, [rows, n]."""
        labels = labels.clamp(min=0)  # 0, also the label of a cell without a document, gains 2^0 - 1 = 0
        top = labels.amax(1, keepdim=True)
        gains = torch.exp2(labels - top) - torch.exp2(-top)  # 2^y - 1 over 2^top: 2^200 would be too large, and the
        best = gains.sort(1, descending=True).values / discounts  # factor falls out of the ratio
        return gains / best[:, : self.k].sum(1, keepdim=True).clamp(min=self.eps)


class RankNetLoss(LambdaLoss):
    """x"""

    def __init__(
        self,
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: str = "binary",
        activation_fn: str | nn.Module = "Identity",
    ) -> None:
        super().__init__("NoWeightingScheme", k, sigma, eps, reduction_log, activation_fn)


def gaps(x: Tensor) -> Tensor:
    """x_i - x_j of all i, j, [.., n] -> [.., n, n]."""
    return x[..., :, None] - x[..., None, :]
