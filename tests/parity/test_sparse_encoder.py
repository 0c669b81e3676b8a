"""Sparse encoders beside sentence-transformers: embeddings, words, similarities, folders there and back."""

import pytest
import sentence_transformers
import torch
from models import DATA, docstrings, real_model

from minist import SparseEncoder
from minist.models.sparse_encoder import intersection, sparsity

FAMILIES = ["bert", "roberta", "distilbert", "mpnet", "modernbert"]
TINY = ["the cat sat", "", "quiz " * 60, "a", "sat the cat on the mat", "read write"]
TEXTS = [text[:n] for text, n in zip(docstrings(), [0, 1, 5, 20, 60, 200, 500, 1500, 4000] * 6, strict=False)]


def theirs(folder):
    return sentence_transformers.SparseEncoder(str(folder), device="cpu")


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a.to_dense(), b.to_dense(), atol=tolerance, rtol=0, check_dtype=False)


def test_real_splade():
    """Texts of all lengths, beside it, and each alone."""
    ours, other = SparseEncoder(real_model("splade-tiny")), theirs(real_model("splade-tiny"))
    found = ours.encode(TEXTS)
    close(found, other.encode(TEXTS))
    close(torch.stack([ours.encode(text) for text in TEXTS]), found)
    close(ours.encode(TEXTS, max_active_dims=20), other.encode(TEXTS, max_active_dims=20))
    assert 10 < sparsity(found)["active_dims"] < 1000
    assert sparsity(found) == pytest.approx(other.sparsity(found), abs=1e-5)
    assert ours.decode(found, top_k=5) == other.decode(found, top_k=5)
    close(ours.similarity(found, found), other.similarity(found, found), 1e-4)
    close(intersection(found[3], found), other.intersection(found[3], found))


@pytest.mark.parametrize("name", ["st5/sparse", "st5/idf", "st6/sparse", "st6/idf"])
def test_folders(name, tmp_path):
    ours, other = SparseEncoder(DATA / "folders" / name), theirs(DATA / "folders" / name)
    ours.save(tmp_path / "ours")
    other.save_pretrained(str(tmp_path / "theirs"))
    for model in (theirs(tmp_path / "ours"), SparseEncoder(tmp_path / "theirs")):
        close(model.encode_query(TINY), other.encode_query(TINY))
        close(model.encode_document(TINY), other.encode_document(TINY))
    close(ours.encode(TINY), other.encode(TINY))


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family, tmp_path):
    """A plain checkpoint of a masked language model, and what is saved."""
    ours, other = SparseEncoder(DATA / "enc" / f"{family}_mlm"), theirs(DATA / "enc" / f"{family}_mlm")
    other.max_seq_length = ours.max_length  # theirs has more than there are positions
    close(ours.encode(TINY), other.encode(TINY))
    ours.save(tmp_path)
    close(theirs(tmp_path).encode(TINY), ours.encode(TINY))
