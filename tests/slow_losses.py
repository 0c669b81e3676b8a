"""Every loss once more, straight from its formula in python loops: what the fast ones are held against.

Each takes the embeddings, the batch, and the options of the loss.
"""

from functools import partial

import torch
from slow_labelled import SLOW_LABELLED
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


SIMILARITIES = {"cosine": cosine, "dot": dot, "euclidean": lambda a, b: -(a - b).pow(2).sum().sqrt()}


def hinge(value: Tensor) -> Tensor:
    return value if value > 0 else 0 * value


def rows_of(column, counts):
    """The row of each text."""
    if counts is None:
        return list(range(len(column)))
    return [row for row, count in enumerate(counts.tolist()) for _ in range(count)]


def documents_of(columns, batch):
    """(row, column, embedding) of all documents; column 0 is the positive."""
    counts = batch.counts[1:] or [None] * len(columns)
    return [
        (row, c, embedding)
        for c, column in enumerate(columns)
        for row, embedding in zip(rows_of(column, counts[c]), column, strict=True)
    ]


def multiple_negatives_ranking(
    embeddings,
    batch,
    scale=20.0,
    similarity_fct="cosine",
    directions=("query_to_doc",),
    partition_mode="joint",
    hardness_mode=None,
    hardness_strength=0.0,
    in_batch_negatives=True,
) -> Tensor:
    """mean_i log sum_c exp(c) - s(q_i, d_i)"""
    queries, positives, documents = embeddings[0], embeddings[1], documents_of(embeddings[1:], batch)
    n, rows = len(queries), range(len(queries))

    def score(a: Tensor, b: Tensor) -> Tensor:
        return scale * SIMILARITIES[similarity_fct](a, b)

    def candidates(i: int, direction: str) -> list[Tensor]:
        query, positive = queries[i], positives[i]
        if direction == "query_to_doc":
            among = [(j, c, d) for j, c, d in documents if in_batch_negatives or j == i]
            return [score(query, d) + hardness(query, d, j != i, j == i and c > 0) for j, c, d in among]
        if direction == "query_to_query":
            return [score(query, queries[j]) for j in rows if j != i]
        if direction == "doc_to_query":
            return [score(positive, queries[j]) for j in rows]
        assert direction == "doc_to_doc"
        return [score(positive, d) for j, _, d in documents if j != i]

    def hardness(query: Tensor, document: Tensor, in_batch: bool, hard: bool) -> Tensor | float:
        chosen = {
            None: False,
            "in_batch_negatives": in_batch,
            "hard_negatives": hard,
            "all_negatives": in_batch or hard,
        }
        if not chosen[hardness_mode]:
            return 0.0
        return hardness_strength * SIMILARITIES[similarity_fct](query, document).detach()

    total = torch.zeros((), dtype=queries.dtype)
    for i in rows:
        parts = [candidates(i, direction) for direction in directions]
        if partition_mode == "joint":
            parts = [[candidate for part in parts for candidate in part]]
        sums = [sum(candidate.exp() for candidate in part) for part in parts]
        total = total + sum(s.log() for s in sums) / len(sums) - score(queries[i], positives[i])
    return total / n


def multiple_negatives_symmetric_ranking(embeddings, batch, scale=20.0, similarity_fct="cosine") -> Tensor:
    """The mean of two cross entropies: of each query's documents, and of each positive's queries."""

    def score(a: Tensor, b: Tensor) -> Tensor:
        return (scale * SIMILARITIES[similarity_fct](a, b)).exp()

    queries, positives, documents = embeddings[0], embeddings[1], documents_of(embeddings[1:], batch)
    total = torch.zeros((), dtype=queries.dtype)
    for query, positive in zip(queries, positives, strict=True):
        there = score(query, positive) / sum(score(query, document) for _, _, document in documents)
        back = score(query, positive) / sum(score(other, positive) for other in queries)
        total = total - (there.log() + back.log()) / 2
    return total / len(queries)


