"""What the losses of a cross-encoder have in common: it reads two texts at once, and gives their pair a score.

A query with several documents is a row of several pairs, and rows differ in length. All pairs of a batch come one after
the other, [P]; where pairs of a row are compared, they are laid out as a table. A dot is a cell that losses keep out:
    scores [P = 5]   4 1 0 7 2        table [rows, longest]   4 1 0        there   x x x
    counts [rows]    3 0 2                                    . . .                . . .
                                                              7 2 .                x x ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minist.batch import Batch
from minist.losses.base import Loss, Tensors, counts_of
from minist.modules.classification_head import find_activation


class PairLoss(Loss):
    """`forward([logits], batch)`: logits [P, num_labels] of all ranks' pairs, the pairs of a row side by side; scores,
    or a logit for each class. batch.counts[0] [rows] says how many pairs a row has; it is None where all have one."""

    columns = "two texts"

    def __init__(self, activation_fn: str | nn.Module = "Identity") -> None:
        """`activation_fn`, a module of torch.nn or the name of one, is applied to the logits first, also before the
        sigmoid or softmax of a formula, where it is seldom wanted."""
        super().__init__()
        self.activation_fn = find_activation(activation_fn)

    def scores_and_labels(
        self, embeddings: Tensors, batch: Batch, *, several: bool = False, dims: Sequence[int] = (1,)
    ) -> tuple[Tensor, Tensor]:
        """activation_fn(logits) of a model with one label, [P], and labels of their type; see check_pairs."""
        labels = check_pairs(self, embeddings, batch, several, dims)
        if (width := embeddings[0].shape[1]) != 1:  # to train the first of several, or their mean, nobody would mean
            why = f"takes a model with num_labels = 1, this one has {width}: CrossEntropyLoss is for several"
            raise ValueError(f"{type(self).__name__} {why}")
        scores = self.activation_fn(embeddings[0][:, 0])
        return scores, scores.new_empty(0) if labels is None else labels.to(scores.dtype)


class ListLoss(PairLoss):
    """A loss of whole lists of documents, each with a number that says how relevant it is to the query."""

    columns, label_lists = "query, list of documents", True
    labels = "a list with a number for each document, such as [2, 0, 1]"

    def lists(self, embeddings: Tensors, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Scores and labels [rows, longest], 0 where there is no document, and where there is one."""
        scores, labels = self.scores_and_labels(embeddings, batch, several=True)
        there = cells(batch.counts[0], scores.device)
        return table(scores, there), table(labels, there), there  # both stand pair by pair: they go to the same cells


def cells(counts: Tensor | None, device: torch.device) -> Tensor:
    """Which cells of a table [rows, longest] hold a pair. It has one column at least, even if no row has any pair."""
    assert counts is not None
    longest = max([1, *counts.tolist()])  # of a table without a column there is no maximum, softmax or best gain
    return torch.arange(longest, device=device) < counts.to(device)[:, None]


def table(flat: Tensor, there: Tensor) -> Tensor:
    """A number for each pair, [P], laid out as a table [rows, longest], with 0 where none is."""
    return flat.new_zeros(there.shape).masked_scatter(there, flat)  # row by row, as the pairs come


def log_softmax_of_rows(scores: Tensor, there: Tensor) -> Tensor:
    """log_softmax over the pairs of each row, [rows, longest]; a cell without a pair has no share in it."""
    lowest = torch.finfo(scores.dtype).min  # exp(lowest) is 0; with -inf a row without any pair would be NaN
    return scores.masked_fill(~there, lowest).log_softmax(1)


def check_pairs(loss: Loss, embeddings: Tensors, batch: Batch, several: bool, dims: Sequence[int]) -> Any:
    """The labels, if rows have `several` pairs, or one, and labels `dims`: 0 none, 1 [rows] or [P], 2 [rows, k]."""
    (logits,), labels, counts = embeddings, batch.labels, counts_of(batch, 0)  # a pair is one input: one column
    wanted = len(logits) if counts is None or loss.label_lists else len(counts)
    if several != (counts is not None):
        wrong = f"got rows of {'one pair' if several else 'several pairs'} of texts"
    elif (0 if labels is None else labels.dim()) not in dims:
        wrong = "got no labels" if labels is None else f"got labels of shape {list(labels.shape)}"
    elif labels is not None and len(labels) != wanted:
        wrong = f"there are {len(labels)} labels for {wanted} {'documents' if loss.label_lists else 'rows'}"
    else:
        return labels
    raise ValueError(f"{type(loss).__name__} takes {loss.columns}, labels {loss.labels}; {wrong}")
