"""Contrastive losses beside the real ones: fresh random embeddings and shapes, every combination of options."""

from itertools import combinations, product

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as real
from sentence_transformers.util import cos_sim, dot_score
from torch import nn

from minist import Batch
from minist.losses import (
    GISTEmbedLoss,
    GlobalOrthogonalRegularizationLoss,
    MegaBatchMarginLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
    row_blocks,
)

OTHERS = ("query_to_query", "doc_to_query", "doc_to_doc")
DIRECTIONS = [("query_to_doc", *some) for n in range(4) for some in combinations(OTHERS, n)]
PARTITIONED = [(d, "joint") for d in DIRECTIONS]
PARTITIONED += [(d, "per_direction") for d in DIRECTIONS if set(d) <= {"query_to_doc", "doc_to_query"}]
HARDNESS = [(None, 0.0), ("in_batch_negatives", 9.0), ("hard_negatives", 5.0), ("all_negatives", 2.5)]
SIMILARITIES = {"cosine": (cos_sim, 20.0), "dot": (dot_score, 0.5)}
MODEL = nn.Identity()  # the real losses want one, and do not use it for embeddings that are given


class Echo(nn.Module):
    """Stands for a model, or a guide: the embedding is among the features already."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, features):
        return {"sentence_embedding": features[self.name]}


def random_columns(seed, columns, least=1):
    generator = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((least, 12), (2, 40)))
    return [torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(columns)]


def check_same(ours, theirs, columns):
    """Values, and gradients of their sum."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    sums = [sum(value.values()) if isinstance(value, dict) else value for value in (ours, theirs)]
    gradients = [torch.autograd.grad(value, columns, materialize_grads=True) for value in sums]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("negatives", range(4))
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("directions, mode", PARTITIONED)
def test_multiple_negatives_ranking(directions, mode, similarity, negatives):
    real_similarity, scale = SIMILARITIES[similarity]
    for seed, (hardness, strength) in product(range(3), HARDNESS):
        options = {
            "scale": scale,
            "directions": directions,
            "partition_mode": mode,
            "hardness_mode": hardness,
            "hardness_strength": strength,
        }
        columns = random_columns(1000 * negatives + seed, 2 + negatives)
        ours = MultipleNegativesRankingLoss(similarity_fct=similarity, **options)(columns, Batch())
        loss = real.MultipleNegativesRankingLoss(MODEL, similarity_fct=real_similarity, **options)
        check_same(ours, loss.compute_loss_from_embeddings(columns, None), columns)


@pytest.mark.parametrize("negatives", range(3))
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_symmetric(similarity, negatives):
    real_similarity, scale = SIMILARITIES[similarity]
    for seed in range(10):
        columns = random_columns(1000 * negatives + seed, 2 + negatives)
        ours = MultipleNegativesSymmetricRankingLoss(scale, similarity)(columns, Batch())
        loss = real.MultipleNegativesSymmetricRankingLoss(MODEL, scale, real_similarity)
        check_same(ours, loss.compute_loss_from_embeddings(columns, None), columns)


def real_gist(temperature, strategy, margin, anchors, positives):
    """Without a tokenizer, which its constructor insists on."""
    loss = real.GISTEmbedLoss.__new__(real.GISTEmbedLoss)
    nn.Module.__init__(loss)
    loss.model, loss.guide = Echo("embedding"), Echo("guide")
    loss.similarity_fct, loss.cross_entropy_loss = nn.CosineSimilarity(dim=-1), nn.CrossEntropyLoss()
    loss.must_retokenize = loss.gather_across_devices = False
    loss.temperature, loss.margin_strategy, loss.margin = temperature, strategy, margin
    loss.contrast_anchors, loss.contrast_positives = anchors, positives
    return loss


def related(columns, seed):
    """A guide that finds a text near to others of its row, and to some of other rows."""
    generator = torch.Generator().manual_seed(seed + 7)
    rows, width = len(columns[0]), 5
    topics = torch.randn(rows, width, generator=generator)[torch.arange(rows) // 2]  # two rows to a topic
    return [topics + 0.5 * torch.randn(rows, width, generator=generator) for _ in columns]


@pytest.mark.parametrize("contrast", list(product([True, False], repeat=2)))
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
@pytest.mark.parametrize("columns", [2, 3])
def test_gist(columns, strategy, contrast):
    for seed, margin, temperature in product(range(10), (0.0, 0.05, 0.3), (0.01, 0.1)):
        embeddings = random_columns(100 * columns + seed, columns, least=2)
        guide = related(embeddings, seed)
        ours = GISTEmbedLoss(temperature, strategy, margin, *contrast)(embeddings, Batch(guide=tuple(guide)))
        features = [{"embedding": x * 1, "guide": g} for x, g in zip(embeddings, guide, strict=True)]
        theirs = real_gist(temperature, strategy, margin, *contrast)(features, None)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
        gradients = [torch.autograd.grad(value, embeddings) for value in (ours, theirs)]
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_gist_takes_its_false_negatives_out():
    """Fails if the guides above should agree with everything, and the comparison show nothing."""
    embeddings = random_columns(5, 3, least=8)
    guide = related(embeddings, 5)
    values = {
        GISTEmbedLoss(0.1, margin=margin)(embeddings, Batch(guide=tuple(guide))).item() for margin in (-3, 0, 0.3)
    }
    assert len(values) == 3


@pytest.mark.parametrize("margins", [(0.8, 0.3), (0.2, -0.4)])
def test_mega_batch_margin(margins):
    for seed in range(20):
        columns = random_columns(seed, 2, least=2)
        loss = real.MegaBatchMarginLoss(MODEL, *margins, use_mini_batched_version=False)
        check_same(
            MegaBatchMarginLoss(*margins)(columns, Batch()), loss.calculate_loss([[x] for x in columns]), columns
        )


@pytest.mark.parametrize("aggregation", ["mean", "sum"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 2.0), (0.5, None)])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_orthogonal_regularization(similarity, weights, aggregation):
    for seed, columns in product(range(5), (1, 2, 3)):
        embeddings = random_columns(10 * seed + columns, columns)
        ours = GlobalOrthogonalRegularizationLoss(similarity, *weights, aggregation)(embeddings, Batch())
        loss = real.GlobalOrthogonalRegularizationLoss(MODEL, SIMILARITIES[similarity][0], *weights, aggregation)
        theirs = loss.compute_loss_from_embeddings(embeddings)
        if similarity == "dot":  # whose numbers are in the hundreds
            ours, theirs = ({name: part / 1e3 for name, part in value.items()} for value in (ours, theirs))
        check_same(ours, theirs, embeddings)


@pytest.mark.parametrize("columns", [2, 3])
def test_blocks_of_rows(columns, monkeypatch):
    """Ours in many blocks, theirs at once."""
    monkeypatch.setattr(row_blocks, "SCORES_PER_BLOCK", 50)
    monkeypatch.setattr(row_blocks, "ROWS_PER_BLOCK", 1)
    for seed in range(5):
        embeddings = random_columns(seed, columns, least=6)
        ours = MultipleNegativesRankingLoss(directions=DIRECTIONS[-1])(embeddings, Batch())
        loss = real.MultipleNegativesRankingLoss(MODEL, directions=DIRECTIONS[-1])
        check_same(ours, loss.compute_loss_from_embeddings(embeddings, None), embeddings)
