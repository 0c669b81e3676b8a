"""What keeps embeddings spread out, whatever they are trained for."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Loss, check_columns
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import similarity, unit

AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": torch.mean, "sum": torch.sum}


class GlobalOrthogonalRegularizationLoss(Loss):
    """Unrelated texts shall be as similar as random directions are (Zhang et al. 2017, arXiv:1708.06320).

    Columns: any, each for itself. No labels. A column of N texts of width D has, over its pairs i != j,

        M1 = mean sim(x_i, x_j)        0 for random directions
        M2 = mean sim(x_i, x_j)^2    1/D for random directions

        gor_mean          = mean_weight * M1^2
        gor_second_moment = second_moment_weight * relu(M2 - 1/D)

    and the columns' are averaged, or added up with aggregation "sum". It is meant beside another loss: EmbeddingGemma
    adds it with mean_weight 0 and "sum" (Schechter Vera et al. 2025, arXiv:2509.20354).
    """

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

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        check_columns(self, embeddings, batch, least=1, most=None, lists_from=0)
        columns = [unit(column) if self.normalize else column for column in embeddings]  # each for itself
        parts = {}
        if self.mean_weight:
            first = torch.stack([self._moment(column, 1) for column in columns])
            parts["gor_mean"] = self.mean_weight * self.aggregate(first.square())
        if self.second_moment_weight:
            second = torch.stack([self._moment(column, 2) for column in columns])
            excess = (second - 1 / columns[0].shape[1]).relu()  # to be more spread out than random is no fault
            parts["gor_second_moment"] = self.second_moment_weight * self.aggregate(excess)
        return parts

    def _moment(self, column: Tensor, power: int) -> Tensor:
        """[N, D] -> mean of the similarities to this power."""
        n, part = len(column), partial(self._sum_of_block, power)
        return sum_over_rows(part, (column,), (column,), n) / max(
            1, n * (n - 1)
        )  # 1: one text has no pair, and 0 stays

    def _sum_of_block(self, power: int, block: slice, own: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        scores = self.similarity_fct(own[0], shared[0])
        same = same_row(block, torch.arange(len(shared[0]), device=scores.device))
        return scores.masked_fill(same, 0.0).pow(power).sum()  # 0: a text with itself adds nothing
