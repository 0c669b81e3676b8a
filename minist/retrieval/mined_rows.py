"""What mining finds for a query, as rows of a data set, and a summary of what became of the candidates.

    triplet       query, positive, negative                    for each positive and each negative
    n-tuple       query, positive, negative_1 .. negative_n    for each positive, where all n were found
    labeled-pair  query, document, label                       1 for each positive, 0 for each negative
    labeled-list  query, documents, labels                     for each positive: it first, then the negatives
    reranking     query, positive, documents               the list of positives, and of the best n of all documents

The last is what CrossEncoderRerankingEvaluator takes: the positives stand where the model ranks them, or nowhere.
With scores, labels become similarities (`score`, `scores`); triplets and tuples get a list `scores` of the positive and
the negatives, as MarginMSELoss takes it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = dict[str, Any]


class Found(NamedTuple):
    """A query with its positives and the negatives that were chosen, best first; a score beside each."""

    query: str
    positives: list[str]
    positive_scores: list[float]
    negatives: list[str]
    negative_scores: list[float]

    def pairs(self) -> Iterator[tuple[str, float]]:
        return zip(self.positives, self.positive_scores, strict=True)


def triplets(found: Found, wanted: int, with_scores: bool) -> Iterator[Row]:
    for positive, score in found.pairs():
        for negative, other in zip(found.negatives, found.negative_scores, strict=True):
            row = {"query": found.query, "positive": positive, "negative": negative}
            yield row | ({"scores": [score, other]} if with_scores else {})


def n_tuples(found: Found, wanted: int, with_scores: bool) -> Iterator[Row]:
    if len(found.negatives) < wanted:
        return  # a column that is there for some rows only would be no column
    negatives = {f"negative_{i}": text for i, text in enumerate(found.negatives, 1)}
    for positive, score in found.pairs():
        row = {"query": found.query, "positive": positive, **negatives}
        yield row | ({"scores": [score, *found.negative_scores]} if with_scores else {})


def labeled_pairs(found: Found, wanted: int, with_scores: bool) -> Iterator[Row]:
    documents, scores = found.positives + found.negatives, found.positive_scores + found.negative_scores
    for i, (document, score) in enumerate(zip(documents, scores, strict=True)):
        value: Row = {"score": score} if with_scores else {"label": int(i < len(found.positives))}
        yield {"query": found.query, "document": document} | value


def labeled_lists(found: Found, wanted: int, with_scores: bool) -> Iterator[Row]:
    for positive, score in found.pairs() if found.negatives else ():  # a list of one has nothing to rank
        values: Row = {"labels": [1] + [0] * len(found.negatives)}
        if with_scores:
            values = {"scores": [score, *found.negative_scores]}
        yield {"query": found.query, "documents": [positive, *found.negatives]} | values


def rerankings(found: Found, wanted: int, with_scores: bool) -> Iterator[Row]:
    row: Row = {"query": found.query, "positive": found.positives, "documents": found.negatives}
    yield row | ({"scores": found.negative_scores} if with_scores else {})


FORMATS: dict[str, Callable[[Found, int, bool], Iterator[Row]]] = {
    "triplet": triplets,
    "n-tuple": n_tuples,
    "labeled-pair": labeled_pairs,
    "labeled-list": labeled_lists,
    "reranking": rerankings,
}


@dataclass
class Summary:
    """How many candidates became negatives, and why the others did not: `candidates` = `kept` + the sum of `left_out`.

    Nothing is repeated to fill a row: queries that lack negatives are counted instead."""

    wanted: int  # negatives for each query
    documents: int
    left_out: Counter[str]  # reason -> candidates
    queries: int = 0
    positives: int = 0
    kept: int = 0
    lacking: int = 0  # queries with fewer negatives than wanted
    without: int = 0  # those among them that have none
    rows: int = 0

    @property
    def candidates(self) -> int:
        """Documents that were looked at, the nearest ones of each query."""
        return self.kept + self.left_out.total()

    def __str__(self) -> str:
        reasons = [f"{count:,} {reason}" for reason, count in self.left_out.items() if count]
        texts = f"{self.queries:,} queries with {self.positives:,} positives, {self.documents:,} documents"
        lines = [
            f"{self.rows:,} rows, of {texts}",
            f"{self.kept:,} negatives of {self.wanted * self.queries:,} wanted, from {self.candidates:,} candidates",
            f"the other candidates: {', '.join(reasons) or 'none'}",
        ]
        if self.lacking:
            less = f"{self.lacking:,} queries lack negatives, {self.without:,} of them have none"
            lines.append(f"{less}: a larger range_max or milder limits find more")
        return "\n".join(lines)


class Mined(NamedTuple):
    """The rows, query after query in the order of the pairs, and what became of all candidates."""

    rows: list[Row]
    summary: Summary

    def add(self, found: Found, rows: list[Row]) -> None:
        """The rows of one query."""
        self.rows.extend(rows)
        s = self.summary
        s.rows += len(rows)
        s.queries += 1
        s.positives += len(found.positives)
        s.kept += len(found.negatives)
        s.lacking += len(found.negatives) < s.wanted
        s.without += not found.negatives
