"""Communities, clusters and their words. tests/parity compares communities and trees with the real libraries'."""

import numpy as np
import pytest
import torch
from test_semantic_search import normal, recorded

from minist.retrieval import clustering as module
from minist.retrieval.clustering import agglomerative, community_detection, kmeans, words_of_clusters


def groups(sizes, width=40, spread=0.05):
    """Rows around centres at right angles, and the number of each row's group."""
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.from_numpy(np.random.RandomState(1).permutation(len(labels)))]
    return torch.eye(width)[labels] + spread * normal(2, len(labels), width), labels


def same_groups(a, b):
    """Whether two labellings put the same rows together."""
    return torch.equal(a[:, None] == a, b[:, None] == b)


def test_recorded_communities():
    parts = [normal(8, 1, 8) + 0.15 * normal(9, 12, 8), normal(10, 1, 8) + 0.15 * normal(11, 7, 8), normal(12, 6, 8)]
    assert community_detection(torch.cat(parts), 0.9, 5) == recorded("community_detection")


@pytest.mark.parametrize("at_once", [1, 50, 1 << 23])
def test_communities(monkeypatch, at_once):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    x, labels = groups([30, 5, 12, 9])
    found = community_detection(x.numpy(), 0.75, 9)
    assert [len(c) for c in found] == [30, 12, 9]
    assert all(len(set(labels[c].tolist())) == 1 for c in found)
    near = torch.nn.functional.normalize(x, dim=1)
    for centre, *others in found:
        scores = near[others] @ near[centre]
        assert (scores >= 0.75).all() and torch.equal(scores, scores.sort(descending=True).values)


def test_a_row_belongs_to_one_community():
    """On a circle each is near to its neighbours: of equally large communities the lower centre comes first."""
    angles = torch.arange(12) * torch.pi / 6
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = community_detection(x, 0.8, 3)
    assert [(c[0], sorted(c)) for c in found] == [(0, [0, 1, 11]), (3, [2, 3, 4]), (6, [5, 6, 7]), (9, [8, 9, 10])]
    assert community_detection(x, 0.8, 4) == []
    assert [len(c) for c in community_detection(x, 0.45, 2)] == [5, 3, 3]  # 9 would be left alone


def test_communities_of_little():
    assert community_detection([], 0.75, 1) == [] and community_detection(torch.empty(0, 8)) == []
    assert community_detection(normal(0, 8), 0.75, 1) == [[0]]
    assert community_detection(normal(0, 3, 8), 0.99, 4) == []
    assert community_detection(torch.ones(5, 8), 0.99, 5) == [[0, 1, 2, 3, 4]]
    x = torch.ones(5, 8)
    x[1], x[3] = torch.nan, 0
    assert community_detection(x, 0.9, 1) == [[0, 2, 4]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kmeans_finds_groups(seed):
    x, labels = groups([30, 20, 25, 5])
    found, centres = kmeans(x, 4, seed)
    assert same_groups(found, labels)
    for i in range(4):
        torch.testing.assert_close(centres[i], x[found == i].mean(0), atol=1e-5, rtol=0)
    assert torch.equal(found, kmeans(x.numpy(), 4, seed)[0])


def test_kmeans_ends_where_nothing_improves():
    x = normal(0, 200, 5)
    labels, centres = kmeans(x, 7)
    assert torch.equal(torch.cdist(x, centres).argmin(1), labels)
    assert len({tuple(kmeans(x, 7, seed)[0].tolist()) for seed in range(4)}) > 1


def test_kmeans_of_equal_rows_and_too_few():
    labels, centres = kmeans(torch.cat([torch.zeros(9, 2), torch.ones(1, 2)]), 3)
    assert labels.bincount(minlength=3).min() >= 1 and centres.isfinite().all()  # no cluster is empty
    assert kmeans(normal(0, 3, 2), 3)[0].sort().values.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="k is 4: use a number at least 1 and at most 3"):
        kmeans(normal(0, 3, 2), 4)


