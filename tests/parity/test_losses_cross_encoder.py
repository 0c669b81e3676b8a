"""Losses of cross-encoders beside the real ones, on drawn scores, labels and lengths of lists."""

from itertools import chain, product

import pytest
import torch
from sentence_transformers.cross_encoder import CrossEncoder
from sentence_transformers.cross_encoder import losses as real
from torch import nn

from minist import Batch
from minist.losses import cross_encoder as ours

SEEDS = range(4)
SCHEMES = ("NoWeightingScheme", "NDCGLoss1Scheme", "NDCGLoss2Scheme", "LambdaRankScheme", "NDCGLoss2PPScheme")
ACTIVATIONS = ("Identity", "Sigmoid", "Tanh")


class Lookup(CrossEncoder):
    """A model whose logits [documents, num_labels] are parameters: a document is named by its row."""

    device = torch.device("cpu")

    def __init__(self, logits):
        nn.Module.__init__(self)
        self.logits, self.asked = logits, []  # asked: the documents, call by call

    @property
    def num_labels(self):
        return self.logits.shape[1]

    def preprocess(self, pairs, **_):
        self.asked.append([int(document) for _, document in pairs])
        return {"documents": torch.tensor(self.asked[-1], dtype=torch.long)}

    def forward(self, features):
        return {"scores": self.logits[features["documents"]]}


def draw_logits(n, generator, width=1):
    return (3 * torch.randn(n, width, generator=generator)).requires_grad_()


