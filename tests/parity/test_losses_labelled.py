"""Losses of pairs, triplets and distillation beside the real ones, on drawn embeddings and shapes."""

import pytest
import torch
from sentence_transformers import util
from sentence_transformers.sentence_transformer import losses as real
from sentence_transformers.sentence_transformer.losses import BatchHardTripletLossDistanceFunction as BatchDistance
from sentence_transformers.sentence_transformer.losses import SiameseDistanceMetric, TripletDistanceMetric
from torch import nn

from minist import Batch, losses

SEEDS = range(4)
SIAMESE = {
    "cosine": SiameseDistanceMetric.COSINE_DISTANCE,
    "euclidean": SiameseDistanceMetric.EUCLIDEAN,
    "manhattan": SiameseDistanceMetric.MANHATTAN,
}
TRIPLET = {
    "cosine": TripletDistanceMetric.COSINE,
    "euclidean": TripletDistanceMetric.EUCLIDEAN,
    "manhattan": TripletDistanceMetric.MANHATTAN,
}
IN_BATCH = {"cosine": BatchDistance.cosine_distance, "euclidean": BatchDistance.euclidean_distance}
PAIRWISE = {"cosine": util.pairwise_cos_sim, "dot": util.pairwise_dot_score, "euclidean": util.pairwise_euclidean_sim}


class Echo(nn.Module):
    """A model whose embeddings are what it is given."""

    device = torch.device("cpu")

    def __init__(self, width=0):
        super().__init__()
        self.width = width

    def forward(self, features, **_):
        return {"sentence_embedding": features["sentence_embedding"] * 1.0}

    def get_embedding_dimension(self):
        return self.width


def draw(seed, columns):
    generator = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((4, 40), (2, 48)))
    return [torch.randn(rows, width, generator=generator).requires_grad_() for _ in range(columns)], generator


def same(ours, theirs, columns, labels, guide=()):
    """Both losses' values and gradients."""
    features = [{"sentence_embedding": column} for column in columns]
    found = ours(columns, Batch(labels=labels, guide=guide))
    expected = theirs(features, labels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=2e-5)
    found, expected = (torch.autograd.grad(value, columns, materialize_grads=True) for value in (found, expected))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def binary(rows, generator):
    return torch.randint(0, 2, (rows,), generator=generator)