@pytest.mark.parametrize("linkage", ["single", "complete", "average", "ward"])
def test_agglomerative(linkage):
    x, labels = groups([10, 4, 7])
    assert same_groups(agglomerative(x, k=3, linkage=linkage), labels)
    assert same_groups(agglomerative(x, threshold=1.0, linkage=linkage), labels)
    assert agglomerative(x, k=1, linkage=linkage).unique().tolist() == [0]
    assert agglomerative(x, k=21, linkage=linkage).tolist() == list(range(21))  # numbered by first rows
    equal = torch.tensor([[0.0], [0.0], [0.0], [5.0], [5.0]])
    assert agglomerative(equal, threshold=1.0, linkage=linkage).tolist() == [0, 0, 0, 1, 1]


def test_linkages_differ():
    """A chain of rows is one cluster by its nearest rows, but not by its farthest."""
    x = torch.tensor([[0.0], [1.0], [2.1], [3.3], [4.6], [20.0]])
    assert agglomerative(x, threshold=2.0, linkage="single").tolist() == [0, 0, 0, 0, 0, 1]
    assert agglomerative(x, threshold=2.0, linkage="complete").tolist() == [0, 0, 1, 1, 2, 3]
    assert agglomerative(x, threshold=2.5, linkage="average").tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(("linkage", "of"), [("single", torch.min), ("complete", torch.max), ("average", torch.mean)])
def test_against_looking_at_all_clusters(linkage, of):
    x = normal(0, 25, 3).double()
    distances, clusters = torch.cdist(x, x), [[i] for i in range(25)]
    while len(clusters) > 1:
        pairs = [(a, b) for b in range(len(clusters)) for a in range(b)]
        a, b = min(pairs, key=lambda p: of(distances[clusters[p[0]]][:, clusters[p[1]]]).item())
        clusters[a] += clusters.pop(b)
        found = agglomerative(x, k=len(clusters), linkage=linkage)
        assert all(len(found[cluster].unique()) == 1 for cluster in clusters)


def test_agglomerative_of_little():
    assert agglomerative(normal(0, 1, 4), k=1).tolist() == [0]
    assert agglomerative(normal(0, 0, 4), threshold=1.0).tolist() == []
    for given in ({}, {"k": 2, "threshold": 1.0}):
        with pytest.raises(ValueError, match="either threshold or k"):
            agglomerative(normal(0, 3, 4), **given)
    with pytest.raises(ValueError, match="linkage is 'mean'"):
        agglomerative(normal(0, 3, 4), k=2, linkage="mean")


def test_words_of_clusters():
    texts = ["the cat sat", "the cat ran", "a cat and the dog", "the stock rose", "the stock fell", "the market fell"]
    found = words_of_clusters(texts, [0, 0, 0, 1, 1, 1], 2)
    assert found[0][0] == "cat" and set(found[1]) == {"stock", "fell"}
    assert all("the" not in best for best in words_of_clusters(texts, [0, 0, 0, 1, 1, 1], 99).values())
    assert words_of_clusters(texts, torch.zeros(6).long(), 1) == {0: ["the"]}  # with nothing to tell it from
    assert words_of_clusters([], []) == {}


def test_words_are_weighed_as_the_paper_does():
    """x twice and y three times in the first of two clusters of 5 words: 2 log(1 + 5 / 2) and 3 log(1 + 5 / 7)."""
    assert words_of_clusters(["x x y y y", "y y y y w"], "ab")["a"] == ["x"]  # y is everywhere
    assert words_of_clusters(["x x y y y", "y y y y w", "z z z z z"], "abc")["a"] == ["x", "y"]
    assert words_of_clusters(["x x y y y", "y w w w w", "z z z z z"], "abc")["a"] == ["x", "y"]  # 2.51, 2.43
    assert words_of_clusters(["x y y y y", "y w w w w", "z z z z z"], "abc")["a"] == ["y", "x"]
