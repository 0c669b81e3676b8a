"""Sparse losses, the ramp of their regularizers and the autoencoder beside sentence-transformers, on drawn inputs."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from models import DATA
from sentence_transformers import SparseEncoder as Real
from sentence_transformers import util
from sentence_transformers.sparse_encoder import losses as real
from sentence_transformers.sparse_encoder.callbacks.splade_callbacks import SpladeRegularizerWeightSchedulerCallback
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder as RealAutoEncoder
from torch import nn

from minist import Batch, losses
from minist.models.sparse_encoder import SparseEncoder
from minist.modules.sparse_autoencoder import SparseAutoEncoder

SEEDS = range(4)
TEXTS = ["The cat sat.", "a", "", "the cat sat, the cat? sat zebra quiz", "sat the"]


class Echo(nn.Module):
    """Stands for a model: the embedding is among the features already."""

    similarity_fn_name = None

    def forward(self, features, **_):
        return {**features, "sentence_embedding": features["sentence_embedding"] * 1.0}


def weights(seed, columns):
    """Those of a sparse encoder: half of them are 0, but not all of a text, to which theirs gives gradients of 1e12."""
    generator = torch.Generator().manual_seed(seed)
    rows, width = (int(torch.randint(low, high, (), generator=generator)) for low, high in ((2, 12), (3, 40)))
    found = [torch.randn(rows, width, generator=generator).relu() for _ in range(columns)]
    for x in found:
        x[:, 0] += 0.1
    return [x.requires_grad_() for x in found]


def check(ours, theirs, leaves):
    """Parts by their names, and the gradients of their sum."""
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    sums = [sum(value.values()) if isinstance(value, dict) else value for value in (ours, theirs)]
    gradients = [torch.autograd.grad(value, leaves, materialize_grads=True) for value in sums]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


INNER = {
    "ranking": (losses.SparseMultipleNegativesRankingLoss, real.SparseMultipleNegativesRankingLoss, None),
    "margin": (losses.SparseMarginMSELoss, real.SparseMarginMSELoss, (2,)),
    "kl": (losses.SparseDistillKLDivLoss, real.SparseDistillKLDivLoss, (3,)),
    "triplet": (losses.SparseTripletLoss, real.SparseTripletLoss, None),
    "cosine": (losses.SparseCosineSimilarityLoss, real.SparseCosineSimilarityLoss, ()),
    "cosent": (losses.SparseCoSENTLoss, real.SparseCoSENTLoss, ()),
    "angle": (losses.SparseAnglELoss, real.SparseAnglELoss, ()),
}
COLUMNS = {"ranking": 3, "margin": 4, "kl": 4, "triplet": 3, "cosine": 2, "cosent": 2, "angle": 2}
OPTIONS = [
    {"document_regularizer_weight": 0.03, "query_regularizer_weight": 0.05},
    {"document_regularizer_weight": 0.03, "document_regularizer_threshold": 3},
    {"document_regularizer_weight": 0.3, "use_document_regularizer_only": True, "document_regularizer_threshold": 8},
    {"document_regularizer_weight": 0.0, "query_regularizer_weight": 0.5, "query_regularizer_threshold": 5},
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", INNER)
def test_splade(name, options, seed):
    (ours, theirs, shape), columns = INNER[name], weights(seed, COLUMNS[name])
    labels = None if shape is None else torch.rand(len(columns[0]), *shape)
    value = losses.SpladeLoss(ours(), **options)(columns, Batch(labels=labels))
    features = [{"sentence_embedding": x} for x in columns]
    check(value, real.SpladeLoss(Echo(), theirs(Echo()), **options)(features, labels), columns)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [None, 0, 4, 9])
def test_flops(threshold, seed):
    (x,) = weights(seed, 1)
    theirs = real.FlopsLoss(Echo(), threshold).compute_loss_from_embeddings(x)
    check(losses.FlopsLoss(threshold)([x], Batch()), theirs, [x])


@pytest.mark.parametrize("seed", SEEDS)
def test_mse(seed):
    columns = weights(seed, 2)
    labels = torch.rand_like(columns[0])
    theirs = real.SparseMSELoss(Echo())([{"sentence_embedding": x} for x in columns], labels)
    check(losses.SparseMSELoss()(columns, Batch(labels=labels)), theirs, columns)


@pytest.mark.parametrize("ratio", [1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("scheduler", ["quadratic", "linear"])
def test_ramp(scheduler, ratio):
    total, most = 60, {"document_regularizer_weight": 0.3, "query_regularizer_weight": 0.5}
    theirs = real.SpladeLoss(Echo(), real.SparseMultipleNegativesRankingLoss(Echo()), **most)
    callback = SpladeRegularizerWeightSchedulerCallback(theirs, scheduler, ratio)
    state = SimpleNamespace(max_steps=total, global_step=0)
    callback.on_train_begin(None, state, None)
    inner = losses.SparseMultipleNegativesRankingLoss()
    ours = losses.SpladeLoss(inner, **most, scheduler=scheduler, warmup_ratio=ratio)
    columns, seen = weights(0, 2), set()
    for step in range(total):
        state.global_step = step
        callback.on_step_begin(None, state, None)
        parts = {name: weight for name, weight, *_ in ours.parts(columns, Batch(progress=step / total))}
        assert parts["document_regularizer_loss"] == pytest.approx(theirs.document_regularizer_weight, abs=1e-12)
        assert parts["query_regularizer_loss"] == pytest.approx(theirs.query_regularizer_weight, abs=1e-12)
        seen.add(theirs.document_regularizer_weight)
    assert {0.0, 0.3} <= seen or (ratio == 1 and len(seen) == total)


# ---------------------------------------------------------------- CSR


def pair(seed, normalize, dead):
    """The same autoencoder twice. In evaluation theirs counts nothing, so both take the same latents for dead."""
    torch.manual_seed(seed)
    shape = (int(torch.randint(6, 20, ())), int(torch.randint(40, 60, ())), 3, 7, normalize, 5)
    theirs = RealAutoEncoder(*shape).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0, 0.4)
    theirs.stats_last_nonzero[:dead] = 6
    theirs.stats_last_nonzero[dead:] = 5
    weights = {name: x.clone() for name, x in theirs.state_dict().items() if name != "encoder.weight"}
    return SparseAutoEncoder.from_folder(dict(zip(theirs.config_keys, shape, strict=True)), weights), theirs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("normalize", "dead", "rows"), [*product([False, True], [0, 4, 30], [6]), (False, 4, 1)])
def test_csr(normalize, dead, rows, seed):
    ours, theirs = pair(seed, normalize, dead)
    inputs = [torch.randn(rows, ours.input_dim).requires_grad_() for _ in range(3)]
    beside = [ours.beside(x) for x in inputs]
    extra = {name: tuple(x[name] for _, x in beside) for name in ours.offers}
    value = losses.CSRLoss(beta=0.3, gamma=0.7)([x for x, _ in beside], Batch(extra=extra))
    wanted = real.CSRLoss(theirs, beta=0.3, gamma=0.7)([{"sentence_embedding": x} for x in inputs])
    torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)
    names = [name for name, _ in ours.named_parameters()]
    assert names == ["latent_bias", "pre_bias", "encoder.weight"]
    ours_of = torch.autograd.grad(sum(value.values()), [*inputs, *ours.parameters()])
    leaves = [*inputs, theirs.latent_bias, theirs.pre_bias, theirs.encoder.weight]
    theirs_of = torch.autograd.grad(sum(wanted.values()), leaves)
    for a, b in zip(ours_of, theirs_of, strict=True):
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a / scale, b / scale, atol=1e-5, rtol=0)


def test_folders_go_both_ways(tmp_path):
    """The recorded folder asks for more latents than it has: the real library embeds by it when told to keep fewer."""
    folder = DATA / "folders" / "st6" / "csr"
    Real(str(folder), device="cpu").save(str(tmp_path / "theirs"))
    model = SparseEncoder(folder)
    model.stack[-1].stats_last_nonzero[:9] = 7
    model.save(tmp_path / "ours")
    ours, theirs = SparseEncoder(tmp_path / "theirs"), Real(str(tmp_path / "ours"), device="cpu")
    assert theirs[-1].stats_last_nonzero.tolist() == [7] * 9 + [0] * 55
    torch.testing.assert_close(theirs[-1].encoder.weight, model.stack[-1].encoder.weight)
    for k in (1, 8, 20):
        wanted = Real(str(folder), device="cpu").encode(TEXTS, max_active_dims=k).to_dense()
        assert (wanted > 0).sum(1).max() == k
        for found in (model, ours):
            torch.testing.assert_close(found.encode(TEXTS, max_active_dims=k).to_dense(), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs.encode(TEXTS, max_active_dims=k).to_dense(), wanted)
    assert util.SimilarityFunction(theirs.similarity_fn_name).value == ours.similarity_name == "dot"