def gist_embed(
    embeddings,
    batch,
    temperature=0.01,
    margin_strategy="absolute",
    margin=0.0,
    contrast_anchors=True,
    contrast_positives=True,
) -> Tensor:
    """mean_i log sum_c exp(c) - s(a_i, p_i), without the candidates that the guide finds too similar"""
    anchors, positives, documents = embeddings[0], embeddings[1], torch.cat(list(embeddings[1:]))
    guide_anchors, guide_positives, guide_documents = batch.guide[0], batch.guide[1], torch.cat(batch.guide[1:])
    total = torch.zeros((), dtype=anchors.dtype)
    for i in range(len(anchors)):
        limit = cosine(guide_anchors[i], guide_positives[i])
        limit = limit - margin if margin_strategy == "absolute" else limit - margin * limit.abs()
        groups = [(anchors, documents, guide_anchors, guide_documents)]
        if contrast_anchors:
            groups.append((anchors, anchors, guide_anchors, guide_anchors))
        if contrast_positives:
            groups.append((positives, positives, guide_positives, guide_positives))
        positive = cosine(anchors[i], positives[i]) / temperature
        candidates = [positive]
        for x, y, guide_x, guide_y in groups:
            for j in range(len(y)):
                if j != i and cosine(guide_x[i], guide_y[j]) <= limit + 1e-6:
                    candidates.append(cosine(x[i], y[j]) / temperature)
        total = total + sum(candidate.exp() for candidate in candidates).log() - positive
    return total / len(anchors)


def mega_batch_margin(embeddings, batch, positive_margin=0.8, negative_margin=0.3) -> Tensor:
    """mean_i relu(positive_margin - s_ii) + relu(max_j s_ij - negative_margin)"""
    anchors, positives = embeddings
    total = torch.zeros((), dtype=anchors.dtype)
    for i, anchor in enumerate(anchors):
        total = total + hinge(positive_margin - cosine(anchor, positives[i]))
        negatives = [cosine(anchor, positive) for j, positive in enumerate(positives) if j != i]
        total = total + hinge(max(negatives) - negative_margin)
    return total / len(anchors)


def global_orthogonal_regularization(
    embeddings, batch, similarity_fct="cosine", mean_weight=1.0, second_moment_weight=1.0, aggregation="mean"
) -> dict[str, Tensor]:
    """M1^2 and relu(M2 - 1/D) of each column"""
    first, second = [], []
    for column in embeddings:
        n = len(column)
        scores = [SIMILARITIES[similarity_fct](column[i], column[j]) for i in range(n) for j in range(n) if i != j]
        first.append((sum(scores) / len(scores)) ** 2)
        second.append(hinge(sum(score**2 for score in scores) / len(scores) - 1 / column.shape[1]))
    share = len(embeddings) if aggregation == "mean" else 1
    parts = {}
    if mean_weight:
        parts["gor_mean"] = mean_weight * sum(first) / share
    if second_moment_weight:
        parts["gor_second_moment"] = second_moment_weight * sum(second) / share
    return parts


def flops(embeddings, batch, threshold=-1) -> Tensor:
    """sum_j (mean_i |w_ij|)^2"""
    return idf_flops(embeddings, batch, [1.0] * embeddings[0].shape[1], threshold)


def idf_flops(embeddings, batch, idf, threshold=-1) -> Tensor:
    """sum_j (mean_i |w_ij| / max(idf_j, 1))^2"""
    rows = [row for column in embeddings for row in column]
    total = 0 * rows[0].sum()
    for j, rarity in enumerate(idf):
        used = [-row[j] if row[j] < 0 else row[j] for row in rows if sum(w != 0 for w in row.tolist()) > threshold]
        total = total + (sum(used) / len(rows) / max(rarity, 1)) ** 2
    return total


SLOW = {
    "FlopsLoss": flops,
    "IDFFlopsLoss": idf_flops,
    "SparseDistillKLDivLoss": partial(SLOW_LABELLED["DistillKLDivLoss"], temperature=2.0),
    "SparseMultipleNegativesRankingLoss": partial(multiple_negatives_ranking, scale=1.0, similarity_fct="dot"),
    "GISTEmbedLoss": gist_embed,
    "GlobalOrthogonalRegularizationLoss": global_orthogonal_regularization,
    "MegaBatchMarginLoss": mega_batch_margin,
    "MultipleNegativesRankingLoss": multiple_negatives_ranking,
    "MultipleNegativesSymmetricRankingLoss": multiple_negatives_symmetric_ranking,
} | SLOW_LABELLED
