"""Retrieve and rerank: several searches name candidates, their rankings become one, a cross-encoder puts it in order.

    fused(d) = sum over the searches that name d:  1 / (60 + rank of d)      Cormack et al. 2009
    sum(d)   = standard(rerank(d)) + sum over all searches:  standard(score of d)
    standard(x) = (x - mean) / standard deviation of what is reranked; what a search does not name has its least

rerank(d) is the cross-encoder's score of query and d. Alone it forgets what the searches knew, and ranks forget by how
much one document was better than the next: the sum of scores knows both."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.checks import pick, whole
from minist.retrieval.bm25 import BM25
from minist.retrieval.search import fuse_rankings, search, sparse_unit
from minist.retrieval.sparse_index import SparseIndex, best
from minist.similarity import unit

Found = tuple[Tensor, Tensor]  # scores and rows of at most k documents, best first
Retriever = Callable[[str, int], Found]  # of a query and k
SCALES: dict[str, Callable[[Tensor], Tensor]] = {"dot": torch.clone, "cosine": sparse_unit}  # then a product
MIXES = {"sum": True, "score": False}  # what decides after reranking: the sum, or the cross-encoder's score alone


@dataclass
class Hit:
    """A document that was found: score and rank, from 1, in each stage: in each retriever, then fused, rerank, sum."""

    row: int
    score: float  # of the last stage: to be compared within one query alone
    stages: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass
class Pipeline:
    """Searches among `texts` by one or several retrievers, and by a CrossEncoder, if there is one.

    pipeline = Pipeline(texts, {"bm25": by_words(BM25(texts)), "dense": by_embedding(model, embeddings)}, reranker)
    texts[pipeline.search("a query", 10)[0].row]  # the best"""

    texts: Sequence[str]
    retrievers: Mapping[str, Retriever]
    reranker: Any = None
    candidates: int = 100  # that each retriever names, or more where more are wanted
    rerank_top: int = 50  # the best of all, which are reranked; or more, as above
    rerank_mix: str = "sum"

    def search(self, query: str, top_k: int) -> list[Hit]:
        """At most `top_k` documents, best first; of equal scores the lower row first, NaN last."""
        k, found, rankings = whole("top_k", top_k, 1), dict[int, Hit](), list[list[int]]()
        for name, retrieve in self.retrievers.items():
            scores, rows = (x.tolist() for x in retrieve(query, max(k, self.candidates)))
            rankings.append(rows)
            for rank, (score, row) in enumerate(zip(scores, rows, strict=True), 1):
                found.setdefault(row, Hit(row, score)).stages[name] = score, rank
        hits = list(found.values())
        if len(self.retrievers) > 1:
            fused = fuse_rankings(rankings)
            hits = in_order(hits, "fused", np.array([fused[hit.row] for hit in hits]))
        if self.reranker and hits:
            hits = hits[: max(k, self.rerank_top)]
            own = np.asarray(self.reranker.predict([(query, self.texts[hit.row]) for hit in hits]), np.float64)
            reranked = in_order(hits, "rerank", own)
            is_sum = pick("rerank_mix", self.rerank_mix, MIXES)
            first = sum(standard(scores_by(name, hits)) for name in self.retrievers)
            hits = in_order(hits, "sum", first + standard(own)) if is_sum else reranked
        return hits[:k]


def in_order(hits: list[Hit], stage: str, scores: np.ndarray) -> list[Hit]:
    """By the scores [n] of a stage, which the hits note."""
    order = np.lexsort((np.array([hit.row for hit in hits]), -scores)).tolist()  # NaN last
    for rank, i in enumerate(order, 1):
        hits[i].score = float(scores[i])
        hits[i].stages[stage] = hits[i].score, rank
    return [hits[i] for i in order]


def scores_by(name: str, hits: list[Hit]) -> np.ndarray:
    """Of a retriever [n]; its least for those that it does not name."""
    known = {hit.row: hit.stages[name][0] for hit in hits if name in hit.stages}
    return np.array([known.get(hit.row, min(known.values(), default=0.0)) for hit in hits])


def standard(scores: np.ndarray) -> np.ndarray:
    """With mean 0 and standard deviation 1, or all 0 where none differs. What is not finite counts nowhere."""
    known = scores[np.isfinite(scores)] if np.isfinite(scores).any() else np.zeros(1)
    return (scores - known.mean()) / (known.std() or 1.0)


def by_embedding(model: Any, documents: Tensor) -> Retriever:
    """The nearest of documents [N, D], as the model compares."""
    is_cosine = model.similarity_name == "cosine"
    name, documents = ("dot", unit(documents)) if is_cosine else (model.similarity_name, documents)  # for all queries

    def retrieve(query: str, k: int) -> Found:
        embedded = torch.as_tensor(model.encode_query([query], show_progress_bar=False))
        return above(-inf, *search(unit(embedded) if is_cosine else embedded, documents, k, name))

    return retrieve


def by_index(model: Any, index: SparseIndex) -> Retriever:
    """Documents that share a word with the query, as a sparse model knows both."""
    scale = pick("the similarity of a sparse model", model.similarity_name, SCALES)
    return lambda query, k: above(0.0, *index.search(scale(model.encode_query([query], show_progress_bar=False)), k))


def by_words(bm25: BM25) -> Retriever:
    """Documents that hold a word of the query."""
    return lambda query, k: above(0.0, *best(bm25.scores(query), k))


def above(least: float, scores: Tensor, rows: Tensor) -> Found:
    """Those with more than the least score."""
    return scores[scores > least], rows[scores > least]