def draw_lists(seed, least=0):
    """Documents per query, a list of more than 127 among them, and logits of all."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(least, 10, (6,), generator=generator)
    counts[seed % 6] = 200 if seed % 2 else 12
    return counts, draw_logits(int(counts.sum()), generator), generator


def names(documents):
    return [str(document) for document in documents]


def same(logits, found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found, expected = (torch.autograd.grad(value, logits)[0] for value in (found, expected))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.abs().max() > 0


# ---------------------------------------------------------------- single pairs


def same_pairs(our_loss, make, logits, labels):
    documents = range(len(logits))
    theirs = make(Lookup(logits))([["q"] * len(logits), names(documents)], labels)
    same(logits, our_loss([logits], Batch(labels=labels)), theirs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_single_pairs(activation, seed):
    generator = torch.Generator().manual_seed(seed)
    n, given = 3 + 5 * seed, getattr(nn, activation)()
    logits = draw_logits(n, generator)
    for labels in (torch.rand(n, generator=generator), torch.randint(0, 2, (n,), generator=generator)):
        for weight in (None, 0.5, 7.0):
            same_pairs(
                ours.BinaryCrossEntropyLoss(activation, weight or 1.0),
                lambda model, w=weight: real.BinaryCrossEntropyLoss(
                    model, given, None if w is None else torch.tensor(w)
                ),
                logits,
                labels,
            )
    labels = 9 * torch.randn(n, generator=generator)
    same_pairs(ours.MSELoss(activation), lambda model: real.MSELoss(model, given), logits, labels)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_classes(activation, seed):
    generator, given = torch.Generator().manual_seed(seed), getattr(nn, activation)()
    n, width = 4 + 3 * seed, 2 + seed
    logits = draw_logits(n, generator, width)
    shares = torch.randn(n, width, generator=generator).softmax(1)
    for labels in (torch.randint(0, width, (n,), generator=generator), shares):
        same_pairs(ours.CrossEntropyLoss(activation), lambda m: real.CrossEntropyLoss(m, given), logits, labels)


# ---------------------------------------------------------------- a positive and negatives


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("negatives", [1, 3])
def test_margins(negatives, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, width = 2 + 3 * seed, 1 + negatives
    logits = draw_logits(rows * width, generator)
    columns = torch.arange(rows * width).reshape(rows, width).T.tolist()
    shapes = [(rows, width), (rows, negatives), *([(rows,)] if negatives == 1 else [])]
    for shape, activation in product(shapes, ACTIVATIONS):
        labels = torch.randn(shape, generator=generator)
        theirs = real.MarginMSELoss(Lookup(logits), getattr(nn, activation)())
        expected = theirs([["q"] * rows, *map(names, columns)], labels)
        batch = Batch(labels=labels, counts=(torch.full((rows,), width),))
        same(logits, ours.MarginMSELoss(activation)([logits], batch), expected)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_negatives", [None, 1, 4, 100])
@pytest.mark.parametrize("columns", [1, 3])
def test_ranking(columns, num_negatives, seed):
    """Beside the pairs that the real one drew: how ours are drawn is a matter of the data."""
    generator = torch.Generator().manual_seed(seed)
    rows = 2 + 2 * seed
    logits = draw_logits(rows * columns, generator)
    documents = torch.arange(rows * columns).reshape(columns, rows).tolist()
    for scale, activation in ((10.0, "Sigmoid"), (1.5, "Identity")):
        model = Lookup(logits)
        theirs = real.MultipleNegativesRankingLoss(model, num_negatives, scale, getattr(nn, activation)())
        expected = theirs([["q"] * rows, *map(names, documents)], None)
        asked = torch.tensor(model.asked).T  # [rows, pairs of each], the positive first
        assert asked[:, 0].tolist() == documents[0]
        batch = Batch(counts=(torch.full((rows,), asked.shape[1]),))
        loss = ours.MultipleNegativesRankingLoss(num_negatives, scale, activation)
        same(logits, loss([logits[asked.flatten()]], batch), expected)


# ---------------------------------------------------------------- lists


def same_lists(our_loss, make, counts, logits, labels):
    documents = iter(range(len(logits)))
    lists = [names(next(documents) for _ in range(n)) for n in counts.tolist()]
    theirs = make(Lookup(logits))([["q"] * len(counts), lists], list(labels.split(counts.tolist())))
    same(logits, our_loss([logits], Batch(labels=labels, counts=(counts,))), theirs)


def labels_of(counts, generator):
    """Grades of which many are equal, and a teacher's scores, some below 0."""
    n = int(counts.sum())
    return torch.randint(0, 4, (n,), generator=generator), 2 * torch.randn(n, generator=generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_lambda(scheme, seed):
    counts, logits, generator = draw_lists(seed)
    for labels, k in product(labels_of(counts, generator), (None, 1, 5, 500)):
        same_lists(
            ours.LambdaLoss(scheme, k),
            lambda model, k=k: real.LambdaLoss(model, getattr(real, scheme)(), k),
            counts,
            logits,
            labels,
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_options_of_lambda(seed):
    counts, logits, generator = draw_lists(seed)
    labels = labels_of(counts, generator)[0]
    scheme = real.NDCGLoss2PPScheme(2.5)
    for sigma, base in ((0.5, "natural"), (3.0, "binary")):
        same_lists(
            ours.LambdaLoss(ours.NDCGLoss2PPScheme(2.5), sigma=sigma, reduction_log=base, activation_fn="Tanh"),
            lambda m, s=sigma, b=base: real.LambdaLoss(m, scheme, None, s, 1e-10, b, nn.Tanh()),
            counts,
            logits,
            labels,
        )
        same_lists(
            ours.RankNetLoss(3, sigma, reduction_log=base),
            lambda m, s=sigma, b=base: real.RankNetLoss(m, 3, s, 1e-10, b),
            counts,
            logits,
            labels,
        )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_probabilities_and_ranks(activation, seed):
    given = getattr(nn, activation)()
    for least in (0, 1):
        counts, logits, generator = draw_lists(seed, least)
        for labels in labels_of(counts, generator):
            if least:  # an empty list makes the real one NaN
                net = ours.ListNetLoss(activation)
                same_lists(net, lambda m: real.ListNetLoss(m, given), counts, logits, labels)
            for alpha in (1.0, 0.3):
                adr = ours.ADRMSELoss(alpha, activation)
                same_lists(adr, lambda m, a=alpha: real.ADRMSELoss(m, a, given), counts, logits, labels)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("as_given", [True, False])
def test_orders(as_given, activation, seed):
    counts, logits, generator = draw_lists(seed)
    given = getattr(nn, activation)()
    orders = [torch.randperm(n, generator=generator) for n in counts.tolist()]  # no equal ones, whose order is open
    labels = torch.tensor(list(chain(*(order.tolist() for order in orders)))).float()
    mle = ours.ListMLELoss(activation, as_given)
    same_lists(mle, lambda m: real.ListMLELoss(m, given, None, as_given), counts, logits, labels)
    plain, by_ranks = (
        ours.PListMLELoss(None, activation, as_given),
        ours.PListMLELoss(ours.PListMLELambdaWeight("logarithmic"), activation, as_given),
    )
    same_lists(plain, lambda m: real.PListMLELoss(m, None, given, None, as_given), counts, logits, labels)
    usual = ours.PListMLELoss(activation_fn=activation, respect_input_order=as_given)
    real_weight = real.PListMLELambdaWeight()
    same_lists(usual, lambda m: real.PListMLELoss(m, real_weight, given, None, as_given), counts, logits, labels)
    theirs = real.PListMLELambdaWeight(lambda mask: mask / torch.log2(2.0 + torch.arange(mask.shape[1])))
    same_lists(by_ranks, lambda m: real.PListMLELoss(m, theirs, given, None, as_given), counts, logits, labels)
