"""Exact search: the best documents for each query by embedding."""

import torch
from torch import Tensor

from minist.similarity import Similarity, similarity

QUERIES, DOCUMENTS = 1024, 8192  # scores are computed in blocks of at most this size: 32 MB, and again to sort them


def search(queries: Tensor, documents: Tensor, top_k: int, similarity_name: str = "cosine") -> tuple[Tensor, Tensor]:
    """Scores [Q, k] and row numbers [Q, k] of the best documents for queries [Q, D] among documents [M, D].

    Best first, and of equal scores the lower row first; k is the smaller of `top_k` and M. A score that is NaN, since
    an embedding is, comes last, as minus infinity.
    """
    score = similarity(similarity_name)
    blocks = [_search_block(part, documents, top_k, score) for part in queries.split(QUERIES)]
    return torch.cat([s for s, _ in blocks]), torch.cat([rows for _, rows in blocks])


def _search_block(queries: Tensor, documents: Tensor, top_k: int, score: Similarity) -> tuple[Tensor, Tensor]:
    best = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(documents), DOCUMENTS):
        found = score(queries, documents[start : start + DOCUMENTS]).cpu()
        found = found.masked_fill_(found.isnan(), float("-inf"))  # a sort would put NaN first
        best = torch.cat([best, found], dim=1)
        rows = torch.cat([rows, torch.arange(start, start + found.shape[1]).expand(len(found), -1)], dim=1)
        # earlier documents come first, so a stable sort keeps the lower row ahead among equals
        order = best.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        best, rows = best.gather(1, order), rows.gather(1, order)
    return best, rows
