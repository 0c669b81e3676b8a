"""The texts that mining works on, each once, and the documents nearest to each query: its candidates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from minist.data.tokenizer import text_fault
from minist.retrieval.embedding_cache import TextEmbedder
from minist.retrieval.search import in_order, search_block
from minist.similarity import PAIRWISE_SIMILARITIES, SIMILARITIES, Similarity

QUERIES, PAIRS = 1024, 4096  # queries, and pairs of embeddings, that are compared at a time, at most
DOCUMENTS = 256  # or a multiple of it: a matrix product of an odd width takes up to half as long again
# what one score takes at most, with what its similarity and the search for the best of them need beside it; and what a
# candidate takes, with its document's number, what sorting needs, and Python's view of those that are chosen
SCORE_BYTES, CANDIDATE_BYTES = 24, 256


class PairScorer(Protocol):
    """Reads query and document together; a CrossEncoder of one label is one."""

    def predict(self, pairs: Sequence[tuple[str, str]], /) -> np.ndarray | Tensor:
        """Scores [N] of N pairs."""


@dataclass(frozen=True)
class Pairs:
    """Q queries and M documents, no text twice, and which of these are positives of which of those: P pairs."""

    queries: list[str]
    documents: list[str]  # those of the corpus first
    owners: Tensor  # [P] the query of each pair, ascending
    positives: Tensor  # [P] its document

    @classmethod
    def of(cls, queries: Sequence[str], positives: Sequence[str], corpus: Sequence[str]) -> Self:
        """ValueError where there is no pair, or half a pair, or something else than a text."""
        if len(queries) != len(positives) or not queries:
            raise ValueError(f"there are {len(queries)} queries and {len(positives)} positives: give as many, and some")
        for name, texts in (("queries", queries), ("positives", positives), ("corpus", corpus)):
            for i, fault in enumerate(text_fault(text, may_pair=False) for text in texts):
                if fault:
                    raise ValueError(f"{name}[{i}] is {fault}")
        numbers = {text: i for i, text in enumerate(dict.fromkeys([*corpus, *positives]))}
        own: dict[str, dict[int, None]] = {}  # a dict for its order: a pair that stands twice is one
        for query, positive in zip(queries, positives, strict=True):
            own.setdefault(query, {})[numbers[positive]] = None
        counts = torch.tensor([len(documents) for documents in own.values()])
        flat = torch.tensor([i for documents in own.values() for i in documents])
        return cls(list(own), list(numbers), torch.arange(len(own)).repeat_interleave(counts), flat)

    @property
    def most(self) -> int:
        """Positives of the query that has most."""
        return int(self.owners.bincount().max())


class Block(NamedTuple):
    """Some queries, from number `first` on, their K candidates each, best first, and their p positives."""

    first: int
    scores: Tensor  # [q, K]
    rows: Tensor  # [q, K] numbers of documents
    owners: Tensor  # [p] the query of each positive, the first of the block is 0
    positives: Tensor  # [p] numbers of documents
    positive_scores: Tensor  # [p]

    def is_positive(self) -> Tensor:
        """Which candidates are positives of their query, [q, K]."""
        largest = int(torch.cat([self.rows.flatten(), self.positives]).max()) + 1
        queries = torch.arange(len(self.rows))  # one number for each pair of a query and a document
        return torch.isin(queries[:, None] * largest + self.rows, self.owners * largest + self.positives)

    def lowest_positive(self) -> Tensor:
        """The score of each query's least similar positive, [q, 1]: margins count from it."""
        start = self.positive_scores.new_full((len(self.rows),), torch.inf)
        return start.scatter_reduce(0, self.owners, self.positive_scores, "amin")[:, None]


def nearest(
    pairs: Pairs, queries: Tensor, documents: Tensor, model: TextEmbedder, k: int, memory_mb: int
) -> Iterator[Block]:
    """The k nearest of `documents` [M, D] to each of `queries` [Q, D], rows of length one: by the model's similarity,
    on its device."""
    # cosine is the dot product of vectors of length one
    name = "dot" if model.similarity_name == "cosine" else model.similarity_name
    score: Similarity = lambda a, b: SIMILARITIES[name](a, b.to(a.device))  # noqa: E731
    many, at_once = block_sizes(min(k, len(documents)), memory_mb)
    for first in range(0, len(queries), many):
        part = queries[first : first + many]
        scores, rows = search_block(part.to(model.device), documents, k, score, at_once)
        start, end = torch.searchsorted(pairs.owners, torch.tensor([first, first + many])).tolist()
        owners, positives = pairs.owners[start:end] - first, pairs.positives[start:end]
        own = [
            PAIRWISE_SIMILARITIES[name](part[q], documents[d])
            for q, d in zip(owners.split(PAIRS), positives.split(PAIRS), strict=True)
        ]
        yield Block(first, scores, rows, owners, positives, torch.cat(own))


def block_sizes(k: int, memory_mb: int) -> tuple[int, int]:
    """Queries, and documents, at a time: one half of the memory is for their scores, one for the candidates."""
    half = memory_mb * 2**20 // 2
    scores = half // SCORE_BYTES
    queries = max(min(QUERIES, half // (CANDIDATE_BYTES * k), int(scores**0.5), scores // DOCUMENTS), 1)
    return queries, max(scores // queries // DOCUMENTS, 1) * DOCUMENTS


def rescore(block: Block, pairs: Pairs, scorer: PairScorer, with_positives: bool) -> Block:
    """The block with the scores of `scorer`, in their order; without `with_positives` they are no candidates, and not
    scored a second time. Of equal scores the lower document comes first."""
    known = block.scores > -torch.inf
    asked = known if with_positives else known & ~block.is_positive()
    scores = torch.full_like(block.scores, -torch.inf)
    scores[asked] = _predict(pairs, scorer, asked.nonzero()[:, 0] + block.first, block.rows[asked])
    by_row = block.rows.argsort(dim=1)
    scores, rows = in_order(scores.gather(1, by_row), block.rows.gather(1, by_row), scores.shape[1])
    own = _predict(pairs, scorer, block.owners + block.first, block.positives)
    return block._replace(scores=scores, rows=rows, positive_scores=own)


def _predict(pairs: Pairs, scorer: PairScorer, queries: Tensor, documents: Tensor) -> Tensor:
    """[N] of these pairs of a query and a document [N]. ValueError where it is not one number for each."""
    numbers = zip(queries.tolist(), documents.tolist(), strict=True)
    found = torch.as_tensor(scorer.predict([(pairs.queries[q], pairs.documents[d]) for q, d in numbers]))
    if found.shape != queries.shape:
        shape = list(found.shape)
        raise ValueError(
            f"the cross-encoder gives scores {shape} for {len(queries)} pairs: use one with a single label"
        )
    return found.detach().float().cpu().nan_to_num(-torch.inf, torch.inf, -torch.inf)
