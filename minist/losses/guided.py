"""Contrastive losses in which a second model, the guide, says what is no negative."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minist.batch import Batch
from minist.losses.base import Loss
from minist.losses.checks import check_columns
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import dot, unit

MARGIN_STRATEGIES = ("absolute", "relative")
ROUNDING = 1e-6  # cosines that differ by less are equal: a copy of the positive is no more similar than the positive


class GISTEmbedLoss(Loss):
    """InfoNCE without the candidates that a guide model takes for false negatives (Solatorio 2024, arXiv:2402.16829).

    Columns: anchor, positive, and any number of negatives, each a text or a list of any length. No labels.
    `batch.guide` holds the guide's embeddings of the same texts. With n rows, anchors a_i, documents d_j (all
    positives p_j, then all negatives), s = cosine / temperature, and g the cosine of the guide's embeddings:

        loss = mean_i  log sum_c exp(c)  -  s(a_i, p_i)      over the candidates c of row i:

        s(a_i, d_j)  for all documents j
        s(a_i, a_j)  for j != i, with contrast_anchors
        s(p_i, p_j)  for j != i, with contrast_positives

    without those that the guide finds too similar, g of the two > t_i; s(a_i, p_i) always stays.

        margin_strategy "absolute"    t_i = g(a_i, p_i) - margin
        margin_strategy "relative"    t_i = g(a_i, p_i) - margin * |g(a_i, p_i)|

    The scores are never all in memory: see row_blocks.py.
    """

    columns = "anchor, positive, any negatives"
    labels = "none"
    guide = "guide"

    def __init__(
        self,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
    ) -> None:
        """ValueError for a temperature that is not above 0, and for an unknown strategy."""
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}: use > 0, 0.01 is usual")
        if margin_strategy not in MARGIN_STRATEGIES:
            raise ValueError(f"margin_strategy is {margin_strategy!r}, known are {', '.join(MARGIN_STRATEGIES)}")
        self.temperature, self.margin_strategy, self.margin = temperature, margin_strategy, margin
        self.contrast_anchors, self.contrast_positives = contrast_anchors, contrast_positives

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        """Embeddings [n, D] of each column, or [sum of counts, D] of lists of negatives -> scalar."""
        check_columns(self, embeddings, batch, least=2, most=None, lists_from=2)
        if not batch.guide:
            raise ValueError("GISTEmbedLoss needs the embeddings of a guide model: set [guide] in the config")
        given, wanted = [len(column) for column in batch.guide], [len(column) for column in embeddings]
        if given != wanted:
            raise ValueError(f"GISTEmbedLoss needs a guide embedding for each text: {given} are given for {wanted}")
        anchors, documents = unit(embeddings[0]), unit(torch.cat(list(embeddings[1:])))
        guide_anchors, guide_documents = unit(batch.guide[0]), unit(torch.cat(batch.guide[1:]))
        n = len(anchors)
        # whom to compare, by the model and by the guide; the first documents are the positives
        pairs = [(anchors, documents, guide_anchors, guide_documents)]
        if self.contrast_anchors:
            pairs.append((anchors, anchors, guide_anchors, guide_anchors))
        if self.contrast_positives:
            positives, guide_positives = documents[:n], guide_documents[:n]
            pairs.append((positives, positives, guide_positives, guide_positives))
        x, y, guide_x, guide_y = zip(*pairs, strict=True)
        return sum_over_rows(self._loss_of_block, (*x, *guide_x), (*y, *guide_y), len(documents)) / n

    def _loss_of_block(self, block: slice, own: Sequence[Tensor], shared: Sequence[Tensor]) -> Tensor:
        """The left sides of the pairs above, b rows each, and the right sides, all of them -> sum of losses."""
        half = len(own) // 2
        scores: list[Tensor] = []
        for x, y, guide_x, guide_y in zip(own[:half], shared[:half], own[half:], shared[half:], strict=True):
            similar = dot(guide_x, guide_y)
            same = same_row(block, torch.arange(len(y), device=y.device))
            if not scores:
                limit = self._limit(similar.diagonal(block.start))[:, None]
                excluded = (similar > limit) & ~same  # the positive is no negative
            else:
                excluded = (similar > limit) | same  # nor is a text one of itself
            scores.append((dot(x, y) / self.temperature).masked_fill(excluded, float("-inf")))
        return (torch.cat(scores, dim=1).logsumexp(1) - scores[0].diagonal(block.start)).sum()

    def _limit(self, positive: Tensor) -> Tensor:
        """The guide's similarity of anchor and positive [b] -> that above which a candidate is no negative [b]."""
        return positive - self.margin * (positive.abs() if self.margin_strategy == "relative" else 1) + ROUNDING
