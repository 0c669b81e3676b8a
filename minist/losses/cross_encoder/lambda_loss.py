"""Learning to rank from pairs of documents: RankNet, LambdaRank, and LambdaLoss, the framework that holds both.

Which pairs count. Four documents of a query in the model's order, best score first, with labels y, and k = 2:

    rank i   y        j = 1   2   3   4
      1      0            .   .   .   .      x  y_i > y_j: i should be above j
      2      3            x   .   x   x
    ---------- k                             -  likewise, but neither is among the first k
      3      1            x   .   .   -
      4      0            .   .   .   .

What a pair costs. With scores s, next to nothing if s_i is well above s_j, and the more the farther it is below:

    loss_ij = w_ij log( 1 + exp(-sigma (s_i - s_j)) )

Its gradient pushes i up and j down with the same force, lambda_ij = w_ij sigma sigmoid(-sigma (s_i - s_j)), which gave
the family its name. A pair in the wrong order has a force near w_ij sigma, one in the right order hardly any.

How much it counts. What is to be raised is nDCG, the sum of G_i / D_i over the first k documents:

    G_i = (2^y_i - 1) / maxDCG     the gain of document i; with the documents in the best order the sum is 1
    D_i = log2(1 + i)              the discount of rank i: 1, 1.58, 2, 2.32 ..

It stays the same until two documents change places, and so has no gradient to follow. But it tells which pairs matter,
and that is w_ij, which is a number here: no gradient goes through it. The four pairs of the drawing, (i, j):

    scheme         w_ij                                             (2,1)   (2,3)   (2,4)   (3,1)
    NoWeighting    1                                                1.00    1.00    1.00    1.00
    LambdaRank     |G_i - G_j| |1/D_i - 1/D_j|                      0.34    0.10    0.18    0.07
    NDCGLoss2      |G_i - G_j| |1/D_d - 1/D_(d+1)|,  d = |i - j|    0.34    0.29    0.12    0.02
    NDCGLoss2PP    mu NDCGLoss2 + LambdaRank,  mu = 10              3.72    3.00    1.38    0.24
    NDCGLoss1      G_i / D_i                                        0.58    0.58    0.58    0.07

RankNet: Burges et al. 2005, doi:10.1145/1102351.1102363. LambdaRank: Burges et al. 2006, NeurIPS, and Burges 2010,
MSR-TR-2010-82. LambdaLoss, and the other schemes: Wang et al. 2018, doi:10.1145/3269206.3271784."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Tensors
from minist.losses.cross_encoder.base import ListLoss


class WeightingScheme(nn.Module):
    """How much each pair of documents counts. A subclass, also one of your own, has forward(gains, discounts): from
    G [rows, n] and D [n], documents in the model's order, it gives w that broadcasts to [rows, n, n], at [.., i, j]."""

    all_pairs = False  # whether every i and j count, and not only those with y_i > y_j


class NoWeightingScheme(WeightingScheme):
    """The number of pairs in the wrong order goes down, wherever in the list they are."""

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return gains.new_ones(1, 1, 1)


class LambdaRankScheme(WeightingScheme):
    """By how much nDCG would change if i and j changed places."""

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return gaps(gains).abs() * gaps(1 / discounts).abs()


class NDCGLoss2Scheme(WeightingScheme):
    """A tighter bound on nDCG than NDCGLoss1: neighbours matter most, wherever in the list they are."""

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        apart = gaps(torch.arange(len(discounts), device=gains.device)).abs()  # d [n, n]
        # rank d is at d - 1; for d = 0 that is the last one, which does no harm: a document's gain equals its own
        return gaps(gains).abs() * (1 / discounts[apart - 1] - 1 / discounts[apart]).abs()


class NDCGLoss2PPScheme(WeightingScheme):
    """Both together, what is near and what is at the top: the best of the paper."""

    def __init__(self, mu: float = 10.0) -> None:
        super().__init__()
        self.mu, self.by_distance, self.by_rank = number("mu", mu, least=0), NDCGLoss2Scheme(), LambdaRankScheme()

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return self.mu * self.by_distance(gains, discounts) + self.by_rank(gains, discounts)


