"""Losses of one pair of texts: whether they match, which class they are, or how high they score; and of a query with
its positive and negatives: a row's pairs are (query, positive), (query, negative 1) .., and rows differ in length."""

import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import listing, number
from minist.losses import distillation
from minist.losses.base import Tensors
from minist.losses.cross_encoder.base import PairLoss, cells, check_pairs, log_softmax_of_rows, table


class BinaryCrossEntropyLoss(PairLoss):
    """A pair either matches or does not: logistic regression on its score (Nogueira and Cho 2019, arXiv:1901.04085).
    With s_i the score of pair i, y_i its label, the probability that it matches, and w = pos_weight, by which a missed
    match costs more than a false one where few pairs match:
        loss = mean_i  - w y_i log(sigmoid(s_i))  -  (1 - y_i) log(1 - sigmoid(s_i))"""

    labels = "numbers from 0 to 1 [rows], 1 for a pair that matches"

    def __init__(self, activation_fn: str | nn.Module = "Identity", pos_weight: float = 1.0) -> None:
        super().__init__(activation_fn)
        self.pos_weight = number("pos_weight", pos_weight, above=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        scores, labels = self.scores_and_labels(embeddings, batch)  # 0 and 1 come as integers
        if not (known := (labels >= 0) & (labels <= 1)).all():  # beyond them the loss has no least value
            wrong = listing(labels[~known].unique().tolist())
            raise ValueError(f"BinaryCrossEntropyLoss takes labels {self.labels}; got {wrong}: divide, or use MSELoss")
        weight = scores.new_tensor(self.pos_weight)
        errors = F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weight, reduction="sum")
        return errors / max(len(scores), 1)


class MSELoss(PairLoss):
    """The score s of a pair shall be its label, for instance a teacher's score (Hofstaetter 2020, arXiv:2010.02666):
        loss = mean_i  (s_i - label_i)^2
    For labels from 0 to 1, the activation "Sigmoid" keeps the scores there too."""

    labels = "numbers [rows], such as 7.25"

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        scores, labels = self.scores_and_labels(embeddings, batch)
        # a sum divided by the number of pairs, here as in all losses: mean() of no pairs would be NaN
        return F.mse_loss(scores, labels, reduction="sum") / max(len(scores), 1)


class CrossEntropyLoss(PairLoss):
    """Which class is a pair of texts? For instance: does one sentence follow from the other? Labels: classes
    0 .. num_labels - 1 [P], or shares of each class [P, num_labels]. With z_ic the logit of class c for pair i:
        loss = mean_i  log( sum_c exp(z_ic) ) - z_i,label_i        (-log of the softmax)"""

    labels, class_names = "classes [rows], such as 2 or a word; or a share of each [rows, num_labels]", True

    def num_classes(self, width: int) -> int:
        return width  # of the logits, one for each class

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        labels = check_pairs(self, embeddings, batch, several=False, dims=(1, 2))
        logits, wrong = self.activation_fn(embeddings[0]), ""
        if (num_labels := logits.shape[1]) < 2:  # the softmax over one class is always 1, and teaches nothing
            wrong = "the model has num_labels = 1: use BinaryCrossEntropyLoss, or MSELoss"
        elif labels.dim() == 2 and labels.shape[1] != num_labels:
            wrong = f"labels have {labels.shape[1]} shares for {num_labels} classes: give one for each"
        elif labels.dim() == 1 and not ((labels >= 0) & (labels < num_labels)).all():
            wrong = f"labels go from {labels.min():g} to {labels.max():g}: use 0 to {num_labels - 1}"
        if wrong:
            raise ValueError(f"CrossEntropyLoss: {wrong}, or set num_labels")
        targets = labels.long() if labels.dim() == 1 else labels.to(logits.dtype)  # classes or shares: torch takes both
        return F.cross_entropy(logits, targets, reduction="sum") / max(len(logits), 1)


class MarginMSELoss(PairLoss):
    """A positive shall be scored above a negative by as much as a teacher does (Hofstaetter 2020, arXiv:2010.02666).
    Columns and labels are those of MarginMSELoss in losses/distillation.py. With s the model's scores:
        loss = mean over rows i and negatives j of  ( s(q_i, p_i) - s(q_i, n_ij) - margin_ij )^2"""

    columns, labels = distillation.MarginMSELoss.columns, distillation.MarginMSELoss.labels

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        flat, labels = self.scores_and_labels(embeddings, batch, several=True, dims=(1, 2))
        there = cells(batch.counts[0], flat.device)
        return distillation.margin_mse(self, table(flat, there), there, labels)


class MultipleNegativesRankingLoss(PairLoss):
    """Each query finds its positive among its own negatives and num_negatives texts of other rows, drawn anew in each
    step (None: all of them, a batch of n rows then has n^2 pairs or more). No labels. With s_i0 the score of the
    positive, s_ij those of the negatives and c_ij = scale * s_ij:
        loss = mean_i  log( sum_j exp(c_ij) ) - c_i0         (van den Oord et al. 2018, arXiv:1807.03748)
    Scores are sigmoids unless another activation is given, so `scale` says how sure the softmax may become: that of a
    perfect row with k negatives is 1 / (1 + k exp(-scale))."""

    columns = "anchor, positive, any number of negatives"

    def __init__(
        self, num_negatives: int | None = 4, scale: float = 10.0, activation_fn: str | nn.Module = "Sigmoid"
    ) -> None:
        super().__init__(activation_fn)
        self.negatives = None if num_negatives is None else number("num_negatives", num_negatives, least=0)
        self.scale = number("scale", scale, above=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        flat, _ = self.scores_and_labels(embeddings, batch, several=True, dims=(0,))
        there = cells(batch.counts[0], flat.device)
        log_shares = log_softmax_of_rows(self.scale * table(flat, there), there)  # [rows, 1 + negatives]
        return -log_shares[:, 0][there[:, 0]].sum() / max(len(there), 1)  # a row without any pair has no positive
