"""Every loss once more, straight from its formula in python loops: what the fast ones are held against."""

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


SIMILARITIES = {"cosine": cosine, "dot": dot}


def multiple_negatives_ranking(
    embeddings,
    scale=20.0,
    similarity_fct="cosine",
    directions=("query_to_doc",),
    partition_mode="joint",
    hardness_mode=None,
    hardness_strength=0.0,
) -> Tensor:
    """mean_i log sum_c exp(c) - s(q_i, d_i); documents are known by (row, column), column 0 is the positive."""
    queries, columns = embeddings[0], embeddings[1:]
    n, rows = len(queries), range(len(queries))
    documents = [(row, column) for column in range(len(columns)) for row in rows]

    def score(a: Tensor, b: Tensor) -> Tensor:
        return scale * SIMILARITIES[similarity_fct](a, b)

    def candidates(i: int, direction: str) -> list[Tensor]:
        query, positive = queries[i], columns[0][i]
        if direction == "query_to_doc":
            return [score(query, columns[c][j]) + hardness(i, j, c) for j, c in documents]
        if direction == "query_to_query":
            return [score(query, queries[j]) for j in rows if j != i]
        if direction == "doc_to_query":
            return [score(positive, queries[j]) for j in rows]
        assert direction == "doc_to_doc"
        return [score(positive, columns[c][j]) for j, c in documents if j != i]

    def hardness(i: int, j: int, c: int) -> Tensor | float:
        in_batch, hard = j != i, j == i and c > 0
        chosen = {
            None: False,
            "in_batch_negatives": in_batch,
            "hard_negatives": hard,
            "all_negatives": in_batch or hard,
        }
        if not chosen[hardness_mode]:
            return 0.0
        return hardness_strength * SIMILARITIES[similarity_fct](queries[i], columns[c][j]).detach()

    total = torch.zeros((), dtype=queries.dtype)
    for i in rows:
        parts = [candidates(i, direction) for direction in directions]
        if partition_mode == "joint":
            parts = [[candidate for part in parts for candidate in part]]
        sums = [sum(candidate.exp() for candidate in part) for part in parts]
        total = total + sum(s.log() for s in sums) / len(sums) - score(queries[i], columns[0][i])
    return total / n


SLOW = {"MultipleNegativesRankingLoss": multiple_negatives_ranking}
