"""CrossEncoderRerankingEvaluator: do relevant documents come first when the model orders the candidates of a query?"""

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minist.checks import listing, number
from minist.data.rows import Place, check_text, check_texts, read_rows
from minist.evaluation.binary_metrics import average_precision, ndcg_of_scores
from minist.evaluation.embedder import Scorer, one_score_each
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator
from minist.evaluation.metrics import mrr_at
from minist.retrieval.bm25 import BM25

RERANK_K = 100  # candidates of a query, where a collection is given instead of lists


class Candidates(NamedTuple):
    """What is ordered for one query."""

    query: str
    documents: list[str]
    relevant: np.ndarray  # [documents] bool
    base: np.ndarray | None  # the same in the order of the first stage, None if there is no such


class CrossEncoderRerankingEvaluator:
    """Metrics `{name}_map`, `{name}_mrr@k` and `{name}_ndcg@k`, means over queries. Where samples have `documents`,
    also `{name}_base_map`, .. of the order in which these were given.

    A sample has a `query`, `positive` (a text or a list), and either `negative`, or `documents`: what a first stage
    found, best first, positives among it. What it did not find counts by the rules of sentence-transformers 6.2:

    always_rerank_positives  all positives are ordered along with the documents, found or not: the best possible is 1
    else                     the documents alone are; a positive that was not found is not missed either, but a query
                             of which none was found counts 0
    base_                    positives that were not found stand behind the last document; 0 if none was found

    A query without positives counts 0. One without anything beside positives is an error, as there is nothing to order.

    Equal scores: MAP takes them all at once, nDCG is averaged over their orders, MRR has the later one first, so
    that equal scores for all do not look good because the positives are given first. All metrics of a query are nan if
    a score is.
    """

    columns = ("query", "positive", "negative or documents")

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]],
        at_k: int = 10,
        always_rerank_positives: bool = True,
        name: str = "",
        note: str = "",
    ) -> None:
        """`note` is what a person should know of the rows. ValueError for a sample that is none, by its place."""
        self.at_k = index(number("at_k", at_k, least=1))  # index: 2.5 is no rank
        if not samples:
            raise ValueError("there are no samples to evaluate on")
        self.lists = [_candidates(i, sample, always_rerank_positives) for i, sample in enumerate(samples)]
        self.prefix = f"{name}_" if name else ""
        lost = sum(not sample["positive"] for sample in samples)
        without = f"{lost:,} queries of {len(samples):,} have no positive and count 0" if lost else ""
        self.note = "; ".join(filter(None, [note, without]))

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: a cell is a text or a list of texts. Rows of the same query are one sample, in which a text
        counts once, and a positive is no negative."""
        places: dict[str, list[Place]] = {}  # query -> its rows
        for place in rows:
            places.setdefault(check_text(place, "query"), []).append(place)
        return {"samples": [{"query": query, **_join(of)} for query, of in places.items()]}

    @staticmethod
    def of_files(
        queries: Path, corpus: Path, qrels: Path, candidates: Path | None = None, rerank_k: int = RERANK_K
    ) -> dict[str, Any]:
        """Arguments from the files of BEIR, see InformationRetrievalEvaluator. The documents of a query are the first
        `rerank_k` of `candidates`, rows of a query-id and its list of corpus-ids, best first; else of BM25.

        Left out are queries without judgements or candidates, and positives that the corpus has not; `note` says so.
        """
        given = InformationRetrievalEvaluator.of_files(queries, corpus, qrels)
        texts, documents, relevant = given["queries"], given["corpus"], given["relevant"]
        judged = [i for i in texts if relevant.get(i)]
        if candidates:
            ranked = _read_candidates(candidates, documents, rerank_k)
        else:
            ranked = _bm25({i: texts[i] for i in judged}, documents, rerank_k)
        samples = [
            {
                "query": texts[i],
                "positive": [documents[j] for j in sorted(relevant[i]) if j in documents],
                "documents": [documents[j] for j in ranked[i]],
            }
            for i in judged
            if ranked.get(i)
        ]
        if not samples:
            raise ValueError(f"no query of {queries} has both a judgement and candidates: do the ids agree?")
        lost = len(texts) - len(samples)
        notes = [
            given["note"],
            f"{lost:,} queries of {len(texts):,} left out: they have no judgement or no candidates" if lost else "",
            "" if candidates else f"the candidates are the first {rerank_k:,} of BM25",
        ]
        return {"samples": samples, "note": "; ".join(filter(None, notes))}

    def __call__(self, model: Scorer) -> dict[str, float]:
        pairs = [(one.query, document) for one in self.lists for document in one.documents]
        ends = np.cumsum([len(one.documents) for one in self.lists])
        scores = np.split(one_score_each(model, pairs), ends[:-1])
        found = self._mean("", [(one.relevant, of) for one, of in zip(self.lists, scores, strict=True)])
        base = [one.base for one in self.lists if one.base is not None]
        return found | self._mean("base_", [(hits, -np.arange(len(hits))) for hits in base])

    def _mean(self, kind: str, rankings: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Metrics of (relevant, scores) of each query; nothing where there are none."""
        if not rankings:
            return {}
        values = np.mean([measure(relevant, scores, self.at_k) for relevant, scores in rankings], axis=0)
        names = ("map", f"mrr@{self.at_k}", f"ndcg@{self.at_k}")
        return {f"{self.prefix}{kind}{metric}": float(value) for metric, value in zip(names, values, strict=True)}


