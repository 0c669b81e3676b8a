"""Losses for plain texts without labels: contrastive tension, and what keeps any embeddings spread out.

Contrastive tension (Carlsson et al. 2021, openreview.net/forum?id=Ov_sMNau-PF): two copies of the model shall agree on
a text and differ on others. They are two routes of one model, one per column; after training one of them is kept."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Loss, Tensors, check_columns
from minist.losses.pairs import is_binary, labelled_pairs
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import pairwise_dot, similarity, unit

AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum}


class ContrastiveTensionLoss(Loss):
    """Whether two texts are the same one, told from the embeddings by two copies of the model. Label y is 1 if so, else
    0 (the paper takes seven such pairs for each of the same). With p_i = sigmoid(u_i . v_i):
        loss = sum_i  -y_i log p_i - (1 - y_i) log(1 - p_i)"""

    columns, labels = "two texts, one for each copy of the model", "0 or 1 [rows], 1 for the same text"

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        u, v, labels = labelled_pairs(self, embeddings, batch, is_binary)
        logits = pairwise_dot(u, v)  # and no sigmoid: log(sigmoid(-1000)) is log(0)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


class ContrastiveTensionLossInBatchNegatives(Loss):
    """A text's embeddings by two copies of the model shall find each other among all texts of the batch.
    Columns: the text for each copy, or one column where both are the same embeddings. No labels. With
    s_ij = t * sim(u_i, v_j), where t is a parameter of the loss that starts at `scale`:
        loss = 1/2 mean_i [ log sum_j exp(s_ij) - s_ii ]  +  1/2 mean_j [ log sum_i exp(s_ij) - s_jj ]"""

    columns, negatives = "a text, once or once for each copy of the model", None

    def __init__(self, scale: float = 20.0, similarity_fct: str = "cosine") -> None:
        super().__init__()
        self.similarity_fct = similarity(similarity_fct)
        start = math.log(number("scale", scale, above=0))  # the logarithm of t, as t must stay positive at any step
        self.logit_scale = nn.Parameter(torch.tensor(start))

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, 1, 2)
        scores = self.similarity_fct(embeddings[0], embeddings[-1]) * self.logit_scale.exp()  # -1: also of one column
        own = torch.arange(len(scores), device=scores.device)  # text i of one copy belongs to text i of the other
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


class GlobalOrthogonalRegularizationLoss(Loss):
    """Unrelated texts shall be as similar as random directions are (Zhang et al. 2017, arXiv:1708.06320).
    Columns: any, each for itself. No labels. A column of N texts of width D has, over its pairs i != j,
        M1 = mean sim(x_i, x_j)        0 for random directions
        M2 = mean sim(x_i, x_j)^2    1/D for random directions
        gor_mean          = mean_weight * M1^2                        averaged over the columns, or added up
        gor_second_moment = second_moment_weight * relu(M2 - 1/D)     with aggregation "sum"
    It is meant beside another loss: EmbeddingGemma adds it with mean_weight 0 and "sum" (arXiv:2509.20354)."""

    def __init__(
        self,
        similarity_fct: str = "cosine",
        mean_weight: float | None = 1.0,
        second_moment_weight: float | None = 1.0,
        aggregation: str = "mean",
    ) -> None:
        """A weight of 0 or None leaves its part out. ValueError if none is left, and for an unknown name."""
        super().__init__()
        self.mean_weight = number("mean_weight", mean_weight or 0.0, least=0)
        self.second_moment_weight = number("second_moment_weight", second_moment_weight or 0.0, least=0)
        number("mean_weight + second_moment_weight", self.mean_weight + self.second_moment_weight, above=0)
        self.aggregate = pick("aggregation", aggregation, AGGREGATIONS)
        self.normalize = similarity_fct == "cosine"  # which is dot of unit vectors, made once and not in each block
        self.similarity_fct = similarity("dot" if self.normalize else similarity_fct)

    def forward(self, embeddings: Tensors, batch: Batch) -> dict[str, Tensor]:
        check_columns(self, embeddings, batch, least=1, most=None, lists_from=0)
        columns = [unit(column) if self.normalize else column for column in embeddings]  # each for itself
        parts = {}
        if self.mean_weight:
            parts["gor_mean"] = self.mean_weight * self.aggregate(self._moments(columns, 1).square())
        if self.second_moment_weight:
            excess = (self._moments(columns, 2) - 1 / columns[0].shape[1]).relu()  # to be more spread out is no fault
            parts["gor_second_moment"] = self.second_moment_weight * self.aggregate(excess)
        return parts

    def _moments(self, columns: Tensors, power: int) -> Tensor:
        """The mean of the similarities to this power, of each column."""

        def part(block: slice, own: Tensors, shared: Tensors) -> Tensor:
            rows = torch.arange(len(shared[0]), device=shared[0].device)  # a text with itself adds nothing
            return self.similarity_fct(own[0], shared[0]).masked_fill(same_row(block, rows), 0.0).pow(power).sum()

        sums = [sum_over_rows(part, (column,), (column,), len(column)) for column in columns]
        # one text has no pair, its sum is 0
        return torch.stack([x / max(1, len(c) * (len(c) - 1)) for x, c in zip(sums, columns, strict=True)])