@pytest.mark.parametrize("seed", SEEDS)
def test_pairs_with_scores(seed):
    columns, generator = draw(seed, 2)
    labels = torch.randint(0, 6, (len(columns[0]),), generator=generator) / 5
    model = Echo()
    same(losses.CosineSimilarityLoss(), real.CosineSimilarityLoss(model), columns, labels)
    transformed = real.CosineSimilarityLoss(model, nn.L1Loss(), nn.Sigmoid())
    same(losses.CosineSimilarityLoss("l1", "sigmoid"), transformed, columns, labels)
    for scale in (1.0, 20.0):
        same(losses.AnglELoss(scale), real.AnglELoss(model, scale), columns, labels)
        for name, function in PAIRWISE.items():
            theirs = real.CoSENTLoss(model, scale, function)
            same(losses.CoSENTLoss(scale, name), theirs, columns, labels)
    same(losses.CoSENTLoss(), real.CoSENTLoss(model), columns, labels > 0.5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", [3, 4])
def test_angle_with_negatives(number, seed):
    columns, generator = draw(seed, number)
    same(losses.AnglELoss(), real.AnglELoss(Echo()), columns, None)
    same(losses.AnglELoss(), real.AnglELoss(Echo()), columns, torch.rand(len(columns[0]), generator=generator))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", SIAMESE)
def test_contrastive(metric, seed):
    columns, generator = draw(seed, 2)
    labels, model, theirs = binary(len(columns[0]), generator), Echo(), SIAMESE[metric]
    for margin in (0.5, 5.0):
        for mean in (True, False):
            same(
                losses.ContrastiveLoss(metric, margin, mean),
                real.ContrastiveLoss(model, theirs, margin, mean),
                columns,
                labels,
            )
        for some in (labels, torch.ones_like(labels), torch.zeros_like(labels)):
            ours = losses.OnlineContrastiveLoss(metric, margin)
            same(ours, real.OnlineContrastiveLoss(model, theirs, margin), columns, some)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("parts", [(True, True, False), (True, True, True), (False, True, False), (False, False, True)])
def test_softmax(parts, seed):
    columns, generator = draw(seed, 2)
    width = columns[0].shape[1]
    ours, theirs = losses.SoftmaxLoss(width, 4, *parts), real.SoftmaxLoss(Echo(), width, 4, *parts)
    ours.classifier.load_state_dict(theirs.classifier.state_dict())
    same(ours, theirs, columns, torch.randint(0, 4, (len(columns[0]),), generator=generator))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", TRIPLET)
def test_triplets(metric, seed):
    columns, _ = draw(seed, 3)
    for margin in (0.2, 5.0):
        ours = losses.TripletLoss(metric, margin)
        same(ours, real.TripletLoss(Echo(), TRIPLET[metric], margin), columns, None)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", IN_BATCH)
def test_triplets_of_a_batch(metric, seed):
    columns, generator = draw(seed, 1)
    labels = torch.randint(0, 3, (len(columns[0]),), generator=generator)
    labels[:2] = torch.tensor([0, 1])  # a batch of one class is another matter: here it has loss 0
    model, theirs = Echo(), IN_BATCH[metric]
    for margin in (0.2, 5.0):
        for name in ("BatchAllTripletLoss", "BatchHardTripletLoss", "BatchSemiHardTripletLoss"):
            ours = getattr(losses, name)(metric, margin)
            same(ours, BatchOnly(getattr(real, name)(model, theirs, margin)), columns, labels)
    soft = BatchOnly(real.BatchHardSoftMarginTripletLoss(model, theirs))
    same(losses.BatchHardSoftMarginTripletLoss(metric), soft, columns, labels)


class BatchOnly(nn.Module):
    """A real loss that is called with embeddings: its own forward passes them through a model of another kind."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, features, labels):
        return self.loss.compute_loss_from_embeddings([f["sentence_embedding"] for f in features], labels)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", ["cosine", "mse", "l2"])
def test_embeddings_of_a_teacher(metric, seed):
    columns, generator = draw(seed, 3)
    rows, width = columns[0].shape
    for shape in ((rows, width), (rows, 3, width)):
        teacher = torch.randn(shape, generator=generator)
        same(losses.EmbedDistillLoss(metric), real.EmbedDistillLoss(Echo(), metric), columns, teacher)
        same(losses.MSELoss(), real.MSELoss(Echo()), columns, teacher)
    ours, theirs = losses.EmbedDistillLoss(metric, 5, width), real.EmbedDistillLoss(Echo(width), metric, 5)
    ours.projection.load_state_dict(theirs.projection.state_dict())
    same(ours, theirs, columns, torch.randn(rows, 5, generator=generator))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("negatives", [1, 3])
def test_scores_of_a_teacher(negatives, name, seed):
    columns, generator = draw(seed, 2 + negatives)
    rows, model, function = len(columns[0]), Echo(), PAIRWISE[name]
    for width in (negatives, 1 + negatives):
        labels = torch.randn(rows, width, generator=generator)
        same(losses.MarginMSELoss(name), real.MarginMSELoss(model, function), columns, labels)
    labels = torch.randn(rows, 1 + negatives, generator=generator) * 3
    for temperatures in ((1.0, None, None), (2.0, None, None), (1.0, 0.5, 3.0), (2.0, None, 0.7)):
        ours = losses.DistillKLDivLoss(name, *temperatures)
        same(ours, real.DistillKLDivLoss(model, function, *temperatures), columns, labels)
    if negatives == 1:
        same(losses.MarginMSELoss(name), real.MarginMSELoss(model, function), columns, labels[:, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_contrastive_tension(seed):
    columns, generator = draw(seed, 2)
    same(
        losses.ContrastiveTensionLoss(),
        real.ContrastiveTensionLoss(Echo()),
        columns,
        binary(len(columns[0]), generator).float(),
    )
    for name, function, scale in (("cosine", util.cos_sim, 20.0), ("dot", util.dot_score, 0.5)):
        ours = losses.ContrastiveTensionLossInBatchNegatives(scale, name)
        theirs = real.ContrastiveTensionLossInBatchNegatives(Echo(), scale, function)
        same(ours, theirs, columns[:1], None)
