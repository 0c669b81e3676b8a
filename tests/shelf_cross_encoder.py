"""Every loss of cross-encoders with example inputs, for the tests that go over all of them.

A loss may stand here several times, with other options. Rows have several pairs, or one or none.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minist import Batch
from minist.losses import cross_encoder
from minist.losses.base import Loss

CLASSES = 3
LENGTHS = (3, 1, 5, 0, 2, 4)  # of lists of documents, row by row and then from the front again
POSITIVE_AND_NEGATIVES = (3, 2, 1, 4, 2, 3)
SCHEMES = {"LambdaRankScheme", "NDCGLoss1Scheme", "NDCGLoss2PPScheme", "NDCGLoss2Scheme", "NoWeightingScheme"}
ARGUMENTS = SCHEMES | {"PListMLELambdaWeight"}  # of losses
LABELLED = torch.linspace(0, 1, 7)

Labels = Callable[[Tensor], Tensor]  # pairs per row [rows] -> labels


def shares_of_a_match(counts: Tensor) -> Tensor:
    """0, 0.17 .. 1 and again, one for each row."""
    return LABELLED.repeat(len(counts))[: len(counts)]


def classes(counts: Tensor) -> Tensor:
    return torch.arange(len(counts)) % CLASSES


def shares_of_classes(counts: Tensor) -> Tensor:
    return torch.linspace(-2, 2, CLASSES * len(counts)).reshape(len(counts), CLASSES).sin().softmax(1)


def relevance(counts: Tensor) -> Tensor:
    """0 to 3 of each document, also equal ones in one list."""
    return (torch.arange(int(counts.sum())) * 7 % 11 % 4).float()


def teacher(counts: Tensor) -> Tensor:
    """Scores of each document, some below 0 and all different."""
    return 2 * torch.linspace(0, 9, int(counts.sum())).cos() - 0.5


def margins(counts: Tensor) -> Tensor:
    """One for each negative, [rows, k]."""
    return behind(counts - 1)


def scores(counts: Tensor) -> Tensor:
    """One for the positive and each negative, [rows, 1 + k]."""
    return behind(counts)


def behind(counts: Tensor) -> Tensor:
    """So many numbers in each row, and then NaN."""
    labels = torch.linspace(-3, 3, len(counts) * int(counts.max())).cos().reshape(len(counts), -1)
    return labels.masked_fill(torch.arange(labels.shape[1]) >= counts[:, None], float("nan"))


class Example(NamedTuple):
    loss: str  # its name in minist.losses.cross_encoder
    labels: Labels | None
    lengths: tuple[int, ...] = ()  # pairs per row, if rows have several
    options: Mapping[str, Any] = {}

    def make(self) -> Loss:
        return getattr(cross_encoder, self.loss)(**self.options)

    def counts(self, rows: int) -> Tensor:
        """Pairs of each row."""
        return torch.tensor((self.lengths * rows)[:rows] if self.lengths else [1] * rows)

    def batch(self, rows: int) -> Batch:
        counts = self.counts(rows)
        labels = None if self.labels is None else self.labels(counts)
        if labels is not None and labels.is_floating_point():
            labels = labels.double()
        return Batch(labels=labels, counts=(counts,) if self.lengths else (None,))

    def logits(self, rows: int, seed: int = 0) -> Tensor:
        """Logits of all pairs, [P, num_labels] in float64, that ask for their gradient."""
        shape = int(self.counts(rows).sum()), self.width
        draw = torch.Generator().manual_seed(seed)
        return (2 * torch.randn(shape, dtype=torch.float64, generator=draw)).requires_grad_()

    @property
    def width(self) -> int:
        return CLASSES if self.loss == "CrossEntropyLoss" else 1

    def __str__(self) -> str:  # names the test
        of = [self.labels.__name__] if self.labels else []
        return "-".join([self.loss, *of, *(f"{key}={value}" for key, value in self.options.items())])


def of_lists(loss: str, labels: Labels = relevance, **options: Any) -> Example:
    return Example(loss, labels, LENGTHS, options)


SHELF = [
    Example("BinaryCrossEntropyLoss", shares_of_a_match),
    Example("BinaryCrossEntropyLoss", shares_of_a_match, options={"pos_weight": 3.0, "activation_fn": "Tanh"}),
    Example("MSELoss", shares_of_a_match),
    Example("MSELoss", shares_of_a_match, options={"activation_fn": "Sigmoid"}),
    Example("CrossEntropyLoss", classes),
    Example("CrossEntropyLoss", shares_of_classes, options={"activation_fn": "Tanh"}),
    Example("MarginMSELoss", margins, POSITIVE_AND_NEGATIVES),
    Example("MarginMSELoss", scores, POSITIVE_AND_NEGATIVES, {"activation_fn": "Sigmoid"}),
    Example("MultipleNegativesRankingLoss", None, POSITIVE_AND_NEGATIVES),
    Example("MultipleNegativesRankingLoss", None, LENGTHS, {"scale": 2.0, "activation_fn": "Identity"}),
    of_lists("LambdaLoss"),
    of_lists("LambdaLoss", teacher, k=2),
    of_lists("LambdaLoss", weighting_scheme="NoWeightingScheme", sigma=0.5),
    of_lists("LambdaLoss", weighting_scheme="NDCGLoss1Scheme", reduction_log="natural"),
    of_lists("LambdaLoss", weighting_scheme="NDCGLoss1Scheme", k=1, activation_fn="Tanh"),
    of_lists("LambdaLoss", weighting_scheme="NDCGLoss2Scheme"),
    of_lists("LambdaLoss", weighting_scheme="LambdaRankScheme", k=3),
    of_lists("RankNetLoss"),
    of_lists("RankNetLoss", teacher, k=1, sigma=2.0, reduction_log="natural"),
    of_lists("ListNetLoss"),
    of_lists("ListNetLoss", teacher, activation_fn="Tanh"),
    of_lists("ListMLELoss"),
    of_lists("ListMLELoss", respect_input_order=False),
    of_lists("PListMLELoss"),
    of_lists("PListMLELoss", lambda_weight="logarithmic", respect_input_order=False),
    of_lists("PListMLELoss", teacher, lambda_weight="reciprocal", activation_fn="Tanh"),
    of_lists("ADRMSELoss"),
    of_lists("ADRMSELoss", teacher, alpha=3.0, activation_fn="Tanh"),
]