class NDCGLoss1Scheme(WeightingScheme):
    """The loosest of the bounds on nDCG here, kept for comparison: a good document is pushed above all others, also
    above better ones. It is even paired with itself, which has no gradient, but counts in the mean."""

    all_pairs = True

    def forward(self, gains: Tensor, discounts: Tensor) -> Tensor:
        return (gains / discounts)[:, :, None]


KINDS = (NoWeightingScheme, NDCGLoss1Scheme, NDCGLoss2Scheme, LambdaRankScheme, NDCGLoss2PPScheme)
SCHEMES = {kind.__name__: kind for kind in KINDS}


class LambdaLoss(ListLoss):
    """A document shall be above those with smaller labels, above all where nDCG gains by it (Wang et al. 2018). Labels
    below 0 gain nothing. Over all pairs of the batch that count; b is 2 for reduction_log = "binary", e for "natural":
        loss = mean over (i, j) of  w_ij log_b( 1 + exp(-sigma (s_i - s_j)) )"""

    def __init__(
        self,
        weighting_scheme: str | WeightingScheme = "NDCGLoss2PPScheme",
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: str = "binary",
        activation_fn: str | nn.Module = "Identity",
    ) -> None:
        """`k`: a pair counts if one of it is among the model's first k; None: all do. `eps`: the least maxDCG."""
        super().__init__(activation_fn)
        if not isinstance(weighting_scheme, WeightingScheme):
            weighting_scheme = pick("weighting_scheme", weighting_scheme, SCHEMES)()
        self.weighting_scheme = weighting_scheme
        self.k = None if k is None else number("k", k, least=1)
        self.sigma, self.eps = number("sigma", sigma, above=0), number("eps", eps, above=0)
        self.log_of_base = pick("reduction_log", reduction_log, {"binary": math.log(2), "natural": 1.0})

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        scores, labels, there = self.lists(embeddings, batch)
        # the model's order: of equal scores the first given first, and cells without a document last
        order = scores.masked_fill(~there, float("-inf")).argsort(dim=1, descending=True, stable=True)
        scores, labels, there = (x.gather(1, order) for x in (scores, labels, there))
        ranks = torch.arange(1, 1 + scores.shape[1], device=scores.device)
        first, discounts = ranks <= (self.k or len(ranks)), (1 + ranks).to(scores.dtype).log2()
        pairs = there[:, :, None] & there[:, None, :] & (first[:, None] | first)  # which count, [rows, n, n]
        pairs = pairs & ((gaps(labels) > 0) | self.weighting_scheme.all_pairs)
        weights = self.weighting_scheme(self._gains(labels, discounts), discounts).expand_as(pairs)
        losses = -weights[pairs] * F.logsigmoid(self.sigma * gaps(scores)[pairs])  # of what counts only, [pairs]
        return losses.sum() / (max(len(losses), 1) * self.log_of_base)

    def _gains(self, labels: Tensor, discounts: Tensor) -> Tensor:
        labels = labels.clamp(min=0)  # 0, also the label of a cell without a document, gains 2^0 - 1 = 0
        top = labels.amax(1, keepdim=True)
        gains = torch.exp2(labels - top) - torch.exp2(-top)  # 2^y - 1 over 2^top: 2^200 would be too large, and the
        best = gains.sort(1, descending=True).values / discounts  # factor falls out of the ratio
        return gains / best[:, : self.k].sum(1, keepdim=True).clamp(min=self.eps)  # G of each document, [rows, n]


class RankNetLoss(LambdaLoss):
    """LambdaLoss with w_ij = 1 (Burges et al. 2005, doi:10.1145/1102351.1102363):
        loss = mean over (i, j) of  log_b( 1 + exp(-sigma (s_i - s_j)) )
    sigmoid(sigma (s_i - s_j)) is the model's probability that i is above j, and the loss its cross entropy."""

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
    return x[..., :, None] - x[..., None, :]  # x_i - x_j at [.., i, j]
