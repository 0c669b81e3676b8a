"""Losses of a query with one text that answers it, the positive, and with others that do not, the negatives: a row's
pairs are (query, positive), (query, negative 1), (query, negative 2) .., and rows may differ in length."""

from collections.abc import Sequence

from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import number
from minist.losses.cross_encoder.base import PairLoss, cells, log_softmax_of_rows, table
from minist.losses.distillation import margin_mse


class MarginMSELoss(PairLoss):
    """A positive shall be scored above a negative by as much as a teacher does (Hofstaetter 2020, arXiv:2010.02666).

    Columns: query, positive, and one or more negatives, or lists of them. Labels: the teacher's margins
    score(q, p) - score(q, n_j), [rows, k] or [rows] for k = 1, or its scores of p and all n_j, [rows, 1 + k], of which
    only differences count; rows with fewer than k negatives have NaN at their end. With s the model's scores:
        loss = mean over rows i and negatives j of  ( s(q_i, p_i) - s(q_i, n_ij) - margin_ij )^2
    """

    columns = "query, positive, one or more negatives"
    labels = "margins [rows], such as 2.5, or [rows, k], or scores [rows, 1 + k]"

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        flat, labels = self.scores_and_labels(embeddings, batch, several=True, dims=(1, 2))
        there = cells(batch.counts[0], flat.device)
        return margin_mse(self, table(flat, there), there, labels)


class MultipleNegativesRankingLoss(PairLoss):
    """Each query finds its positive among negatives, drawn from the other rows of the batch, or its own.

    Columns: anchor, positive, and any number of negatives. No labels. Besides its own negatives a query is paired with
    num_negatives texts of other rows, drawn anew in each step (None: all of them, a batch of n rows then has n^2 pairs
    or more; 0: none). With s_i0 the score of the positive, s_ij those of the negatives and c_ij = scale * s_ij:
        loss = mean_i  log( sum_j exp(c_ij) ) - c_i0         (van den Oord et al. 2018, arXiv:1807.03748)

    The scores are sigmoids unless another activation is given, so `scale` says how sure the softmax may become: that of
    a perfect row with k negatives is 1 / (1 + k exp(-scale))."""

    columns = "anchor, positive, any number of negatives"

    def __init__(
        self, num_negatives: int | None = 4, scale: float = 10.0, activation_fn: str | nn.Module = "Sigmoid"
    ) -> None:
        super().__init__(activation_fn)
        self.negatives = None if num_negatives is None else number("num_negatives", num_negatives, least=0)
        self.scale = number("scale", scale, above=0)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        flat, _ = self.scores_and_labels(embeddings, batch, several=True, dims=(0,))
        there = cells(batch.counts[0], flat.device)
        log_shares = log_softmax_of_rows(self.scale * table(flat, there), there)  # [rows, 1 + negatives]
        return -log_shares[:, 0][there[:, 0]].sum() / max(len(there), 1)  # a row without any pair has no positive
