"""Exact search: the best documents for each query by embedding."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minist.checks import pick
from minist.retrieval.sparse_index import SparseIndex
from minist.similarity import Similarity, similarity

QUERIES, DOCUMENTS = 1024, 8192  # scores are computed in blocks of at most this size: 32 MB


def search(queries: Tensor, documents: Tensor, top_k: int, similarity_name: str = "cosine") -> tuple[Tensor, Tensor]:
    """Scores [Q, k] and row numbers [Q, k] of the best documents for queries [Q, D] among documents [M, D].
    Best first, of equal scores the lower row first; k is the smaller of `top_k` and M. NaN comes last, as minus
    infinity. Sparse embeddings are searched by dot product or cosine, with an index made for the occasion."""
    if documents.is_sparse:
        pick("similarity of a search among sparse embeddings", similarity_name, {"dot": "", "cosine": ""})
        if similarity_name == "cosine":
            queries, documents = sparse_unit(queries), sparse_unit(documents)
        index = SparseIndex(documents.shape[1], "")
        index.add([documents])
        return index.search(queries, top_k)
    score = similarity(similarity_name)
    blocks = [search_block(part, documents, top_k, score, DOCUMENTS) for part in queries.split(QUERIES)]
    return torch.cat([s for s, _ in blocks]), torch.cat([rows for _, rows in blocks])


def sparse_unit(x: Tensor) -> Tensor:
    """x / |x| of each row of a coalesced sparse [N, V]; a row of zeros stays one."""
    rows, squares = x.indices()[0], x.values().square()
    lengths = torch.zeros(len(x), dtype=squares.dtype).index_add_(0, rows, squares).sqrt()
    return torch.sparse_coo_tensor(x.indices(), x.values() / lengths[rows], x.shape, check_invariants=False).coalesce()


def search_block(queries: Tensor, documents: Tensor, k: int, score: Similarity, at_once: int) -> tuple[Tensor, Tensor]:
    """The same for so few queries that their scores with `at_once` documents fit into memory."""
    best, rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(documents), at_once):
        found = score(queries, documents[start : start + at_once])
        found.nan_to_num_(float("-inf"), float("inf"), float("-inf"))  # NaN would be taken for the largest
        scores, columns = best_columns(found, k)
        best, rows = torch.cat([best, scores.cpu()], dim=1), torch.cat([rows, start + columns.cpu()], dim=1)
        best, rows = in_order(best, rows, k)  # earlier documents come first, so they stay ahead among equals
    return best, rows


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row [Q, n] and their columns, in order; of equal scores the lower column first."""
    if k >= scores.shape[1]:
        return in_order(scores, torch.arange(scores.shape[1], device=scores.device).expand_as(scores), k)
    # topk is several times faster than sorting all, but takes any of equal scores: one more shows where it had a choice
    values, columns = scores.topk(k + 1)
    columns, tied = columns[:, :k], values[:, k - 1] == values[:, k]
    if tied.any():
        columns[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    columns = columns.sort(dim=1).values  # the lower first, which the stable sort by score keeps
    return in_order(scores.gather(1, columns), columns, k)


def in_order(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of each row by score, largest first; equal ones stay in the order they have."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores.gather(1, order), rows.gather(1, order)


def fuse_rankings(rankings: Sequence[Sequence[Any]], k: float = 60) -> list[Any]:
    """One ranking of several, best first: a document scores the sum of 1 / (k + rank) over those that have it, ranks
    from 1 (reciprocal rank fusion, Cormack et al. 2009). Of equal scores that of the earlier ranking comes first."""
    scores: dict[Any, float] = {}
    for ranking in rankings:
        for rank, document in enumerate(dict.fromkeys(ranking), 1):
            scores[document] = scores.get(document, 0.0) + 1 / (k + rank)
    return sorted(scores, key=scores.__getitem__, reverse=True)
