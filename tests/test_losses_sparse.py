"""Losses of sparse encoders: recorded numbers, thresholds, the ramp, rare words, and what a config may say."""

import json

import pytest
import torch
from loss_checks import assert_recorded, assert_slow
from shelf import OTHER_NAMES
from tiny import sentences, tiny_model

from minist import Batch, losses
from minist.losses.base import Loss
from minist.losses.sparse import L1Loss
from minist.modules.static_embedding import inverse_document_frequencies
from minist.training.construct import make

PRICES = {"document_regularizer_weight": 3e-2, "query_regularizer_weight": 5e-2}
FREE = {"document_regularizer_weight": 0.0, "query_regularizer_weight": 0.0}


def splade(inner="SparseMultipleNegativesRankingLoss", **options):
    return make("the loss", {"name": "SpladeLoss", "loss": inner, **(options or PRICES)}, losses, Loss)


def sparse_columns(columns=2, rows=5, width=6):
    """Weights of texts that use about half of the words, and one text that uses none."""
    torch.manual_seed(0)
    found = [torch.randn(rows, width, dtype=torch.float64).relu() for _ in range(columns)]
    found[0][1] = 0
    return [x.requires_grad_() for x in found]


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("splade_mnrl", splade()),
        ("splade_mnrl_doconly", splade(document_regularizer_weight=3e-2, use_document_regularizer_only=True)),
        ("splade_margin_mse", splade("SparseMarginMSELoss")),
        ("splade_distill_kl", splade("SparseDistillKLDivLoss", document_regularizer_weight=3e-2)),
        ("sparse_cosent(default sim)", splade("SparseCoSENTLoss", **FREE)),
        ("sparse_cosent(pairwise_cos_sim)", splade({"name": "SparseCoSENTLoss", "similarity_fct": "cosine"}, **FREE)),
        ("sparse_angle", splade("SparseAnglELoss", **FREE)),
        ("sparse_cosine_similarity", splade("SparseCosineSimilarityLoss", **FREE)),
        ("sparse_triplet", splade("SparseTripletLoss", **FREE)),
        ("flops", losses.FlopsLoss()),
    ],
)
def test_recorded(name, loss):
    assert_recorded(name, loss)


def test_other_names_are_the_dense_losses():
    """Those whose defaults differ are functions of their own, and stand on the shelf."""
    same = {name: vars(losses)[name] for name in OTHER_NAMES}
    assert len(same) == 6 and all(loss is vars(losses)[name.removeprefix("Sparse")] for name, loss in same.items())
    loss = losses.SparseMultipleNegativesRankingLoss()
    assert type(loss) is losses.MultipleNegativesRankingLoss and (loss.scale, loss.normalize) == (1.0, False)
    loss = losses.SparseDistillKLDivLoss(teacher_temperature=3.0)
    assert (loss.student_temperature, loss.teacher_temperature) == (2.0, 3.0)


# ---------------------------------------------------------------- regularizers


@pytest.mark.parametrize("threshold", range(6))
@pytest.mark.parametrize(("loss", "options"), [("FlopsLoss", {}), ("IDFFlopsLoss", {"idf": [0.5, 1, 1.5, 2, 3, 9]})])
def test_threshold(loss, options, threshold):
    """Texts of few words count as zeros, and still count."""
    columns, options = sparse_columns(), options | {"threshold": threshold}
    assert len({(x > 0).sum(1)[i].item() for x in columns for i in range(5)}) > 3  # texts of 0, .. 4 words
    assert_slow(vars(losses)[loss](**options), columns, Batch(), **options)


def test_flops_by_hand():
    x = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]], requires_grad=True)
    assert losses.FlopsLoss()([x], Batch()) == 1 + 0 + 4
    assert losses.FlopsLoss(threshold=1)([x], Batch()) == 1 + 0 + 0.25  # the second text has one word
    assert L1Loss()([x], Batch()) == 3 and L1Loss(threshold=1)([x], Batch()) == 1.5
    assert losses.FlopsLoss()([-x], Batch()) == 5
    two_columns = losses.FlopsLoss()([x[:1], x[1:]], Batch())  # texts of all columns count together
    assert two_columns == 5


def test_rare_words_cost_less():
    """Each word in half of the texts: by idf 2 a quarter of the price; a word is never dearer than by FLOPS."""
    x = torch.eye(4)
    (by_idf,) = torch.autograd.grad(losses.IDFFlopsLoss([0.0, 1.0, 2.0, 4.0])([x.requires_grad_()], Batch()), x)
    (flat,) = torch.autograd.grad(losses.FlopsLoss()([x], Batch()), x)
    torch.testing.assert_close((by_idf / flat)[0], torch.tensor([1.0, 1.0, 1 / 4, 1 / 16]))


