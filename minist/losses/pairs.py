"""Losses of text pairs with a label: how similar they are, whether they belong together, or which class they are."""

from collections.abc import Callable
from itertools import compress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import listing, number, pick
from minist.losses.base import Loss, Tensors, check_columns, counts_of, text_rows
from minist.similarity import pairwise_angle, pairwise_cosine, pairwise_distance, pairwise_similarity

Table = dict[str, Callable[..., Tensor]]
REGRESSIONS: Table = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "huber": F.huber_loss}
TRANSFORMATIONS: Table = {"identity": torch.positive, "relu": F.relu, "sigmoid": F.sigmoid, "tanh": F.tanh}
CLASSIFICATIONS: Table = {"cross_entropy": F.cross_entropy, "bce": F.binary_cross_entropy_with_logits}


class CosineSimilarityLoss(Loss):
    """The cosine of two texts shall be their label (Reimers and Gurevych 2019, arXiv:1908.10084).
        loss = mean_i  loss_fct( transformation(cos(u_i, v_i)), label_i )      for row i with texts u_i, v_i
    loss_fct is "mse", "l1", "smooth_l1" or "huber"; cos_score_transformation "identity", "relu", "sigmoid" or "tanh".
    Nothing pushes unrelated texts apart: consider CoSENTLoss."""

    columns, labels = "two texts", "numbers from -1 to 1 [rows], such as 0.8 (of scores from 0 to 5, a fifth)"

    def __init__(self, loss_fct: str = "mse", cos_score_transformation: str = "identity") -> None:
        super().__init__()
        self.loss_fct = pick("loss_fct", loss_fct, REGRESSIONS)
        self.transformation = pick("cos_score_transformation", cos_score_transformation, TRANSFORMATIONS)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        u, v, labels = labelled_pairs(self, embeddings, batch)
        return self.loss_fct(self.transformation(pairwise_cosine(u, v)), labels)

    def check(self, embeddings: Tensors, batch: Batch) -> None:
        labelled_pairs(self, embeddings, batch, lambda label: label.abs() <= 1)  # what no cosine is, none can learn


class CoSENTLoss(Loss):
    """Pairs shall be ranked as their labels are (Huang et al. 2024, doi:10.1109/TASLP.2024.3402087). `scale` is
    1 / temperature, and s_i = scale * sim(u_i, v_i):
        loss = log( 1 + sum over i, j with label_i < label_j of exp(s_i - s_j) )"""

    columns, labels = "two texts", "numbers [rows], such as 3.5, larger for more similar"

    def __init__(self, scale: float = 20.0, similarity_fct: str = "cosine") -> None:
        super().__init__()
        self.scale, self.similarity_fct = number("scale", scale, above=0), pairwise_similarity(similarity_fct)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        u, v, labels = labelled_pairs(self, embeddings, batch)
        return ranking_loss(self.scale * self.similarity_fct(u, v), labels)


class AnglELoss(Loss):
    """CoSENTLoss with the angle of complex vectors, similarity.pairwise_angle, in place of the cosine, whose gradient
    fades near 1 and -1 (Li and Li 2023, arXiv:2309.12871). Columns: two texts with labels [rows]; or anchor, positive
    and any negatives: 1 is the label of a pair with the positive, 0 of one with a negative (of labels y: y and 1 - y).
        loss = log( 1 + sum over pairs i, j with label_i < label_j of exp(scale * (angle_i - angle_j)) )"""

    columns, labels = "two texts, or anchor, positive, negatives", "numbers [rows], such as 0.8; or none with negatives"

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = number("scale", scale, above=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, 2, None, (1,) if len(embeddings) == 2 else (0, 1), lists_from=2)
        anchors, others = embeddings[0], embeddings[1:]
        labels = anchors.new_ones(len(anchors)) if batch.labels is None else batch.labels.to(anchors.dtype)
        rows = [text_rows(column, counts_of(batch, c)) for c, column in enumerate(others, start=1)]
        pair_labels = torch.cat([labels, *(1 - labels[negative_rows] for negative_rows in rows[1:])])  # the opposite
        angles = pairwise_angle(anchors[torch.cat(rows)], torch.cat(list(others)))  # [pairs]
        return ranking_loss(self.scale * angles, pair_labels)


def ranking_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """log(1 + sum over label_i < label_j of exp(score_i - score_j)), [n], [n] -> scalar, in O(n log n)."""
    labels, order = labels.sort()
    scores = scores[order]
    first_larger = torch.searchsorted(labels, labels, right=True)  # from it on, labels are larger than that of row i
    larger = (-scores).flip(0).logcumsumexp(0).flip(0)  # [n], at i: log sum over j >= i of exp(-score_j)
    larger = torch.cat([larger, larger.new_full((1,), float("-inf"))])[first_larger]  # -inf: no row has a larger label
    return torch.cat([scores.new_zeros(1), scores + larger]).logsumexp(0)  # the zero is the 1 + of the formula


class ContrastiveLoss(Loss):
    """Pairs that belong together shall be close, others at least `margin` apart (Hadsell et al. 2006, CVPR).
    Columns: two texts. Labels y [rows]: 1 for a pair that belongs together, 0 for one that does not, or between. With
    d_i the distance of u_i and v_i, "cosine" (1 - cos), "euclidean" or "manhattan":
        loss = mean_i  1/2 * ( y_i d_i^2 + (1 - y_i) max(0, margin - d_i)^2 )      or the sum, size_average=False"""

    columns, labels = "two texts", "numbers from 0 to 1 [rows], 1 for a pair that belongs together"

    def __init__(self, distance_metric: str = "cosine", margin: float = 0.5, size_average: bool = True) -> None:
        super().__init__()
        self.distance, self.margin = pairwise_distance(distance_metric), number("margin", margin, above=0)
        self.size_average = size_average

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        u, v, labels = labelled_pairs(self, embeddings, batch, lambda label: (label >= 0) & (label <= 1))
        distances = self.distance(u, v)
        misses = F.relu(self.margin - distances)  # 0: a negative pair farther apart than the margin is left alone
        losses = (labels * distances**2 + (1 - labels) * misses**2) / 2
        return losses.mean() if self.size_average else losses.sum()  # a sum makes large batches take large steps


