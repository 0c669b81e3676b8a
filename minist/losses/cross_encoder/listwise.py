"""Losses of a query's whole list of documents: of probabilities, of an order, or of ranks.

Columns: query, list of documents. Labels [P]: a number for each document. s_i is the score of document i, y_i its
label, larger for a more relevant one, and n the length of the list. A list of one document, or none, has loss 0."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Tensors
from minist.losses.cross_encoder.base import ListLoss, log_softmax_of_rows

Discount = Callable[[Tensor], Tensor]  # 1 where a document is, else 0 [rows, n] -> weights of the ranks [rows, n]
DISCOUNTS: dict[str, Discount] = {  # a running sum of ones is the rank: 1, 2 .. n
    # 2^(n - rank) - 1, as in the paper: rank 1 counts about as much as all others together. Over 2^n, since a long list
    # would overflow, and weights are divided by their sum anyway
    "exponential": lambda ones: torch.exp2(-ones.cumsum(1)) - torch.exp2(-ones.sum(1, keepdim=True)),
    "logarithmic": lambda ones: 1 / (1 + ones.cumsum(1)).log2(),  # as in nDCG
    "reciprocal": lambda ones: 1 / ones.cumsum(1),
}


class ListNetLoss(ListLoss):
    """Scores and labels shall have the same softmax (Cao et al. 2007, doi:10.1145/1273496.1273513):
        loss = mean over lists of  - sum_i p_i log q_i,    p = softmax(y),  q = softmax(s)
    p_i is the probability that i comes first, if documents are drawn by their labels: all on the best document where
    labels are a few units apart, as for a classifier which picks it."""

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        scores, labels, there = self.lists(embeddings, batch)
        wanted = log_softmax_of_rows(labels, there)[there].exp()  # [P]
        return -(wanted * log_softmax_of_rows(scores, there)[there]).sum() / max(len(there), 1)


class PListMLELambdaWeight(nn.Module):
    """How much each rank counts in PListMLELoss: the name of one of DISCOUNTS, or a function like these."""

    def __init__(self, rank_discount_fn: str | Discount = "exponential") -> None:
        super().__init__()
        given = rank_discount_fn
        self.discount: Discount = given if callable(given) else pick("rank_discount_fn", given, DISCOUNTS)

    def forward(self, ones: Tensor) -> Tensor:
        """Weights [rows, n] that sum to 1 in each list and are 0 behind its end, as `ones` are."""
        weights = self.discount(ones).masked_fill(ones == 0, 0.0)
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-10)  # the one rank of a list of 1 weighs 2^0 - 1 = 0


class PListMLELoss(ListLoss):
    """The best document shall be picked first, then the best of the rest, and so on (Lan et al. 2014, UAI).

    Draw documents one after the other, each with a probability that goes with exp(s) among those that are left: how
    improbable is it that they come in the right order? The ranks have weights w_r, which sum to 1:
        loss = mean over lists of  - sum_r w_r log( exp(s_r) / sum over t >= r of exp(s_t) )
    Without lambda_weight, all w_r are 1. With respect_input_order the right order is that of the data, best first, and
    the labels are not read; without it, that of the labels, of equal ones the first given first."""

    def __init__(
        self,
        lambda_weight: str | PListMLELambdaWeight | None = "exponential",
        activation_fn: str | nn.Module = "Identity",
        respect_input_order: bool = True,
    ) -> None:
        """A name as `lambda_weight` stands for PListMLELambdaWeight(name), as a config has it."""
        super().__init__(activation_fn)
        self.lambda_weight = PListMLELambdaWeight(lambda_weight) if isinstance(lambda_weight, str) else lambda_weight
        self.respect_input_order = respect_input_order

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        scores, labels, there = self.lists(embeddings, batch)
        if not self.respect_input_order:
            labels = labels.masked_fill(~there, float("-inf"))  # so `there` holds of the sorted table too
            scores = scores.gather(1, labels.argsort(dim=1, descending=True, stable=True))
        left = scores.masked_fill(~there, torch.finfo(scores.dtype).min)  # exp is 0; -inf - -inf would be NaN
        left = left.flip(1).logcumsumexp(1).flip(1)  # [rows, n], at r: log of the sum over t >= r
        log_shares = scores - left
        if self.lambda_weight is not None:
            log_shares = self.lambda_weight(there.to(scores.dtype)) * log_shares
        return -log_shares[there].sum() / max(len(there), 1)


class ListMLELoss(PListMLELoss):
    """PListMLELoss in which each rank counts alike (Xia et al. 2008, doi:10.1145/1390156.1390306):
    loss = mean over lists of  - sum_r log( exp(s_r) / sum over t >= r of exp(s_t) )"""

    def __init__(self, activation_fn: str | nn.Module = "Identity", respect_input_order: bool = True) -> None:
        super().__init__(None, activation_fn, respect_input_order)


class ADRMSELoss(ListLoss):
    """Ranks by score shall be the ranks by label, above all the first ones (Schlatt et al. 2025, arXiv:2405.07920).

    The rank of i by label is r_i; equal labels share the mean of their ranks. Its rank by score, 1 + how many documents
    score higher, is a step function: a sigmoid in place of each step, the steeper the larger alpha, gives a gradient:
        loss = mean over all documents of  (r_i - a_i)^2 / log2(1 + r_i)
        a_i = 1 + sum over j != i of sigmoid( alpha (s_j - s_i) )"""

    def __init__(self, alpha: float = 1.0, activation_fn: str | nn.Module = "Identity") -> None:
        super().__init__(activation_fn)
        self.alpha = number("alpha", alpha, above=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        scores, labels, there = self.lists(embeddings, batch)
        others = there[:, None, :]  # [rows, 1, n]: with j last, a document that is not there is above none
        above = torch.sigmoid(self.alpha * (scores[:, None, :] - scores[:, :, None])) * others  # [rows, i, j]
        ranks_by_score = above.sum(2) + 0.5  # not + 1: the sum has sigmoid(0) = 1/2 of i itself
        i, j = labels[:, :, None], labels[:, None, :]
        higher, equal = ((j > i) & others).sum(2), ((j == i) & others).sum(2)  # equal: i itself too
        ranks = (higher + (equal + 1) / 2).to(scores.dtype)  # the mean of higher + 1 .. higher + equal
        errors = (ranks - ranks_by_score) ** 2 / (1 + ranks).log2()
        return errors[there].sum() / max(len(embeddings[0]), 1)
