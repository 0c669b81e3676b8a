"""Every loss with example inputs, alone and inside every wrapper, for the tests that go over all of them.

A loss may stand here several times, with other options.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minist import Batch, losses
from minist.losses.base import Loss

WIDTH = 8  # of all embeddings; a loss with parameters of its own is built for it

# No function of embeddings alone: it takes an encoder and tokens, and is a sum over them. So it has no place here, nor
# in slow_losses.py; test_tsdae.py and test_distributed.py hold the same of it as is held of those on the shelf.
OF_TOKENS = {"DenoisingAutoEncoderLoss"}
# It takes what a SparseAutoEncoder gives beside the embeddings: test_csr.py holds the same of it.
OF_AUTOENCODER = {"CSRLoss", "CSRReconstructionLoss"}
OTHER_NAMES = {name for name in losses.__all__ if vars(losses)[name].__name__ != name}  # SparseMSELoss is MSELoss


def numbers(rows: int) -> Tensor:
    """Scores from 0 to 1, [rows]."""
    return torch.linspace(0, 1, rows)


def classes(rows: int) -> Tensor:
    """Classes 0, 1, 0, 1 .., [rows]."""
    return torch.arange(rows) % 2


def opposite_classes(rows: int) -> Tensor:
    """Classes 1, 0, 1, 0 .., [rows]."""
    return 1 - classes(rows)


def scores(rows: int) -> Tensor:
    """A teacher's scores of three texts, [rows, 3]."""
    return torch.linspace(-1, 1, 3 * rows).reshape(rows, 3).sin()


def margins(rows: int) -> Tensor:
    """A teacher's scores of two texts, [rows, 2]."""
    return scores(rows)[:, :2]


def vectors(rows: int) -> Tensor:
    """A teacher's embeddings, [rows, WIDTH]."""
    return torch.linspace(-2, 2, rows * WIDTH).reshape(rows, WIDTH).cos()


class Example(NamedTuple):
    loss: str  # its name in minist.losses
    columns: int
    options: Mapping[str, Any] = {}
    labels: Callable[[int], Tensor] | None = None  # number of rows -> labels
    guide: bool = False  # whether it needs guide embeddings
    lists_from: int | None = None  # the first column that may hold lists of texts

    def make(self) -> Loss:
        torch.manual_seed(0)  # of the parameters that it may have
        return getattr(losses, self.loss)(**self.options)

    def batch(self, rows: int, seed: int = 0) -> Batch:
        """Labels and guide embeddings for so many rows."""
        generator = torch.Generator().manual_seed(seed + 1000)
        guide = [torch.randn(rows, 5, generator=generator) for _ in range(self.columns if self.guide else 0)]
        if self.guide:
            guide[1][0] = guide[0][0]  # the guide finds that this positive says the same as its anchor
        return Batch(labels=self.labels(rows) if self.labels else None, guide=tuple(guide))

    def __str__(self) -> str:  # names the test
        return "-".join([self.loss, str(self.columns), *(f"{key}={value}" for key, value in self.options.items())])


def random_columns(columns: int, rows: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Embeddings [rows, WIDTH] of each column, which ask for their gradient."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, WIDTH)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for _ in range(columns)
    ]


ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")

