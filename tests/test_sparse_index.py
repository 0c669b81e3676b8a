"""The inverted index against the product of all embeddings, in memory and on the disk, and folders that are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT

from minist.retrieval import sparse_index
from minist.retrieval.sparse_index import SparseIndex

WIDTH = 60


def embeddings(rows, seed, least=-2, share=0.1):
    """Weights are quarters, so that sums are exact and ties many; some rows are empty, and some words nobody has."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(least, 9, (rows, WIDTH), generator=draw) / 4 * (torch.rand(rows, WIDTH, generator=draw) < share)
    x[:: max(rows // 5, 1)] = 0
    x[:, 7::13] = 0
    return x


def brute_force(queries, documents, k):
    scores = queries @ documents.T
    return tuple(x[:, :k] for x in scores.sort(dim=1, descending=True, stable=True))


def index_of(documents, at_once=100):
    index = SparseIndex(WIDTH, "abc")
    index.add(block.to_sparse() for block in documents.split(at_once))
    return index


def check(index, documents, k=10, least=-2):
    queries = embeddings(25, seed=99, least=least, share=0.2)
    queries[3, 7::13] = 1.0  # of words nobody has
    found, wanted = index.search(queries.to_sparse(), k), brute_force(queries, documents, k)
    assert (found[0].dtype, found[1].dtype) == (torch.float32, torch.long)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("k", [1, 10, 333, 1000])
@pytest.mark.parametrize("least", [0, -2])
@pytest.mark.parametrize("rows", [1, 15, 333, 2000])
def test_equals_the_product_of_all(rows, least, k):
    documents = embeddings(rows, seed=rows, least=least)
    check(index_of(documents), documents, k, least)


def test_scores_of_any_weights():
    draw = torch.Generator().manual_seed(5)
    documents, queries = (torch.randn(n, WIDTH, generator=draw).relu() for n in (500, 9))
    scores, rows = index_of(documents).search(queries.to_sparse(), 20)
    wanted = brute_force(queries.double(), documents.double(), 20)
    torch.testing.assert_close(scores.double(), wanted[0], atol=1e-5, rtol=1e-6)
    assert torch.equal(rows, wanted[1])


def test_of_equal_scores_the_lower_number():
    documents = torch.zeros(100, WIDTH)
    documents[[90, 3, 40], 5], documents[[70, 20], 5] = 1.0, 2.0
    scores, rows = index_of(documents).search(documents[3:4].to_sparse(), 7)
    assert rows.tolist() == [[20, 70, 3, 40, 90, 0, 1]], "then those that share no word"
    assert scores.tolist() == [[2, 2, 1, 1, 1, 0, 0]]


def test_a_document_that_is_nan_comes_last():
    documents = embeddings(50, seed=1)
    documents[30, 4] = float("nan")
    query = torch.zeros(1, WIDTH)
    query[0, 4] = 1.0
    scores, rows = index_of(documents).search(query.to_sparse(), 50)
    assert rows[0, -1] == 30 and scores[0, -1] == float("-inf")
    assert 30 not in rows[0, :-1]


def test_nothing_to_find_and_nothing_to_ask():
    empty, full = SparseIndex(WIDTH, "abc"), index_of(embeddings(9, seed=2))
    assert empty.search(embeddings(3, seed=3).to_sparse(), 5)[1].shape == (3, 0)
    assert full.search(torch.zeros(0, WIDTH).to_sparse(), 5)[0].shape == (0, 5)
    empty.add([torch.zeros(0, WIDTH).to_sparse()])
    assert empty.size == 0


@pytest.mark.parametrize("at_once", [1, 50, 1 << 21])
def test_added_is_built_at_once(monkeypatch, at_once):
    monkeypatch.setattr(sparse_index, "AT_ONCE", at_once)  # postings that are merged at a time
    documents = embeddings(300, seed=4)
    index = index_of(documents[:120])
    index.add([documents[120:250].to_sparse(), documents[250:].to_sparse()])
    whole = index_of(documents, at_once=300)
    assert index.size == whole.size == 300
    assert all(torch.equal(a, b) for a, b in zip(index.postings, whole.postings, strict=True))
    check(index, documents)


# ---------------------------------------------------------------- folders


def test_saved_and_opened(tmp_path):
    documents = embeddings(300, seed=6)
    blocks = [block.to_sparse() for block in documents.split(70)]
    index_of(documents).save(tmp_path / "a")
    SparseIndex(WIDTH, "abc").save(tmp_path / "b", blocks)
    half = index_of(documents[:140])
    half.save(tmp_path / "c", blocks[2:])
    assert half.size == 140, "what is written after it is not in memory"
    for name in "abc":
        index = SparseIndex.load(tmp_path / name, "abc")
        check(index, documents)
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == [
            "documents.npy",
            "index.json",
            "starts.npy",
            "weights.npy",
        ]
        for file in (tmp_path / name).iterdir():
            assert file.read_bytes() == (tmp_path / "a" / file.name).read_bytes()
    index.add([documents.to_sparse()])  # which changes no file
    check(index, torch.cat([documents, documents]))
    check(SparseIndex.load(tmp_path / "c", "abc"), documents)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_nothing_half_written(tmp_path):
    def blocks():
        yield embeddings(50, seed=7).to_sparse()
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        SparseIndex(WIDTH, "abc").save(tmp_path / "a", blocks())
    assert list(tmp_path.iterdir()) == []


BUILD = """
import sys
from pathlib import Path
import torch
from minist.retrieval import sparse_index

used, cat, sparse_index.AT_ONCE = [], torch.cat, 100_000
def look(tensors):  # in the merging, at what is largest
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    used.append(int(line.split()[1]) / 1000)
    return cat(tensors)
def blocks():
    words, rows = torch.arange(200).repeat(2000), torch.arange(2000).repeat_interleave(200)
    for _ in range(24):
        yield torch.sparse_coo_tensor(torch.stack([rows, words]), torch.ones(400_000), (2000, 256)).coalesce()
torch.cat = look
sparse_index.SparseIndex(256, "abc").save("a", blocks())
print(max(used) - used[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what a process has in memory")
def test_built_in_bounded_memory(tmp_path):
    """Of 75 MB of postings those of a few blocks are in memory at any time; pages of files are not counted."""
    known = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed is given back
    done = subprocess.run([sys.executable, "-c", BUILD], cwd=tmp_path, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a/weights.npy").stat().st_size > 37e6
    assert float(done.stdout) < 40, "MB"  # 16 to 31 were seen, by what malloc could use again


def test_another_model(tmp_path):
    index_of(embeddings(9, seed=8)).save(tmp_path / "a")
    with pytest.raises(ValueError, match="is no index of the model other: build it anew with this model") as error:
        SparseIndex.load(tmp_path / "a", "other")
    assert "\n" not in str(error.value)


def test_a_name_that_is_taken(tmp_path):
    index = index_of(embeddings(9, seed=8))
    index.save(tmp_path / "a")
    with pytest.raises(ValueError, match="a is there already: save the index under another name"):
        index.save(tmp_path / "a")


def save(array):
    return lambda file: np.save(file, array)


DAMAGED = [
    ("index.json", lambda file: file.unlink(), FileNotFoundError, "index.json"),
    ("index.json", lambda file: file.write_text("{"), ValueError, "is not JSON"),
    ("index.json", lambda file: file.write_text("[]"), ValueError, "no index of the model abc"),
    ("index.json", lambda file: file.write_text(json.dumps({"model": "abc"})), ValueError, "size in .* is None"),
    ("weights.npy", lambda file: file.unlink(), ValueError, "there is no file"),
    ("weights.npy", lambda file: file.write_bytes(file.read_bytes()[:-4]), ValueError, "not a .npy file"),
    ("weights.npy", lambda file: file.write_bytes(b""), ValueError, "not a .npy file"),
    ("weights.npy", save(np.zeros(3, "<f4")), ValueError, "damaged index"),
    ("weights.npy", save(np.float32(3)), ValueError, "damaged index"),
    ("documents.npy", save(np.zeros(3, "<i8")), ValueError, "damaged index"),
    ("starts.npy", save(np.zeros(0, "<i8")), ValueError, "damaged index"),
    ("starts.npy", save(np.zeros((2, 2), "<i8")), ValueError, "damaged index"),
]


@pytest.mark.parametrize(("name", "damage", "error", "message"), DAMAGED)
def test_damaged(tmp_path, name, damage, error, message):
    index_of(embeddings(50, seed=9)).save(tmp_path / "a")
    damage(tmp_path / "a" / name)
    with pytest.raises(error, match=message) as found:
        SparseIndex.load(tmp_path / "a", "abc")
    assert "\n" not in str(found.value)


def test_starts_that_go_back(tmp_path):
    index_of(embeddings(50, seed=9)).save(tmp_path / "a")
    starts = np.load(tmp_path / "a/starts.npy")
    starts[3] = starts[-1] + 5
    np.save(tmp_path / "a/starts.npy", starts)
    with pytest.raises(ValueError, match="damaged index: build it anew"):
        SparseIndex.load(tmp_path / "a", "abc")


def test_another_width():
    index = index_of(embeddings(9, seed=10))
    for act in (lambda x: index.search(x, 3), lambda x: index.add([x])):
        with pytest.raises(ValueError, match="the width of the embeddings is 5: use a number at least 60"):
            act(torch.ones(2, 5).to_sparse())
    with pytest.raises(ValueError, match="top_k is 0"):
        index.search(torch.ones(2, WIDTH).to_sparse(), 0)
