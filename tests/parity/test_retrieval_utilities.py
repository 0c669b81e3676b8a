"""Search, paraphrases, communities, clusters and codes beside real libraries', on clustered embeddings with ties."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sentence_transformers import util
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from minist.quantization import quantize
from minist.retrieval import clustering, paraphrases
from minist.retrieval.codes import search_codes
from minist.retrieval.search import semantic_search


def clustered(n, width=96, groups=30, spread=0.6, seed=0):
    """Around some centres of unequal weight, most of their length in few dimensions, as in embeddings of texts."""
    draw = np.random.RandomState(seed)
    scale = 1 / (1 + np.arange(width) / 8)
    centres = draw.randn(groups, width) * scale
    chosen = (draw.rand(n) ** 2 * groups).astype(int)
    return torch.from_numpy((centres[chosen] + spread * draw.randn(n, width) * scale).astype(np.float32))


def with_copies(x):
    return torch.cat([x, x[:40], x[:40] * 2, torch.zeros(2, x.shape[1])])


def as_pairs(hits):
    return [[(hit["corpus_id"], hit["score"]) for hit in line] for line in hits]


def same_hits(ours, theirs, atol=1e-6):
    """Equal scores; equal rows, but among those whose scores are equal, which theirs takes in any order."""
    assert len(ours) == len(theirs)
    for a, b in zip(as_pairs(ours), as_pairs(theirs), strict=True):
        np.testing.assert_allclose([s for _, s in a], [s for _, s in b], atol=atol)
        last = b[-1][1] + 2 * atol if b else 0
        assert {i for i, s in a if s > last} == {i for i, s in b if s > last}


SIMILARITIES = {"cosine": util.cos_sim, "dot": util.dot_score, "euclidean": util.euclidean_sim}


@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("make", [lambda x: x, lambda x: x.numpy(), lambda x: list(x.numpy()), list], ids=str)
def test_semantic_search(make, name, k):
    queries, corpus = clustered(23, seed=1), with_copies(clustered(500))
    theirs = util.semantic_search(queries, corpus, top_k=k, score_function=SIMILARITIES[name])
    atol = 1e-2 if name == "euclidean" and k == 1000 else 1e-5  # theirs has few digits where vectors are near
    same_hits(semantic_search(make(queries), make(corpus), top_k=k, score_function=name), theirs, atol)
    same_hits(semantic_search(queries, corpus, 7, 90, k, SIMILARITIES[name]), theirs, atol)


@pytest.mark.parametrize("query", [0, slice(0, 9)], ids=["one row", "some"])
@pytest.mark.parametrize("score", [("cosine", util.cos_sim), ("dot", util.dot_score)], ids=str)
def test_sparse_search(query, score):
    corpus = (clustered(300) - 0.5).relu()
    queries = corpus[query]
    theirs = util.semantic_search(queries.to_sparse(), corpus.to_sparse(), score_function=score[1])
    same_hits(semantic_search(queries.to_sparse(), corpus.to_sparse(), score_function=score[0]), theirs)
    same_hits(semantic_search(queries, corpus.to_sparse(), score_function=score[0]), theirs)
    with pytest.raises(ValueError, match="known are dot, cosine"):
        semantic_search(queries.to_sparse(), corpus.to_sparse(), score_function=score[1])


def test_empty_inputs():
    x = clustered(5)
    for queries, corpus in [(x, x[:0]), (x[:0], x), (x[0], x)]:
        assert len(semantic_search(queries, corpus)) == len(util.semantic_search(queries, corpus))


@pytest.mark.parametrize("max_pairs", [1, 50, 500, 10**6])
@pytest.mark.parametrize("top_k", [1, 5, 60])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_paraphrases(name, top_k, max_pairs):
    x = clustered(1200)
    theirs = util.paraphrase_mining_embeddings(x, max_pairs=max_pairs, top_k=top_k, score_function=SIMILARITIES[name])
    for score in (name, SIMILARITIES[name]):
        ours = paraphrases.paraphrase_mining_embeddings(x, max_pairs, top_k, score)
        atol = 1e-3 if name == "euclidean" else 1e-5
        np.testing.assert_allclose([p[0] for p in ours], [p[0] for p in theirs], atol=atol, rtol=3e-6)
        assert len({(i, j) for _, i, j in ours} & {(i, j) for _, i, j in theirs}) >= 0.999 * len(theirs) - 1


@pytest.mark.parametrize("max_pairs", [30, 5000])
def test_paraphrases_with_ties(max_pairs):
    x = with_copies(clustered(1200))
    ours = paraphrases.paraphrase_mining_embeddings(x, top_k=5, max_pairs=max_pairs)
    theirs = util.paraphrase_mining_embeddings(x, top_k=5, max_pairs=max_pairs)
    np.testing.assert_allclose([p[0] for p in ours[:100]], [p[0] for p in theirs[:100]], atol=1e-6)
    assert all(i < j for _, i, j in ours) and len({(i, j) for _, i, j in ours}) == len(ours)
    assert all(a[0] > b[0] or (a[0] == b[0] and a[1:] < b[1:]) for a, b in pairwise(ours))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("least", [1, 3, 10, 40])
def test_communities(threshold, least):
    x = clustered(900, spread=0.5)
    ours = clustering.community_detection(x, threshold, least)
    assert ours == util.community_detection(x, threshold, least)


@pytest.mark.parametrize("least", [2, 10])
def test_communities_with_ties(least):
    """Of equal scores theirs may take any first, so only sets can be compared."""
    x = with_copies(clustered(900, spread=0.5))
    ours, theirs = (f(x, 0.6, least) for f in (clustering.community_detection, util.community_detection))
    assert [(c[0], sorted(c)) for c in ours] == [(c[0], sorted(c)) for c in theirs]


@pytest.mark.parametrize(("n", "least"), [(0, 1), (1, 1), (1, 2), (3, 10), (9, 9)])
def test_few_rows(n, least):
    x = clustered(n, groups=1)
    assert clustering.community_detection(x, 0.1, least) == util.community_detection(x, 0.1, least)
    pairs = [p[1:] for p in util.paraphrase_mining_embeddings(x)]
    assert [p[1:] for p in paraphrases.paraphrase_mining_embeddings(x)] == pairs


@pytest.mark.parametrize("linkage", ["single", "complete", "average", "ward"])
def test_agglomerative(linkage):
    x = clustered(150, groups=8)
    for given in ({"k": 1}, {"k": 7}, {"k": 40}, {"threshold": 0.5}, {"threshold": 1.3}, {"threshold": 99.0}):
        ours = clustering.agglomerative(x, linkage=linkage, **given)
        real = AgglomerativeClustering(given.get("k"), linkage=linkage, distance_threshold=given.get("threshold"))
        assert adjusted_rand_score(real.fit_predict(x.numpy()), ours.numpy()) == 1.0, given


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_codes_are_decoded_as_theirs(precision):
    x = torch.nn.functional.normalize(clustered(400), dim=1).numpy()
    queries, ranges = x[:9], np.stack([x.min(0), x.max(0)])
    scores, rows = search_codes(queries, quantize(x, precision, ranges), precision, 10, ranges)
    codes = util.quantize_embeddings(x, precision, ranges=ranges)
    if "binary" in precision:
        bits = np.unpackbits(codes.view(np.uint8) ^ np.uint8(0 if precision == "ubinary" else 128), axis=1)
        wanted = queries @ (2.0 * bits.T - 1)
    else:
        wanted = queries @ util.quantization._dequantize_embeddings(codes, precision, ranges).T
    np.testing.assert_allclose(scores, -np.sort(-wanted, axis=1)[:, :10], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(wanted, rows.numpy(), 1), scores, atol=1e-4)
