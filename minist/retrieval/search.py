"""Exact search: the best documents for each query by embedding."""

import warnings
from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any

import torch
from torch import Tensor

from minist.checks import pick, whole
from minist.retrieval.sparse_index import SparseIndex
from minist.similarity import Similarity, dot, similarity, unit

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
    if similarity_name == "cosine":
        queries, score = unit(queries), cosine_of_unit
    blocks = [search_block(part, documents, top_k, score, DOCUMENTS) for part in queries.split(QUERIES)]
    return torch.cat([s for s, _ in blocks]), torch.cat([rows for _, rows in blocks])


def semantic_search(
    query_embeddings: Any, corpus_embeddings: Any, query_chunk_size: int = 100, corpus_chunk_size: int = 500_000,
    top_k: int = 10, score_function: Any = "cosine",
) -> list[list[dict[str, Any]]]:  # fmt: skip
    """For each query the best of the corpus, best first: {"corpus_id": row, "score": ..}; ties and NaN as in `search`.

    Embeddings: a tensor, also a sparse one, an array, also a memory-mapped one, or a list; [D] is one row.
    `score_function`: the name of a similarity, or a function of dense [Q, D] and [M, D] that gives [Q, M]: this one is
    asked for so many queries and documents at a time as `query_chunk_size` and `corpus_chunk_size` say."""
    queries, documents, k = as_rows(query_embeddings), as_rows(corpus_embeddings), whole("top_k", top_k, 1)
    if not len(queries):
        return []
    if queries.is_sparse or documents.is_sparse:
        queries, documents = queries.to_sparse().coalesce(), documents.to_sparse().coalesce()
    queries = queries.to(documents.device)
    if callable(score_function) and not documents.is_sparse:
        parts = queries.split(query_chunk_size)
        found = [search_block(part, documents, k, score_function, corpus_chunk_size) for part in parts]
    else:
        found = [search(queries, documents, k, score_function)]
    lines = [line for scores, rows in found for line in zip(rows.tolist(), scores.tolist(), strict=True)]
    return [[{"corpus_id": row, "score": score} for row, score in zip(*line, strict=True)] for line in lines]


def as_rows(embeddings: Any) -> Tensor:
    """[N, D] of a tensor, of an array, which is not copied, or of a list of rows; [D] is one row."""
    with warnings.catch_warnings(action="ignore"):  # that nobody may write to a file opened for reading: nobody does
        if isinstance(embeddings, list) and embeddings:
            embeddings = torch.stack([torch.as_tensor(row) for row in embeddings])
        found = torch.as_tensor(embeddings)
    row = found.unsqueeze(0) if len(found) else found.reshape(0, 0)
    return row if found.ndim == 1 else found


def cosine_of_unit(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines with queries of length 1: their few scores are divided by the documents' lengths, not all documents."""
    documents = documents.to(torch.promote_types(documents.dtype, torch.float32))  # else a half would lose digits
    lengths = documents.norm(dim=1)
    return dot(queries, documents).div_(lengths.masked_fill_(lengths <= 1e-12, torch.inf))  # a row of zeros scores 0


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
        columns = torch.arange(start, start + found.shape[1], device=found.device)
        if best.shape[1] == k:  # then few documents enter the best of any query: the others need not be sorted
            columns = columns[wanted := (found > best[:, -1:].to(found.device)).any(0)]
            found = found[:, wanted]
        found.nan_to_num_(float("-inf"), float("inf"), float("-inf"))  # NaN would be taken for the largest
        scores, places = best_columns(found, k)
        best, rows = torch.cat([best, scores.cpu()], dim=1), torch.cat([rows, columns[places].cpu()], dim=1)
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


def fuse_rankings(rankings: Iterable[Sequence[Any]], k: float = 60) -> dict[Any, float]:
    """One ranking of several, best first, with its scores: a document's is the sum of 1 / (k + rank) over the rankings
    that have it, ranks from 1 (reciprocal rank fusion, Cormack et al. 2009). The larger k, the less first ranks weigh.
    Of equal scores that of the earlier ranking comes first."""
    parts: dict[Any, list[float]] = {}
    for ranking in rankings:
        for rank, document in enumerate(dict.fromkeys(ranking), 1):
            parts.setdefault(document, []).append(1 / (k + rank))
    scores = {document: fsum(found) for document, found in parts.items()}  # whatever the order of the rankings
    return dict(sorted(scores.items(), key=lambda item: -item[1]))
