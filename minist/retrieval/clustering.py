"""Groups of similar embeddings, and the words that tell them apart."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.checks import pick, whole
from minist.data.texts import words
from minist.retrieval.paraphrases import near_pairs
from minist.retrieval.search import as_rows
from minist.similarity import unit

AT_ONCE = 1 << 23  # similarities in memory, 32 MB
Update = Callable[[Any, Any, Any, Any, Any, Any], Any]
LINKAGES: dict[str, Update] = {  # the distance of a + b to c from a to c, b to c, a to b, and the sizes of a, b, c
    "single": lambda ac, bc, ab, a, b, c: np.minimum(ac, bc),
    "complete": lambda ac, bc, ab, a, b, c: np.maximum(ac, bc),
    "average": lambda ac, bc, ab, a, b, c: (a * ac + b * bc) / (a + b),
    "ward": lambda ac, bc, ab, a, b, c: np.sqrt(((a + c) * ac**2 + (b + c) * bc**2 - c * ab**2) / (a + b + c)),
}


def community_detection(
    embeddings: Any, threshold: float = 0.75, min_community_size: int = 10, batch_size: int = 1024
) -> list[list[int]]:
    """Communities of at least `min_community_size` rows of [N, D] whose cosine to a row, their centre, is at least
    `threshold`: the centre first, then the nearest first; the largest first. A row belongs to one only: the centre
    with the most such rows takes its own, the next what is left, if that is enough and it is itself left.
    Memory: one and a third copies of the embeddings, and blocks, of at most `batch_size` rows."""
    x = unit(as_rows(embeddings))
    counts = (x.square().sum(-1) >= threshold).long().cpu()  # each counts itself, unless it is zero or NaN
    for _, i, j in near_pairs(x, threshold):
        counts += torch.cat([i, j]).bincount(minlength=len(x))
    order = counts.argsort(descending=True, stable=True)[: int((counts >= min_community_size).sum())]
    free, communities = torch.ones(len(x), dtype=torch.bool), list[list[int]]()
    while len(order := order[free[order]]):
        batch, order = order.split([part := min(len(order), batch_size, AT_ONCE // len(x) + 1), len(order) - part])
        for centre, scores in zip(batch.tolist(), (x[batch] @ x.T).cpu(), strict=True):
            members = ((scores >= threshold) & free).nonzero()[:, 0]
            if free[centre] and len(members) >= min_community_size:
                members = members[scores[members].argsort(descending=True, stable=True)]
                communities.append([centre, *members[members != centre].tolist()])
                free[members] = False
    return sorted(communities, key=len, reverse=True)


def kmeans(embeddings: Any, k: int, seed: int = 0, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """Labels [N] and centres [k, D] that make the sum of squared distances small: each row goes to the nearest centre,
    each centre to the mean of its rows (Lloyd), until nothing changes. It starts at rows drawn in proportion to the
    squared distance from those drawn before (k-means++, Arthur and Vassilvitskii 2007)."""
    x = as_rows(embeddings).float()
    whole("k", k, 1, len(x))
    draw, centres, labels = torch.Generator().manual_seed(seed), x[:0], x.new_empty(0)
    for _ in range(k):
        squares = nearest(x, centres)[0].clamp_min(0).double() if len(centres) else torch.ones(len(x)).double()
        sums = squares.cumsum(0)
        place = torch.searchsorted(sums, torch.rand(1, generator=draw).to(sums) * sums[-1], right=True)
        centres = torch.cat([centres, x[place.clamp_max(len(x) - 1)]])
    for _ in range(iterations):
        (squares, found), old = nearest(x, centres), labels
        empty = (found.bincount(minlength=k) == 0).nonzero()[:, 0]
        found[squares.argsort(descending=True, stable=True)[: len(empty)]] = empty  # the farthest rows start anew
        labels, counts = found, found.bincount(minlength=k).clamp_min(1)
        centres = torch.zeros_like(centres).index_add_(0, labels, x) / counts[:, None]
        if torch.equal(labels, old):
            break
    return labels, centres


def nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance [N] to the nearest of the centres, and which it is."""
    lengths, parts = centres.square().sum(1), x.split(AT_ONCE // len(centres) + 1)
    found = [(lengths - 2 * part @ centres.T).min(1) for part in parts]  # |x|^2 is the same for all
    return torch.cat([f.values for f in found]) + x.square().sum(1), torch.cat([f.indices for f in found])


def agglomerative(
    embeddings: Any, threshold: float | None = None, k: int | None = None, linkage: str = "average"
) -> Tensor:
    """Labels [N], numbered by first rows: each row is a cluster, the two nearest become one, and so on, until `k` are
    left or the nearest are `threshold` apart. N x N Euclidean distances are in memory. `linkage`: the distance of two
    clusters is the least ("single"), largest ("complete") or mean ("average") of their rows', or how much their
    variance grows ("ward"). ValueError unless one of `threshold` and `k` is given."""
    x, update = as_rows(embeddings).double(), pick("linkage", linkage, LINKAGES)
    if (threshold is None) == (k is None):
        raise ValueError("how many clusters are wanted? give either threshold or k")
    found = merges(torch.cdist(x, x).cpu().numpy(), update)
    nearer = sum(height < threshold for height, _, _ in found) if threshold is not None else len(x) - whole("k", k, 1)
    labels = np.arange(len(x))
    for _, a, b in found[: max(0, nearer)]:
        labels[labels == labels[a]] = labels[b]
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[labels])


