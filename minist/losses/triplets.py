"""Triplet losses: an anchor shall be closer to texts of its kind than to others, by a margin.

The batch losses make triplets from the classes of a batch (Hermans et al. 2017, arXiv:1703.07737), which needs several
rows of each: use a sampler that groups by label. Distances are "euclidean", "cosine", 1 - cos(a, b), or "manhattan"."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number
from minist.losses.base import Loss, Tensors, check_columns
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import distance, dot, pairwise_distance, unit

INF = float("inf")


class TripletLoss(Loss):
    """The positive shall be closer than the negative by a margin (Schroff et al. 2015, arXiv:1503.03832).
    Columns: anchor, positive, negative. No labels. With d the distance:
        loss = mean_i  max(0, d(a_i, p_i) - d(a_i, n_i) + margin)"""

    columns = "anchor, positive, negative"

    def __init__(self, distance_metric: str = "euclidean", triplet_margin: float = 5.0) -> None:
        super().__init__()
        self.distance = pairwise_distance(distance_metric)
        self.margin = number("triplet_margin", triplet_margin, least=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, 3, 3)
        anchor, positive, negative = embeddings
        # relu: a triplet that keeps the margin is done with
        return F.relu(self.distance(anchor, positive) - self.distance(anchor, negative) + self.margin).mean()


class BatchTripletLoss(Loss):
    """What the losses below share: one column of texts, a class for each, and a distance."""

    columns, labels, class_names = "text", "classes [rows], such as 3 or a word", True

    def __init__(self, distance_metric: str = "euclidean", margin: float = 5.0) -> None:
        super().__init__()
        self.distance, self.margin = distance(distance_metric), number("margin", margin, least=0)

    def compare(self, embeddings: Tensors, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Of all rows [n, n]: the distances, those of another class or else INF, and which are others of the class."""
        labels = check_columns(self, embeddings, batch, 1, 1, (1,))
        distances = self.distance(embeddings[0], embeddings[0])
        same = labels[:, None] == labels
        itself = torch.eye(len(same), dtype=torch.bool, device=same.device)  # a row is no positive of its own
        return distances, distances.masked_fill(same, INF), same & ~itself


class BatchAllTripletLoss(BatchTripletLoss):
    """All triplets of the batch, averaged over those that the margin does not hold for.
    Column: text. Labels [rows]: class numbers. p runs over the other rows of a's class, n over those of other classes:
        loss = sum over (a, p, n) of max(0, t) / number of t > 0,    t = d(a, p) - d(a, n) + margin"""

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        distances, negatives, positives = self.compare(embeddings, batch)
        # A negative counts for (a, p) if it is nearer than d(a, p) + margin. With the negatives of a in order those
        # are the first few, and their sum is a prefix sum: O(n^2 log n) time and n^2 memory, and no n^3 triplets.
        bounds = distances + self.margin  # [a, p]
        negatives = negatives.sort(1).values  # INF comes last and is nearer than nothing
        counts = torch.searchsorted(negatives.detach(), bounds.detach())  # [a, p], how many are nearer
        prefix_sums = F.pad(negatives.cumsum(1), (1, 0))  # [a, n + 1], at k: the sum of the k nearest
        sums = counts * bounds - prefix_sums.gather(1, counts)
        return sums[positives].sum() / counts[positives].sum().clamp(min=1)  # 1: no triplet breaks the margin, loss 0


class BatchHardTripletLoss(BatchTripletLoss):
    """Each row as an anchor with the farthest row of its class and the nearest of another.
    Column: text. Labels [rows]: class numbers. p runs over the rows of a's class (also a itself), n over the others:
        loss = mean_a  max(0, max_p d(a, p) - min_n d(a, n) + margin)"""

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        return F.relu(self.gap(embeddings, batch) + self.margin).mean()

    def gap(self, embeddings: Tensors, batch: Batch) -> Tensor:
        """max_p d(a, p) - min_n d(a, n) of each row a, [n]."""
        distances, negatives, positives = self.compare(embeddings, batch)
        farthest = (distances * positives).max(1).values  # 0 of itself: there the cosine would have its rounding
        return farthest - negatives.min(1).values  # INF, and so a loss of 0, where all are of one class


class BatchHardSoftMarginTripletLoss(BatchHardTripletLoss):
    """BatchHardTripletLoss with a smooth margin, which has no size to choose.
    Column: text. Labels [rows]: class numbers.
        loss = mean_a  log(1 + exp( max_p d(a, p) - min_n d(a, n) ))"""

    def __init__(self, distance_metric: str = "euclidean") -> None:
        super().__init__(distance_metric, 0.0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        return F.softplus(self.gap(embeddings, batch)).mean()


class BatchSemiHardTripletLoss(BatchTripletLoss):
    """Each pair of a class with a negative just farther than the positive (Schroff et al. 2015, arXiv:1503.03832).
        loss = mean over (a, p) of max(0, d(a, p) - d(a, n) + margin)
    where p is of a's class, and n the nearest of another class that is farther from a than p, or else the farthest."""

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        distances, negatives, positives = self.compare(embeddings, batch)
        negatives = negatives.sort(1).values  # those of a's own class come last
        farther = torch.searchsorted(negatives.detach(), distances.detach(), right=True)  # the first one, [a, p]
        last = (negatives < INF).sum(1, keepdim=True) - 1  # the farthest one
        negative = negatives.gather(1, torch.minimum(farther, last).clamp(min=0))  # -1 where all are of one class
        return F.relu(distances - negative + self.margin)[positives].sum() / positives.sum().clamp(min=1)


class MegaBatchMarginLoss(Loss):
    """Each anchor beside its positive and the most similar positive of another row (Wieting and Gimpel 2018, P18-1042).
    Columns: anchor, positive. No labels. With s_ij the cosine of anchor i and positive j:
        loss = mean_i  relu(positive_margin - s_ii)  +  relu(max_{j != i} s_ij - negative_margin)
    Only the hardest negative counts, so batches should be large: 500 rows or more."""

    columns, negatives = "anchor, positive", None

    def __init__(self, positive_margin: float = 0.8, negative_margin: float = 0.3) -> None:
        super().__init__()
        self.positive_margin = number("positive_margin", positive_margin, -1, 1)
        self.negative_margin = number("negative_margin", negative_margin, -1, 1)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, least=2, most=2)
        anchors, positives = unit(embeddings[0]), unit(embeddings[1])
        return sum_over_rows(self._loss_of_block, (anchors,), (positives,), len(anchors)) / len(anchors)

    def _loss_of_block(self, block: slice, own: Tensors, shared: Tensors) -> Tensor:
        (anchors,), (positives,) = own, shared
        scores, same = dot(anchors, positives), same_row(block, torch.arange(len(positives), device=positives.device))
        hardest = scores.masked_fill(same, -INF).amax(1)  # relu makes 0 of -inf, where there is no other row
        positive = scores.diagonal(block.start)  # row i of the block is row start + i of the batch
        return (F.relu(self.positive_margin - positive) + F.relu(hardest - self.negative_margin)).sum()
