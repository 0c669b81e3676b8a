"""Losses of one pair of texts at a time: whether they match, which class they are, or how high they score."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import listing, number
from minist.losses.cross_encoder.base import PairLoss, check_pairs


class BinaryCrossEntropyLoss(PairLoss):
    """A pair either matches or does not: logistic regression on its score (Nogueira and Cho 2019, arXiv:1901.04085).

    Columns: two texts, such as query and document. Labels [P], y: 1 for a pair that matches, 0 for one that does not,
    or the probability that it does. With s_i the score of pair i, and w = pos_weight, by which a missed match costs
    more than a false one where few pairs match:
        loss = mean_i  - w y_i log(sigmoid(s_i))  -  (1 - y_i) log(1 - sigmoid(s_i))
    """

    labels = "numbers from 0 to 1 [rows], 1 for a pair that matches"

    def __init__(self, activation_fn: str | nn.Module = "Identity", pos_weight: float = 1.0) -> None:
        super().__init__(activation_fn)
        self.pos_weight = number("pos_weight", pos_weight, above=0)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        scores, labels = self.scores_and_labels(embeddings, batch)  # 0 and 1 come as integers
        if not (known := (labels >= 0) & (labels <= 1)).all():  # beyond them the loss has no least value
            wrong = listing(labels[~known].unique().tolist())
            raise ValueError(f"BinaryCrossEntropyLoss takes labels {self.labels}; got {wrong}: divide, or use MSELoss")
        weight = scores.new_tensor(self.pos_weight)
        errors = F.binary_cross_entropy_with_logits(scores, labels, pos_weight=weight, reduction="sum")
        return errors / max(len(scores), 1)


class MSELoss(PairLoss):
    """The score of a pair shall be its label, for instance a teacher's score (Hofstaetter 2020, arXiv:2010.02666).

    Columns: two texts. Labels [P]: any numbers; for those from 0 to 1 the activation "Sigmoid" keeps the scores there
    too. With s_i the score of pair i:
        loss = mean_i  (s_i - label_i)^2
    """

    labels = "numbers [rows], such as 7.25"

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        scores, labels = self.scores_and_labels(embeddings, batch)
        # a sum divided by the number of pairs, here as in all losses: mean() of no pairs would be NaN
        return F.mse_loss(scores, labels, reduction="sum") / max(len(scores), 1)


class CrossEntropyLoss(PairLoss):
    """Which class is a pair of texts? For instance: does one sentence follow from the other?

    Columns: two texts. Labels: classes 0 .. num_labels - 1 [P], or shares of each class [P, num_labels], which sum to
    1. With z_ic the logit of class c for pair i:
        loss = mean_i  log( sum_c exp(z_ic) ) - z_i,label_i        (-log of the softmax)
    """

    labels = "classes [rows], such as 2 or a word; or a share of each [rows, num_labels]"
    class_names = True

    def num_classes(self, width: int) -> int:
        return width  # of the logits, one for each class

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        check_pairs(self, embeddings, batch, several=False, dims=(1, 2))
        assert batch.labels is not None
        logits, labels, wrong = self.activation_fn(embeddings[0]), batch.labels, ""
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