def test_idf_of_a_file(tmp_path):
    """A table token -> idf is put in the order of the model's vocabulary; one of another vocabulary is refused."""
    model, file = tiny_model(), tmp_path / "idf.json"
    table = inverse_document_frequencies(sentences(30), model.tokenizer)
    file.write_text(json.dumps(dict(reversed(table.items()))))
    loss = splade(
        "SparseMarginMSELoss", **PRICES, document_regularizer={"name": "IDFFlopsLoss", "idf": str(file), "threshold": 2}
    )
    loss.attach(model, (None, None, None), {})
    vocabulary = model.tokenizer.backend.get_vocab()
    idf = [table[token] for token in sorted(vocabulary, key=vocabulary.get)]
    torch.testing.assert_close(loss.inner[1].idf, torch.tensor(idf))
    assert loss.inner[1].threshold == 2 and len(idf) == 93
    with pytest.raises(ValueError, match="IDFFlopsLoss has the idf of 93 words, the model has 16"):
        loss.check([torch.zeros(2, 16)] * 3, Batch(labels=torch.zeros(2)))
    file.write_text(json.dumps(table | {"zebra": 3.0}))
    with pytest.raises(ValueError, match="1 tokens of the table are none of the vocabulary: zebra"):
        loss.attach(model, (None, None, None), {})


# ---------------------------------------------------------------- SpladeLoss


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, {0.0: 0, 0.1: 0.09, 1 / 6: 0.25, 1 / 3: 1, 1.0: 1}),
        ({"scheduler": "linear"}, {0.0: 0, 0.1: 0.3, 1 / 6: 0.5, 1 / 3: 1, 0.7: 1}),
        ({"warmup_ratio": 1.0}, {0.0: 0, 0.5: 0.25, 1.0: 1}),
        ({"warmup_ratio": 0}, {0.0: 1, 0.5: 1}),
    ],
)
def test_ramp(options, shares):
    columns, loss = sparse_columns(3), splade(**PRICES, **options)
    full = loss(columns, Batch())  # no progress said is all of it
    for progress, share in shares.items():
        found = loss(columns, Batch(progress=progress))
        assert found["base_loss"] == full["base_loss"]
        for name in ("document_regularizer_loss", "query_regularizer_loss"):
            torch.testing.assert_close(found[name], share * full[name])


def test_regularizers_by_name():
    columns = sparse_columns(3)
    found = splade(**PRICES, document_regularizer="l1", document_regularizer_threshold=2)(columns, Batch())
    documents = torch.cat(columns[1:])
    few = (documents > 0).sum(1) <= 2
    assert 0 < few.sum() < 10
    torch.testing.assert_close(found["document_regularizer_loss"], 3e-2 * documents[~few].sum() / 10)
    found = splade(**PRICES, query_regularizer_threshold=2, query_regularizer="l1")(columns, Batch())
    queries = columns[0][(columns[0] > 0).sum(1) > 2]
    torch.testing.assert_close(found["query_regularizer_loss"], 5e-2 * queries.sum() / 5)
    assert found["document_regularizer_loss"] == 3e-2 * losses.FlopsLoss()([documents], Batch())


def test_lists_of_texts():
    """The documents of all rows count alike, however many a row has."""
    query, positive, negatives = sparse_columns(3)
    counts = torch.tensor([2, 0, 1, 0, 1])
    found = splade()([query, positive, negatives[:4]], Batch(counts=(None, None, counts)))
    wanted = losses.FlopsLoss()([torch.cat([positive, negatives[:4]])], Batch())
    torch.testing.assert_close(found["document_regularizer_loss"], 3e-2 * wanted)


def test_labels_may_be_words_where_the_inner_loss_takes_them():
    only = {"document_regularizer_weight": 0.1, "use_document_regularizer_only": True}
    assert splade("BatchAllTripletLoss", **only).class_names
    assert not splade("CoSENTLoss", **only).class_names
    assert splade({"name": "CSRLoss", "loss": "BatchAllTripletLoss"}, **only).class_names


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"document_regularizer": "l2"}, "regularizer is 'l2', known are flops, l1"),
        ({"scheduler": "cubic"}, "scheduler is 'cubic', known are quadratic, linear"),
        ({"warmup_ratio": 1.5}, "warmup_ratio is 1.5: use a number at least 0 and at most 1"),
        ({"document_regularizer_weight": -1.0}, "document_regularizer_weight is -1.0: use a number at least 0"),
        ({"query_regularizer_weight": -1.0}, "query_regularizer_weight is -1.0: use a number at least 0"),
        ({"use_document_regularizer_only": True}, "leaves no queries: give no query_regularizer_weight"),
        ({"document_regularizer_threshold": -2}, "threshold is -2: use a number at least 0"),
        ({"loss": "SparseTriplet"}, "loss of SpladeLoss is 'SparseTriplet', known are .*SparseTripletLoss"),
        ({"loss": {"name": "SparseDistillKLDivLoss", "scale": 1.0}}, "argument of SparseDistillKLDivLoss is 'scale'"),
        ({"loss": "DenoisingAutoEncoderLoss"}, "cannot stand inside another loss"),
    ],
)
def test_what_a_config_gets_wrong(options, says):
    with pytest.raises(ValueError, match=says):
        splade(**{"inner": options.pop("loss", "SparseTripletLoss"), **PRICES, **options})
