"""A margin loss with the hardest negative of a large batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number
from minist.losses.base import Loss, check_columns
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import dot, unit


class MegaBatchMarginLoss(Loss):
    """Each anchor beside its positive and the most similar positive of another row (Wieting and Gimpel 2018, P18-1042).

    Columns: anchor, positive. No labels. With s_ij the cosine of anchor i and positive j:

        loss = mean_i  relu(positive_margin - s_ii)  +  relu(max_{j != i} s_ij - negative_margin)

    Only the hardest negative counts, so batches should be large: 500 rows or more. The scores are never all in
    memory: see row_blocks.py.
    """

    columns = "anchor, positive"

    def __init__(self, positive_margin: float = 0.8, negative_margin: float = 0.3) -> None:
        """Cosines: positives shall be above the one, negatives below the other. ValueError outside -1 to 1."""
        super().__init__()
        self.positive_margin = number("positive_margin", positive_margin, -1, 1)
        self.negative_margin = number("negative_margin", negative_margin, -1, 1)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        """Embeddings [n, D] of both columns -> scalar; one row has no negative."""
        check_columns(self, embeddings, batch, least=2, most=2)
        anchors, positives = unit(embeddings[0]), unit(embeddings[1])
        n = len(anchors)
        return sum_over_rows(self._loss_of_block, (anchors,), (positives,), n) / n

    def _loss_of_block(self, block: slice, own: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The block's anchors [b, D], all positives [n, D], of length 1 -> sum of losses."""
        (anchors,), (positives,) = own, shared
        scores = dot(anchors, positives)  # [b, n]
        same = same_row(block, torch.arange(len(positives), device=positives.device))
        hardest = scores.masked_fill(same, float("-inf")).amax(1)  # relu makes 0 of -inf, where there is no other row
        positive = scores.diagonal(block.start)  # row i of the block is row start + i of the batch
        return (F.relu(self.positive_margin - positive) + F.relu(hardest - self.negative_margin)).sum()