class OnlineContrastiveLoss(ContrastiveLoss):
    """ContrastiveLoss on the hard pairs of the batch only, which often learns faster.
        loss = sum over hard positive pairs of d^2  +  sum over hard negative pairs of max(0, margin - d)^2
    A positive pair is hard if its d is larger than the smallest d of a negative pair, a negative one if its d is
    smaller than the largest d of a positive pair. Where the batch has one kind only, those beyond its mean are hard."""

    labels = "0 or 1 [rows], 1 for a pair that belongs together"

    def __init__(self, distance_metric: str = "cosine", margin: float = 0.5) -> None:
        super().__init__(distance_metric, margin)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        u, v, labels = labelled_pairs(self, embeddings, batch, is_binary)
        distances = self.distance(u, v)
        positives, negatives = distances[labels == 1], distances[labels == 0]
        nearest_negative = negatives.min() if len(negatives) else positives.mean()  # a comparison has no gradient
        farthest_positive = positives.max() if len(positives) else negatives.mean()
        hard_positives = positives[positives > nearest_negative]
        hard_negatives = negatives[negatives < farthest_positive]
        return (hard_positives**2).sum() + (F.relu(self.margin - hard_negatives) ** 2).sum()


class SoftmaxLoss(Loss):
    """A linear classifier of text pairs, trained with the encoder (Reimers and Gurevych 2019, arXiv:1908.10084).
    Columns: two texts. Labels [rows]: classes 0 .. num_labels - 1, or shares of each class [rows, num_labels].
        loss = mean_i  loss_fct( W [u_i; v_i; |u_i - v_i|; u_i * v_i] + b, label_i )
    The three options say which of [u; v], |u - v| and u * v are taken. W and b are parameters of the loss. loss_fct is
    "cross_entropy", or "bce" for classes that are independent. `embedding_dimension` is the model's width."""

    columns, class_names = "two texts", True
    labels = "classes [rows], such as 2 or a word; or a share of each [rows, num_labels]"

    def __init__(
        self,
        embedding_dimension: int,
        num_labels: int,
        concatenation_sent_rep: bool = True,
        concatenation_sent_difference: bool = True,
        concatenation_sent_multiplication: bool = False,
        loss_fct: str = "cross_entropy",
    ) -> None:
        super().__init__()
        self.embedding_dimension, self.num_labels, both = embedding_dimension, num_labels, concatenation_sent_rep
        self.taken = both, both, concatenation_sent_difference, concatenation_sent_multiplication
        self.loss_fct = pick("loss_fct", loss_fct, CLASSIFICATIONS)
        vectors = number("number of concatenation_.. that are true", sum(self.taken), least=1)
        self.classifier = nn.Linear(vectors * embedding_dimension, num_labels)

    def num_classes(self, width: int) -> int:
        return self.num_labels if self.loss_fct is F.cross_entropy else 0

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        labels = check_columns(self, embeddings, batch, 2, 2, (1, 2))
        logits = self.logits(*embeddings)
        is_class = labels.dim() == 1 and self.loss_fct is F.cross_entropy
        if is_class and not ((labels >= 0) & (labels < self.num_labels)).all():
            given, wanted = f"go from {labels.min():g} to {labels.max():g}", f"use 0 to {self.num_labels - 1}"
        elif not is_class and labels.numel() != logits.numel():
            given, wanted = f"have shape {list(labels.shape)}", f"use {list(logits.shape)}"
        else:
            targets = labels.long() if is_class else labels.reshape(logits.shape).to(logits.dtype)
            return self.loss_fct(logits, targets)
        raise ValueError(f"SoftmaxLoss: labels {given}: {wanted}, or set num_labels")

    def logits(self, u: Tensor, v: Tensor) -> Tensor:
        """Scores of every class for pairs of embeddings, [n, D], [n, D] -> [n, num_labels]."""
        if u.shape[1] != self.embedding_dimension:
            given = f"embedding_dimension is {self.embedding_dimension}, the embeddings have {u.shape[1]}"
            raise ValueError(f"SoftmaxLoss: {given}: set it to the width of the model")
        vectors = u, v, (u - v).abs(), u * v  # abs: the class does not depend on which text is first
        return self.classifier(torch.cat(list(compress(vectors, self.taken)), dim=1))


def labelled_pairs(
    loss: Loss, embeddings: Tensors, batch: Batch, is_label: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The two columns [n, D] and a label per row [n], in one type. ValueError unless `is_label` holds of each label."""
    labels = check_columns(loss, embeddings, batch, 2, 2, (1,)).to(embeddings[0].dtype)  # classes come as integers
    u, v = embeddings
    if is_label is not None and not (known := is_label(labels)).all():
        wrong = listing(labels[~known].unique().tolist())
        raise ValueError(f"{type(loss).__name__} takes labels {loss.labels}; got {wrong}")
    return u, v, labels


def is_binary(labels: Tensor) -> Tensor:
    return (labels == 0) | (labels == 1)