def measure(relevant: np.ndarray, scores: np.ndarray, k: int) -> tuple[float, float, float]:
    """Average precision of all, reciprocal rank and nDCG of the first k."""
    if np.isnan(scores).any():
        return (float("nan"),) * 3
    later_first = np.argsort(scores, kind="stable")[::-1]  # of equal scores
    return average_precision(relevant, scores), mrr_at(relevant[later_first], k), ndcg_of_scores(relevant, scores, k)


def _join(places: Sequence[Place]) -> dict[str, list[str]]:
    """The sample of one query, from its rows."""
    first = places[0]
    other = "documents" if "documents" in first.row else "negative"
    positive, others = (
        list(dict.fromkeys(text for place in places for text in check_texts(place, column, _is_list(place, column))))
        for column in ("positive", other)
    )
    if other == "negative":
        known = set(positive)
        others = [text for text in others if text not in known]  # the negative of a row may be the positive of another
    if not others:
        raise first.error(other, "there is nothing to order for this query but positives")
    return {"positive": positive, other: others}


def _is_list(place: Place, column: str) -> bool:
    return isinstance(place.row[column], list)


def _candidates(i: int, sample: Mapping[str, Any], always_rerank_positives: bool) -> Candidates:
    if not {"query", "positive"} <= sample.keys() or len(sample.keys() & {"negative", "documents"}) != 1:
        wanted = "query, positive, and one of negative and documents"
        raise ValueError(f"sample {i} has {listing(sample)}: it takes {wanted}")
    column = "documents" if "documents" in sample else "negative"
    positive, others = (
        [sample[key]] if isinstance(sample[key], str) else list(sample[key]) for key in ("positive", column)
    )
    if not others:
        raise ValueError(f"sample {i}: {column} is empty, there is nothing to order")
    known = set(positive)
    hits = np.array([text in known for text in others])
    if column == "documents":
        missed = len(positive) - hits.sum() if hits.any() else 0  # they stand behind the last document
        base = np.append(hits, np.ones(max(missed, 0), dtype=bool))
        if not always_rerank_positives:
            return Candidates(sample["query"], others, hits, base)
        others = [text for text in others if text not in known]
    documents, relevant = positive + others, np.arange(len(positive) + len(others)) < len(positive)
    return Candidates(sample["query"], documents, relevant, base if column == "documents" else None)


def _bm25(queries: Mapping[str, str], documents: Mapping[str, str], k: int) -> dict[str, list[str]]:
    ids, search, found = list(documents), BM25(list(documents.values())), {}
    for i, query in queries.items():
        order = search.scores(query).argsort(descending=True, stable=True)  # of equal scores the earlier one first
        found[i] = [ids[row] for row in order[:k].tolist()]
    return found


def _read_candidates(file: Path, documents: Mapping[str, str], k: int) -> dict[str, list[str]]:
    """query-id -> corpus-ids, best first. ValueError for a document that the corpus has not."""
    found = {}
    for i, row in enumerate(read_rows(file, ["query-id", "corpus-ids"]), 1):
        place = Place(file, i, row)
        ids = check_texts(place, "corpus-ids", True)
        if unknown := [document for document in ids if document not in documents]:
            raise place.error("corpus-ids", f"the corpus has no document {unknown[0]!r}")
        found[str(row["query-id"])] = ids[:k]
    return found
