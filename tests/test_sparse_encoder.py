"""SparseEncoder: sparse embeddings, their words, what they share; and folders of sparse models."""

import json
import shutil

import pytest
import torch
from models import DATA

from minist import MaskedLM, SentenceTransformer, SparseEncoder
from minist.batch import Batch
from minist.models import open_model
from minist.models.saving import class_of
from minist.models.sparse_encoder import intersection, largest_weights, sparsity

FOLDERS = ["st5/sparse", "st5/idf", "st6/sparse", "st6/idf"]
TEXTS = ["the cat sat", "", "quiz " * 60, "a", "sat the cat on the mat", "read write", "the cat sat"]


def new_model(**options):
    return SparseEncoder(DATA / "folders/st6/sparse", **options)


def test_encode():
    model = new_model()
    found = model.encode(TEXTS)
    assert found.is_sparse and found.is_coalesced() and found.shape == (7, 63) and found.dtype == torch.float32
    with model.inference():
        whole = model([model.read(TEXTS, "", None)[0]])[0][0]
    torch.testing.assert_close(found.to_dense(), whole, atol=1e-6, rtol=0)
    alone = model.encode("the cat sat")
    assert alone.shape == (63,)
    torch.testing.assert_close(alone.to_dense(), found.to_dense()[0], atol=1e-6, rtol=0)
    assert model.encode([]).shape == (0, 63)
    for size in (1, 20):
        torch.testing.assert_close(model.encode(TEXTS, batch_tokens=size).to_dense(), whole, atol=1e-6, rtol=0)


def test_no_more_than_a_batch_is_dense(monkeypatch):
    model, rows = new_model(), []
    forward = model.stack[-1].forward
    counting = lambda words, packed: rows.append(packed.n) or forward(words, packed)  # noqa: E731
    monkeypatch.setattr(model.stack[-1], "forward", counting)
    model.encode(TEXTS * 40, batch_tokens=64)
    assert max(rows) <= 64 and sum(rows) == 280


@pytest.mark.parametrize("k", [1, 3, 63, 100])
def test_the_largest_weights(k):
    model = new_model()
    whole = model.encode(TEXTS).to_dense()
    found = model.encode(TEXTS, max_active_dims=k).to_dense()
    for row, kept in zip(whole, found, strict=True):
        order = row.argsort(descending=True, stable=True)[:k]
        assert kept.nonzero()[:, 0].tolist() == sorted(i for i in order.tolist() if row[i] != 0)
        assert torch.equal(kept[kept != 0], row[kept != 0])
    assert torch.equal(new_model(max_active_dims=k).encode(TEXTS).to_dense(), found)


def test_largest_by_distance_from_0():
    x = torch.tensor([[0.0, -3.0, 1.0, 2.0, -2.0], [0.0] * 5])
    assert largest_weights(x.to_sparse().coalesce(), 2).to_dense().tolist() == [[0, -3, 0, 2, 0], [0] * 5]


def test_decode():
    model = new_model()
    found = model.encode(TEXTS)
    words = model.decode(found, top_k=3)
    assert len(words) == 7 and all(len(row) <= 3 for row in words)
    vocabulary, dense = model.tokenizer.backend.get_vocab(), found.to_dense()
    for row, decoded in zip(dense, model.decode(found), strict=True):
        assert [weight for _, weight in decoded] == sorted(row[row != 0].tolist(), reverse=True)
        assert all(row[vocabulary[word]] == weight for word, weight in decoded)
    assert model.decode(found[0]) == model.decode(found)[0] == model.decode(dense[0])
    assert model.decode(torch.zeros(2, 63)) == [[], []]
    with pytest.raises(ValueError, match="top_k is 0: use a number at least 1"):
        model.decode(found, top_k=0)


def test_sparsity_and_intersection():
    x = torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 3.0]])
    assert sparsity(x) == sparsity(x.to_sparse()) == {"active_dims": 1.5, "sparsity_ratio": 1 - 1.5 / 4}
    assert sparsity(x[0])["active_dims"] == 2 and sparsity(torch.zeros(0, 4)) == {"active_dims": 0, "sparsity_ratio": 1}
    query = torch.tensor([2.0, 1.0, 0.0, -1.0])
    assert intersection(query, x.to_sparse()).to_dense().tolist() == [[2, 0, 0, 0], [0, 0, 0, 0]], "those above 0 alone"
    assert intersection(query.to_sparse(), x[0].to_sparse()).to_dense().tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize("name", ["dot", "cosine", "euclidean", "manhattan"])
