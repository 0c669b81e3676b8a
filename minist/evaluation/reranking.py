"""Evaluators of re-ranking: do relevant documents come first when the candidates of a query are put in order?"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minist.checks import listing, number, pick, whole
from minist.data.rows import Place, check_number, check_text, check_texts, read_places
from minist.evaluation import base
from minist.evaluation.base import Dim, Evaluator, Metrics, Pair, Samples
from minist.evaluation.beir import read_collection
from minist.evaluation.metrics import found_by, rank_means
from minist.retrieval.bm25 import BM25
from minist.retrieval.pipeline import standard
from minist.retrieval.search import fuse_rankings
from minist.retrieval.sparse_index import best
from minist.similarity import similarity

RERANK_K = 100  # candidates of a query, where a collection is given instead of lists


class CrossEncoderRerankingEvaluator(Evaluator):
    """Metrics `{name}_map`, `{name}_mrr@k` and `{name}_ndcg@k`, means over queries. Where samples have `documents`,
    also `{name}_base_map`, .. of the order in which these were given.

    A sample has a `query`, `positive` (a text or a list), and either `negative`, or `documents`: what a first stage
    found, best first, positives among it. What it did not find counts by the rules of sentence-transformers 6.2:

    always_rerank_positives  all positives are ordered along with the documents, found or not: the best possible is 1
    else                     the documents alone are; a positive that was not found is not missed either
    base_                    positives that were not found stand behind the last document; 0 if none was found

    A sample may also have `scores`, those of the first stage for its documents. Then `{name}_fused_map`, .. are of the
    order by the sum of both scores, each less its mean and divided by its standard deviation in the list (Fox and Shaw
    1994 sum scores): what one of them misses, the other may see.

    A query without a positive in its list counts 0; metrics.py says what holds of equal scores."""

    columns: tuple[str, ...] = ("query", "positive", "negative or documents", "scores (optional)")
    of = "one score"

    def __init__(
        self, samples: Samples, at_k: int = 10, always_rerank_positives: bool = True, name: str = "", note: str = ""
    ) -> None:
        """ValueError for a sample that is none, by its place."""
        number("number of samples", len(samples), least=1)
        self.at_k = whole("at_k", at_k, least=1)
        self.lists = [_candidates(i, sample, always_rerank_positives) for i, sample in enumerate(samples)]
        self.first = [np.array(sample["scores"], np.float64) for sample in samples if "scores" in sample]
        shapes = [(len(pairs),) for pairs, *_ in self.lists]
        if self.first and (always_rerank_positives or [scores.shape for scores in self.first] != shapes):
            raise ValueError("scores are a number for each of the documents, with always_rerank_positives = false")
        lost = sum(not sample["positive"] for sample in samples)
        without = f"{lost:,} queries of {len(samples):,} have no positive and count 0" if lost else ""
        super().__init__(name, "; ".join(filter(None, [note, without])))

    @classmethod
    def of_rows(cls, rows: Iterable[Place]) -> dict[str, Any]:
        """Rows of the same query are one sample, in which a text counts once, and a positive is no negative."""
        known = dict[str, tuple[Place, dict[str, None], dict[str, float]]]()  # texts, each once; of documents the score
        for place in rows:
            other, query = "documents" if "documents" in place.row else "negative", check_text(place, "query")
            positive, others = known.setdefault(query, (place, {}, {}))[1:]
            positive.update(dict.fromkeys(check_texts(place, "positive", isinstance(place.row["positive"], list))))
            texts = check_texts(place, other, isinstance(place.row[other], list))
            for text, score in zip(texts, _first_scores(place, len(texts)), strict=True):
                others[text] = max(score, others.get(text, score))  # one that stands twice is where it was best
        samples = list[dict[str, Any]]()
        for query, (place, positive, others) in known.items():
            found = [text for text in others if other == "documents" or text not in positive]
            found.sort(key=others.__getitem__, reverse=True)  # rows of one query become one list, best first
            if not found:
                raise place.error(other, "there is nothing to order for this query but positives")
            samples.append({"query": query, "positive": list(positive), other: found})
            if "scores" in place.row:
                samples[-1]["scores"] = [others[text] for text in found]
        return {"samples": samples}

    @staticmethod
    def of_files(
        queries: Path, corpus: Path, qrels: Path, candidates: Path | None = None, rerank_k: int = RERANK_K
    ) -> dict[str, Any]:
        """Arguments from files, see beir.py. The documents of a query are the first `rerank_k` of `candidates`, else of
        our own BM25: then the numbers differ from published ones.
        Left out are queries without judgements or candidates, and positives that the corpus has not; `note` says so."""
        given = read_collection(queries, corpus, qrels)
        texts, documents, relevant = given["queries"], given["corpus"], given["relevant_docs"]
        judged = {i: query for i, query in texts.items() if relevant.get(i)}
        ranked, samples = _first_stage(candidates, judged, documents, rerank_k), []
        for i in (i for i in judged if ranked.get(i)):
            positive = [documents[j] for j in sorted(relevant[i]) if j in documents]
            samples.append({"query": texts[i], "positive": positive, "documents": ranked[i]})
        if not samples:
            raise ValueError(f"no query of {queries} has both a judgement and candidates: do the ids agree?")
        lost, reason = len(texts) - len(samples), "they have no judgement or no candidates"
        without = f"{lost:,} queries of {len(texts):,} left out: {reason}" if lost else ""
        made = "" if candidates else f"the candidates are the first {rerank_k:,} of BM25"
        return {"samples": samples, "note": "; ".join(filter(None, [given["note"], without, made]))}

    def __call__(self, model: Any) -> Metrics:
        pairs, relevant, bases = zip(*self.lists, strict=True)
        scores, figures = self.score(model, [pair for of in pairs for pair in of])
        own = np.split(scores, np.cumsum([len(of) for of in pairs])[:-1])
        fused = [standard(a) + standard(b) for a, b in zip(self.first, own, strict=False)]  # none of none
        found = rank_means("", zip(relevant, own, strict=True), self.at_k)
        found |= rank_means("fused_", zip(relevant, fused, strict=False), self.at_k)
        first = [(hits, -np.arange(len(hits))) for hits in bases if hits]
        return self.named(found | rank_means("base_", first, self.at_k) | figures, f"ndcg@{self.at_k}")

    def score(self, model: Any, pairs: list[Pair]) -> tuple[np.ndarray, Metrics]:
        """A score for each pair, and what else there is to say of the model."""
        return base.one_score_each(model, pairs), {}


class RerankingEvaluator(CrossEncoderRerankingEvaluator):
    """The same of a model of embeddings, by the similarity of a query and its candidates; of a sparse model also the
    figures of base.py. Samples that lack positives, or other candidates, are left out."""

    columns = ("query", "positive", "negative or documents")
    of = "embeddings"

    def __init__(
        self, samples: Samples, at_k: int = 10, name: str = "", similarity_fct: str = "cosine",
        truncate_dim: Dim = None, note: str = "",
    ) -> None:  # fmt: skip
        full = [one for one in samples if one["positive"] and (one.get("negative") or one.get("documents"))]
        lost = len(samples) - len(full)
        without = f"{lost:,} queries of {len(samples):,} left out: no positive or no other" if lost else ""
        super().__init__(full, at_k, name=name, note="; ".join(filter(None, [note, without])))
        self.similarity, self.truncate_dim = similarity_fct, truncate_dim
        similarity(similarity_fct)

    def score(self, model: Any, pairs: list[Pair]) -> tuple[np.ndarray, Metrics]:
        roles = dict(zip(("query", "document"), zip(*pairs, strict=True), strict=True))
        queries, documents = (self.embed_once(model, texts, role) for role, texts in roles.items())
        figures = base.sparse_figures({"query": queries[0], "corpus": documents[0]})
        sides = (embeddings.index_select(0, rows) for embeddings, rows in (queries, documents))
        return base.pair_similarities(self.similarity, *sides), figures


class ReciprocalRankFusionEvaluator(Evaluator):
    """Metrics `{name}_map`, `{name}_mrr@k` and `{name}_ndcg@k` of both lists fused, and the same with `dense_` and
    `sparse_` of each alone: means over queries. It needs no model, as the lists are found already.

    A sample has a `query_id`, `positive` (a text or a list) and `documents`, best first. The samples of both systems
    stand in the same order. Positives that a list lacks stand behind its last document; a list without any counts 0."""

    def __init__(
        self, dense_samples: Samples, sparse_samples: Samples, at_k: int = 10, rrf_k: float = 60, name: str = ""
    ) -> None:
        """`rrf_k` lowers what the first ranks weigh. ValueError unless both have the same queries, in one order."""
        super().__init__(name)
        ids = [[sample["query_id"] for sample in samples] for samples in (dense_samples, sparse_samples)]
        if ids[0] != ids[1] or not ids[0]:
            given = f"{len(ids[0])} dense and {len(ids[1])} sparse samples"
            raise ValueError(f"{given}: give the same query_ids in one order")
        self.pairs = list(zip(dense_samples, sparse_samples, strict=True))
        self.at_k, self.rrf_k = whole("at_k", at_k, 1), number("rrf_k", rrf_k, 0)

    def __call__(self, model: Any = None) -> Metrics:
        lists: dict[str, list[tuple[list[bool], np.ndarray]]] = {"dense_": [], "sparse_": [], "": []}
        for dense, sparse in self.pairs:
            positive, rankings = _texts(dense["positive"]), [list(dense["documents"]), list(sparse["documents"])]
            for of, ranking in zip(lists.values(), [*rankings, list(fuse_rankings(rankings, self.rrf_k))], strict=True):
                hits = found_by(ranking, positive) or [False]
                of.append((hits, -np.arange(len(hits))))
        kinds = [rank_means(kind, of, self.at_k) for kind, of in lists.items()]
        return self.named({metric: value for kind in kinds for metric, value in kind.items()}, f"ndcg@{self.at_k}")


def _texts(cell: str | Sequence[str]) -> list[str]:
    return [cell] if isinstance(cell, str) else list(cell)


def _candidates(i: int, sample: Mapping[str, Any], always: bool) -> tuple[list[Pair], list[bool], list[bool]]:
    """The pairs to order, which are relevant, and which of the first stage were, if there was one."""
    kinds, cell = sample.keys() & {"negative", "documents"}, sample.get("documents", sample.get("negative"))
    if not {"query", "positive"} <= sample.keys() or len(kinds) != 1 or not cell:
        wanted = "query, positive, and one of negative and documents, not empty"
        raise ValueError(f"sample {i} has {listing(sample)}: it takes {wanted}")
    positive, others = _texts(sample["positive"]), _texts(cell)
    base = found_by(others, positive) if "documents" in sample else []
    relevant = base[: len(others)]
    if always or "negative" in sample:
        others = [text for text, found in zip(others, relevant, strict=True) if not found] if base else others
        others, relevant = positive + others, [True] * len(positive) + [False] * len(others)
    return [(sample["query"], text) for text in others], relevant, base


def _first_scores(place: Place, count: int) -> list[float]:
    """The cell `scores`, a number for each of `count` documents; 0 for each where there is no such column."""
    if "scores" not in place.row:
        return [0.0] * count
    cell = place.row["scores"]
    if not isinstance(cell, list) or len(cell) != count:
        raise place.error("scores", f"a list of {count} numbers is wanted, one for each document")
    return [check_number(place._replace(row={"scores": x}), "scores") for x in cell]


def _first_stage(file: Path | None, queries: dict[str, str], documents: dict[str, str], k: int) -> dict[str, list[str]]:
    """query-id -> its first k documents in a file, or of BM25; of equal scores the earlier document comes first."""
    if file:
        found = {}
        for place in read_places([file], {name: name for name in ("query-id", "corpus-ids")}):
            what, ids = f"{file}, row {place.number}: a corpus-id", check_texts(place, "corpus-ids", True)
            found[str(place.row["query-id"])] = [pick(what, document, documents) for document in ids][:k]
        return found
    texts = list(documents.values())
    index = BM25(texts)
    return {i: [texts[row] for row in best(index.scores(query), k)[1].tolist()] for i, query in queries.items()}