SHELF = [
    Example("GISTEmbedLoss", 2, guide=True),
    Example("GISTEmbedLoss", 4, {"temperature": 0.05, "margin": 0.1}, guide=True, lists_from=2),
    Example("GISTEmbedLoss", 3, {"margin_strategy": "relative", "margin": 0.05}, guide=True, lists_from=2),
    Example("GlobalOrthogonalRegularizationLoss", 1, lists_from=0),
    Example("GlobalOrthogonalRegularizationLoss", 3, {"mean_weight": 0.0, "aggregation": "sum"}, lists_from=0),
    Example("MegaBatchMarginLoss", 2),
    Example("MultipleNegativesRankingLoss", 2),
    Example("MultipleNegativesRankingLoss", 4, {"directions": ALL_DIRECTIONS}, lists_from=2),
    Example("AnglELoss", 2, labels=numbers),
    Example("AnglELoss", 4, {"scale": 5.0}, lists_from=2),
    Example("BatchAllTripletLoss", 1, labels=classes),
    Example("BatchAllTripletLoss", 1, {"distance_metric": "cosine", "margin": 0.2}, labels=classes),
    Example("BatchHardSoftMarginTripletLoss", 1, labels=classes),
    Example("BatchHardTripletLoss", 1, labels=classes),
    Example("BatchSemiHardTripletLoss", 1, labels=classes),
    Example("CoSENTLoss", 2, labels=numbers),
    Example("CoSENTLoss", 2, {"similarity_fct": "euclidean", "scale": 1.0}, labels=numbers),
    Example("ContrastiveLoss", 2, labels=classes),
    Example("ContrastiveLoss", 2, {"distance_metric": "euclidean", "margin": 2.0}, labels=classes),
    Example("ContrastiveTensionLoss", 2, labels=classes),
    Example("ContrastiveTensionLossInBatchNegatives", 1),
    Example("ContrastiveTensionLossInBatchNegatives", 2),
    Example("CosineSimilarityLoss", 2, labels=numbers),
    Example("CosineSimilarityLoss", 2, {"loss_fct": "huber", "cos_score_transformation": "tanh"}, labels=numbers),
    Example("DistillKLDivLoss", 4, labels=scores, lists_from=1),
    Example("DistillKLDivLoss", 4, {"similarity_fct": "cosine", "temperature": 0.1}, labels=scores, lists_from=1),
    Example("EmbedDistillLoss", 1, labels=vectors),
    Example("EmbedDistillLoss", 2, {"projection_dim": 5, "embedding_dimension": WIDTH}, guide=True),
    Example("EmbedDistillLoss", 2, {"distance_metric": "l2"}, labels=vectors),
    Example("MSELoss", 2, labels=vectors),
    Example("MarginMSELoss", 3, labels=numbers, lists_from=2),
    Example("MarginMSELoss", 4, {"similarity_fct": "cosine"}, labels=scores, lists_from=2),
    Example("OnlineContrastiveLoss", 2, labels=opposite_classes),
    Example("OnlineContrastiveLoss", 2, {"distance_metric": "manhattan", "margin": 8.0}, labels=opposite_classes),
    Example("SoftmaxLoss", 2, {"embedding_dimension": WIDTH, "num_labels": 2}, labels=classes),
    Example(
        "SoftmaxLoss",
        2,
        {"embedding_dimension": WIDTH, "num_labels": 2, "concatenation_sent_multiplication": True},
        labels=classes,
    ),
    Example("TripletLoss", 3),
    Example("TripletLoss", 3, {"distance_metric": "cosine", "triplet_margin": 0.5}),
    Example(
        "MultipleNegativesRankingLoss", 3, {"hardness_mode": "all_negatives", "hardness_strength": 5.0}, lists_from=2
    ),
    Example("MultipleNegativesRankingLoss", 3, {"in_batch_negatives": False}, lists_from=2),
    Example("MultipleNegativesRankingLoss", 3, {"similarity_fct": "euclidean", "scale": 1.0}, lists_from=2),
    Example("MultipleNegativesSymmetricRankingLoss", 3, lists_from=2),
    Example("FlopsLoss", 1, lists_from=0),
    Example("FlopsLoss", 3, lists_from=0),
    Example("IDFFlopsLoss", 2, {"idf": [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0]}, lists_from=0),
    Example("SparseMultipleNegativesRankingLoss", 3, lists_from=2),
    Example("SparseDistillKLDivLoss", 3, labels=margins, lists_from=1),
]

# ---------------------------------------------------------------- wrappers

DIMS = {8: 1.0, 5: 0.5, 3: 2.0}  # of the Matryoshka losses, with their weights
LAYERS = 2  # of the models here: layers 0 and 1 can be drawn
TEMPERATURE = 0.3
SPLADE_WEIGHTS = (0.003, 0.005)  # of documents, of queries
LAYER_WEIGHTS = {"last_layer_weight": 1.5, "prior_layers_weight": 0.7, "kl_div_weight": 0.3}


class Case(NamedTuple):
    """An example inside a wrapper."""

    example: Example
    wrapper: str

    @property
    def dims(self) -> dict[int, float]:
        """A loss whose own parameters are made for one width cannot be cut."""
        return {WIDTH: 0.5} if {"embedding_dimension", "idf"} & self.example.options.keys() else DIMS

    @property
    def has_layers(self) -> bool:
        return self.wrapper in ("all layers", "one layer", "2d")

    def make(self, kl_temperature: float = TEMPERATURE) -> Loss:
        """The loss; a temperature of 0 leaves out what an AdaptiveLayerLoss adds to the losses of the layers."""
        loss, widths = self.example.make(), (list(self.dims), list(self.dims.values()))
        layers = LAYER_WEIGHTS | {"kl_temperature": kl_temperature}
        if self.wrapper == "matryoshka":
            return losses.MatryoshkaLoss(loss, *widths)
        if self.wrapper == "two widths":
            return losses.MatryoshkaLoss(loss, *widths, n_dims_per_step=2)
        if self.wrapper == "all layers":
            return losses.AdaptiveLayerLoss(loss, -1, **layers, layer_weighting="log")
        if self.wrapper == "one layer":
            return losses.AdaptiveLayerLoss(loss, **layers, layer_weighting="linear")
        if self.wrapper == "2d":
            return losses.Matryoshka2dLoss(loss, *widths, n_layers_per_step=-1, **layers)
        if self.wrapper == "sum":
            return losses.WeightedSumLoss([loss, loss], [0.5, 2.0])
        if self.wrapper == "splade":
            return losses.SpladeLoss(loss, *SPLADE_WEIGHTS, document_regularizer="l1")
        if self.wrapper == "splade of documents":
            return losses.SpladeLoss(loss, SPLADE_WEIGHTS[0], use_document_regularizer_only=True)
        return loss

    def __str__(self) -> str:
        return f"{self.wrapper} {self.example}"


WRAPPERS = ("plain", "matryoshka", "two widths", "all layers", "one layer", "2d", "sum", "splade of documents")
WRAPPER_LOSSES = {"AdaptiveLayerLoss", "Matryoshka2dLoss", "MatryoshkaLoss", "SpladeLoss", "WeightedSumLoss"}
CASES = [Case(example, wrapper) for wrapper in WRAPPERS for example in SHELF]
CASES += [Case(example, "splade") for example in SHELF if example.columns > 1]  # a query and documents