def merges(d: np.ndarray, update: Update) -> list[tuple[float, int, int]]:
    """Distances, and a row of each cluster, of all merges, the nearest first. `d` [N, N] is overwritten.

    From any cluster to its nearest, from there to its nearest, until two are nearest to each other: these merge,
    whatever else does (nearest-neighbour chain, Murtagh 1983). So N^2 steps, not N^3."""
    np.fill_diagonal(d, np.inf)
    sizes, chain, found = np.ones(len(d)), list[int](), list[tuple[float, int, int]]()
    while len(found) < len(d) - 1:
        chain = chain or [int((sizes > 0).argmax())]
        a = chain[-1]
        b = int(d[a].argmin())
        if len(chain) < 2 or d[a, chain[-2]] > d[a, b]:  # of equal ones the way back, or it would go in circles
            chain.append(b)
            continue
        a, b = chain.pop(), chain.pop()
        found.append((float(d[a, b]), a, b))
        d[b] = d[:, b] = update(d[a], d[b], d[a, b], sizes[a], sizes[b], sizes)
        d[a] = d[:, a] = d[b, b] = np.inf  # the cluster that is gone is infinitely far from all
        sizes[a], sizes[b] = 0, sizes[a] + sizes[b]
    return sorted(found, key=lambda merge: merge[0])


def words_of_clusters(
    texts: Sequence[str], labels: Sequence[Hashable] | Tensor, top_k: int = 10
) -> dict[Hashable, list[str]]:
    """The words of each label that tell it from the others, best first, by tf * log(1 + A / f): how often the cluster
    and how often all have the word, and A words in a cluster on average (Grootendorst 2022, arXiv:2203.05794).
    Words that each cluster uses at least a quarter as often as all do together tell nothing and are left out."""
    counts: dict[Hashable, Counter[str]] = {}
    for text, label in zip(texts, labels.tolist() if isinstance(labels, Tensor) else labels, strict=True):
        counts.setdefault(label, Counter()).update(words(text))
    all_words = sum(counts.values(), Counter[str]())
    total, found, sizes = all_words.total(), dict[Hashable, list[str]](), [(c, c.total()) for c in counts.values()]
    common = {w for w, f in all_words.items() if all(4 * c[w] * total >= f * n for c, n in sizes) and len(counts) > 1}
    for label, count in counts.items():
        scores = {w: tf * log(1 + total / len(counts) / all_words[w]) for w, tf in count.items() if w not in common}
        found[label] = sorted(scores, key=lambda w: (-scores[w], w))[:top_k]
    return found