def test_similarity(name):
    model = new_model()
    a, b = model.encode(TEXTS), model.encode(TEXTS[:3])
    assert model.similarity_name == "dot", "unless the folder says another"
    model.similarity_name = name
    dense = SentenceTransformer(DATA / "folders/st6/dense")
    dense.similarity_name = name
    torch.testing.assert_close(model.similarity(a, b), dense.similarity(a.to_dense(), b.to_dense()))
    pairs = model.similarity_pairwise(a, a)
    torch.testing.assert_close(pairs, dense.similarity_pairwise(a.to_dense(), a.to_dense()))


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, tmp_path):
    model = open_model(DATA / "folders" / name)
    assert type(model) is SparseEncoder
    model.save(tmp_path / "m")
    again = open_model(tmp_path / "m")
    for role in ("query", "document"):
        assert torch.equal(again.encode(TEXTS, role=role).to_dense(), model.encode(TEXTS, role=role).to_dense())


def test_what_version_5_calls_them():
    """It has another class for an encoder whose words are scored, and packages of its own for sparse modules."""
    content = new_model().content()
    names = [".".join(class_of(module, content)) for module in content.stack if not module.within]
    package = "sentence_transformers.sparse_encoder.models"
    assert names == [f"{package}.MLMTransformer", f"{package}.SpladePooling"]
    dense = SentenceTransformer(DATA / "folders/st6/dense").content()
    assert class_of(dense.stack[0], dense) == ("sentence_transformers.models", "Transformer")


def test_a_plain_checkpoint():
    with_head, model = SparseEncoder(DATA / "enc/bert_mlm"), new_model()
    assert [module.name for module in with_head.stack] == [module.name for module in model.stack]
    with pytest.warns(UserWarning, match="the model has a new head that scores words: train it"):
        SparseEncoder(DATA / "enc/bert")


def test_the_words_are_the_encoders():
    """One matrix, read and compared with; it moves with the model, and is saved once."""
    model = new_model().double()
    assert model.stack[1](torch.zeros(1, 16).double()).weight is model.stack[0].embeddings.word.weight
    assert "decoder" not in " ".join(model.state_dict())


def test_a_decoder_of_its_own(tmp_path):
    shutil.copytree(DATA / "folders/st6/sparse", tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"the weight cls\.predictions\.decoder\.weight is missing"):
        SparseEncoder(tmp_path / "m")
    model = new_model()
    head = model.stack[1]
    head.decoder, head.config = torch.nn.Linear(16, 63, bias=False), {"tie_word_embeddings": False}
    torch.nn.init.ones_(head.decoder.weight)
    model.save(tmp_path / "own")
    again = SparseEncoder(tmp_path / "own")
    assert torch.equal(again.stack[1].decoder.weight, torch.ones(63, 16))
    assert torch.equal(again.encode(TEXTS).to_dense(), model.encode(TEXTS).to_dense())


@pytest.mark.parametrize(
    ("kind", "folder", "message"),
    [
        (SparseEncoder, "folders/st6/dense", "is no sparse model: open it with SentenceTransformer"),
        (SparseEncoder, "folders/st6/ce", "is no sparse model: open it with CrossEncoder"),
        (SentenceTransformer, "folders/st6/sparse", "gives sparse, no embeddings: open it with SparseEncoder"),
        (SentenceTransformer, "folders/st5/idf", "gives sparse, no embeddings: open it with SparseEncoder"),
        (MaskedLM, "folders/st6/static", "begins with StaticEmbedding: scores of words need an encoder"),
    ],
)
def test_another_kind_of_folder(kind, folder, message):
    with pytest.raises(ValueError, match=message):
        kind(DATA / folder)


@pytest.mark.parametrize("name", ["batch_size", "convert_to_tensor", "save_to_cpu", "normalize_embeddings"])
def test_arguments_of_others(name):
    with pytest.raises(ValueError, match=f"encode has no argument {name}: "):
        new_model().encode("a", **{name: 1})


def test_numpy_is_not_promised():
    """As it is in the advice that all kinds of models share."""
    with pytest.raises(ValueError, match="no argument convert_to_numpy: it always gives a sparse tensor"):
        new_model().encode("a", convert_to_numpy=True)


def test_what_is_logged():
    model = new_model()
    columns = [torch.tensor([[1.0] * 3 + [0.0] * 60]), torch.eye(63)[:2], torch.ones(2, 63) * torch.eye(63)[0]]
    assert model.describe(columns, Batch()) == {"query_active_dims": 3, "document_active_dims": 1}
    assert model.describe(columns[:1], Batch()) == {"active_dims": 3}
    with pytest.warns(UserWarning, match="no text has an active word left"):
        model.describe([torch.zeros(2, 63)] * 2, Batch())
    with pytest.warns(UserWarning, match="more than half of all words are active"):
        model.describe([torch.ones(2, 63)] * 2, Batch(progress=0.5))
    model.describe([torch.ones(2, 63)] * 2, Batch(progress=0.1))  # the regularizers have not their weight yet
