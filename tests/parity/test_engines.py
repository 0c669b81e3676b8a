"""Blocks on FAISS, Qdrant and bulk files in README.md files, run on files of encode.py: they find what search finds."""

import json
import re

import numpy as np
import pytest
import torch
from models import DATA
from tiny import GUIDES, run_script, sentences, tiny_model

from minist import SparseEncoder
from minist.retrieval.search import search

DOCUMENTS, QUERIES = sentences(60, seed=1, longest=12), sentences(7, seed=2)
SPARSE = DATA / "folders/st6/sparse"
DOTTED = ["the cat sat . the mat", "a quiz"]  # a word with a dot


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What encode.py writes of documents and queries."""
    folder = tmp_path_factory.mktemp("engines")
    tiny_model().save(folder / "dense")
    (folder / "docs.txt").write_text("\n".join([*DOCUMENTS, *DOTTED]) + "\n", "utf-8")
    (folder / "queries.txt").write_text("\n".join(QUERIES) + "\n", "utf-8")
    wanted = {
        "docs.npy": ("dense", "docs.txt"),
        "queries.npy": ("dense", "queries.txt"),
        "bits.npy": ("dense", "docs.txt", "--precision", "ubinary"),
        "query_bits.npy": ("dense", "queries.txt", "--precision", "ubinary"),
        "words.npz": (SPARSE, "docs.txt"),
        "query_words.npz": (SPARSE, "docs.txt"),
        "words.jsonl": (SPARSE, "docs.txt"),
    }
    for name, (model, texts, *more) in wanted.items():
        model = model if model is SPARSE else folder / model
        code, _, err = run_script("encode.py", "--model", model, folder / texts, "--output", folder / name, *more)
        assert code == 0, err
    return folder


def run_block(start, folder, monkeypatch):
    """The variables after the block of some README.md that begins like that."""
    text = "\n".join(guide.read_text("utf-8") for guide in GUIDES)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = [block for block in blocks if start in block]
    monkeypatch.chdir(folder)
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    return found


def test_faiss(folder, monkeypatch):
    found = run_block("import faiss", folder, monkeypatch)
    queries, docs = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("queries", "docs"))
    scores, rows = search(queries, docs, 10, "dot")
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    same = np.isclose(np.take_along_axis((queries @ docs.T).numpy(), found["rows"], 1), scores, atol=1e-5)
    assert same.all() and (found["rows"] == rows.numpy()).mean() > 0.9  # equal scores in another order, perhaps
    bits = np.unpackbits(np.load(folder / "bits.npy"), axis=1).astype(int)
    own = np.unpackbits(np.load(folder / "query_bits.npy"), axis=1).astype(int)
    far = (own[:, None] != bits[None]).sum(-1)
    np.testing.assert_array_equal(found["distances"], np.sort(far, axis=1)[:, :40])


def test_qdrant(folder, monkeypatch):
    found = run_block("from qdrant_client", folder, monkeypatch)
    queries, docs = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("queries", "docs"))
    scores, _ = search(queries[:1], docs, 10, "cosine")
    np.testing.assert_allclose([hit.score for hit in found["near"]], scores[0], atol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(queries[:1], docs)
    np.testing.assert_allclose(cosines[[hit.id for hit in found["near"]]], scores[0], atol=1e-5)
    model = SparseEncoder(SPARSE)
    embeddings = model.encode([*DOCUMENTS, *DOTTED])
    scores, _ = search(embeddings.index_select(0, torch.tensor([0])), embeddings, 10, "dot")
    np.testing.assert_allclose([hit.score for hit in found["alike"]], scores[0], atol=1e-4)


def test_a_bulk_file(folder, monkeypatch):
    run_block('"bulk.ndjson"', folder, monkeypatch)
    lines = [json.loads(line) for line in (folder / "bulk.ndjson").read_text("utf-8").splitlines()]
    texts, docs = [*DOCUMENTS, *DOTTED], np.load(folder / "docs.npy")
    assert [line["index"] for line in lines[::2]] == [{"_index": "docs", "_id": i} for i in range(len(texts))]
    assert [line["text"] for line in lines[1::2]] == texts
    np.testing.assert_array_equal([line["vector"] for line in lines[1::2]], docs)
    model = SparseEncoder(SPARSE)
    wanted = [dict(words) for words in model.decode(model.encode(texts))]
    for line, words in zip(lines[1::2], wanted, strict=True):
        kept = {word: weight for word, weight in words.items() if "." not in word}
        assert line["words"] == pytest.approx(kept, abs=1e-5)
    assert any("." in word for words in wanted for word in words)
