"""Contrastive losses in which a second model, the guide, says what is no negative."""

from collections.abc import Callable

import torch
from torch import Tensor

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Loss, Tensors, check_columns
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import dot, unit

# the guide's similarity of anchor and positive, margin -> that above which a candidate is no negative
MARGIN_STRATEGIES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "absolute": lambda positive, margin: positive - margin,
    "relative": lambda positive, margin: positive - margin * positive.abs(),
}
ROUNDING = 1e-6  # cosines that differ by less are equal: a copy of the positive is no more similar than the positive


class GISTEmbedLoss(Loss):
    """InfoNCE without the candidates that a guide model takes for false negatives (Solatorio 2024, arXiv:2402.16829).
    Columns: anchor, positive, and any number of negatives, texts or lists of texts. No labels. With anchors a_i,
    documents d_j (positives p_j, then negatives), s = cosine / temperature, and g the cosine of the guide's embeddings:
        loss = mean_i  log sum_c exp(c)  -  s(a_i, p_i)      over the candidates c of row i:
        s(a_i, d_j)  for all documents j
        s(a_i, a_j)  for j != i, with contrast_anchors
        s(p_i, p_j)  for j != i, with contrast_positives
    without those that the guide finds too similar, g of the two > t_i; s(a_i, p_i) always stays.
        margin_strategy "absolute"    t_i = g(a_i, p_i) - margin
        margin_strategy "relative"    t_i = g(a_i, p_i) - margin * |g(a_i, p_i)|"""

    columns, guide, negatives = "anchor, positive, any negatives", "guide", None

    def __init__(
        self,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0)
        self.limit, self.margin = pick("margin_strategy", margin_strategy, MARGIN_STRATEGIES), margin
        self.contrast_anchors, self.contrast_positives = contrast_anchors, contrast_positives

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, least=2, most=None, lists_from=2)
        if (given := [len(column) for column in batch.guide]) != (wanted := [len(column) for column in embeddings]):
            needs = "GISTEmbedLoss needs a guide embedding for each text"
            raise ValueError(f"{needs}: {given} are given for {wanted}; set [guide] in the config")
        left, right = list[Tensor](), list[Tensor]()
        for columns in (embeddings, batch.guide):  # whom to compare with whom, by the model and then by the guide
            anchors, documents = unit(columns[0]), unit(torch.cat(list(columns[1:])))
            positives = documents[: len(anchors)]  # they come first
            alike = [anchors] * self.contrast_anchors + [positives] * self.contrast_positives
            left, right = [*left, anchors, *alike], [*right, documents, *alike]
        return sum_over_rows(self._loss_of_block, left, right, len(documents)) / len(anchors)

    def _loss_of_block(self, block: slice, own: Tensors, shared: Tensors) -> Tensor:
        """The left sides of the pairs above, b rows each, and the right sides, all of them -> sum of losses."""
        half = len(own) // 2
        scores: list[Tensor] = []  # of each pair of sides; the first, anchors with documents, sets the limit
        for x, y, guide_x, guide_y in zip(own[:half], shared[:half], own[half:], shared[half:], strict=True):
            similar, same = dot(guide_x, guide_y), same_row(block, torch.arange(len(y), device=y.device))
            if not scores:
                limit = self.limit(similar.diagonal(block.start), self.margin)[:, None] + ROUNDING
                excluded = (similar > limit) & ~same  # the positive itself stays, as it is what is to be found
            else:
                excluded = (similar > limit) | same  # a text is no negative of itself
            scores.append((dot(x, y) / self.temperature).masked_fill(excluded, float("-inf")))  # exp(-inf) = 0
        # logsumexp subtracts the largest score first: at temperature 0.01, exp(100) would overflow in fp32
        return (torch.cat(scores, dim=1).logsumexp(1) - scores[0].diagonal(block.start)).sum()
