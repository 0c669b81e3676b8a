"""InformationRetrievalEvaluator: how well does the model find the relevant documents of each query?"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set

from pathlib import Path

import numpy as np
import torch

from minist.data.rows import Place, read_rows
from minist.evaluation import metrics
from minist.evaluation.embedder import Embedder
from minist.retrieval.search import search


class InformationRetrievalEvaluator:
    """Metrics `{name}_{similarity}_{metric}@k` for accuracy, precision, recall, mrr, ndcg and map.

    Queries and documents are given by id, `relevant` holds the ids of the relevant documents of each
    query; a query without any is left out. Of equal scores, the lower document id ranks first.
    """

    columns = ("query", "document")

    @classmethod
    def from_rows(cls, rows: Iterable[Place], name: str) -> "InformationRetrievalEvaluator":
        """Each row is a query and its one relevant document."""
        found = []
        for place in rows:
            for column in cls.columns:
                if not isinstance(place.row[column], str):
                    given = f"'n' is {place.row[column]!r}"
                    raise ValueError(f"{place.file}, row {place.number}: {given}, but a text is wanted")
            found.append((place.row["query"], place.row["document"]))
        return cls.from_pairs(found, name)

    @classmethod
    def from_files(cls, queries: Path, corpus: Path, qrels: Path, name: str) -> "InformationRetrievalEvaluator":
        """BEIR's files."""
        texts = [{str(r["_id"]): str(r["text"]) for r in read_rows(file, [])} for file in (queries, corpus)]
        relevant: dict[str, set[str]] = {}
        for row in read_rows(qrels, []):
            if int(row["score"]) > 0:
                relevant.setdefault(row["query-id"], set()).add(row["corpus-id"])
        return cls(texts[0], texts[1], relevant, name)

    def __init__(
        self,
        queries: Mapping[str, str],
        corpus: Mapping[str, str],
        relevant: Mapping[str, Set[str]],
        name: str = "",
        accuracy_at: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at: Sequence[int] = (1, 3, 5, 10),
        mrr_at: Sequence[int] = (10,),
        ndcg_at: Sequence[int] = (10,),
        map_at: Sequence[int] = (100,),
    ) -> None:
        """ValueError if no query has a relevant document that is in the corpus."""
        self.document_ids = sorted(corpus)
        self.documents = [corpus[i] for i in self.document_ids]
        self.query_ids = [i for i in queries if relevant.get(i)]
        self.queries = [queries[i] for i in self.query_ids]
        self.relevant = relevant
        if not any(relevant[i] & corpus.keys() for i in self.query_ids):
            raise ValueError("no query has a relevant document in the corpus: do the ids agree?")
        self.prefix = f"{name}_" if name else ""
        self.accuracy_at, self.precision_recall_at = accuracy_at, precision_recall_at
        self.mrr_at, self.ndcg_at, self.map_at = mrr_at, ndcg_at, map_at

    @staticmethod
    def from_pairs(pairs: Sequence[tuple[str, str]], name: str = "") -> "InformationRetrievalEvaluator":
        """Each pair is a query and its one relevant document; the other documents are the distractors."""
        ids = [f"{i:09d}" for i in range(len(pairs))]
        queries = {i: query for i, (query, _) in zip(ids, pairs, strict=True)}
        corpus = {i: document for i, (_, document) in zip(ids, pairs, strict=True)}
        return InformationRetrievalEvaluator(queries, corpus, {i: {i} for i in ids}, name)

    def __call__(self, model: Embedder) -> dict[str, float]:
        """Embed everything and measure."""
        queries = torch.as_tensor(model.encode_query(self.queries))
        documents = torch.as_tensor(model.encode_document(self.documents))
        _, rows = search(queries, documents, self.deepest, model.similarity_name)
        return self.measure(rows.numpy(), model.similarity_name)

    @property
    def deepest(self) -> int:
        """The largest k of all metrics."""
        return max(*self.accuracy_at, *self.precision_recall_at, *self.mrr_at, *self.ndcg_at, *self.map_at)

    def measure(self, ranking: np.ndarray, by: str) -> dict[str, float]:
        """Metrics of a ranking made by any system: document numbers [queries, depth], best first."""
        hits, relevant = [], []
        for query, row in zip(self.query_ids, ranking, strict=True):
            hits.append(np.array([self.document_ids[i] in self.relevant[query] for i in row]))
            relevant.append(len(self.relevant[query]))

        def mean(metric: Callable[..., float], k: int) -> float:
            return float(np.mean([metric(h, k) for h in hits]))

        def mean_of(metric: Callable[..., float], k: int) -> float:
            return float(np.mean([metric(h, k, r) for h, r in zip(hits, relevant, strict=True)]))

        found = {f"accuracy@{k}": mean(metrics.accuracy_at, k) for k in self.accuracy_at}
        found |= {f"precision@{k}": mean(metrics.precision_at, k) for k in self.precision_recall_at}
        found |= {f"recall@{k}": mean_of(metrics.recall_at, k) for k in self.precision_recall_at}
        found |= {f"ndcg@{k}": mean_of(metrics.ndcg_at, k) for k in self.ndcg_at}
        found |= {f"mrr@{k}": mean(metrics.mrr_at, k) for k in self.mrr_at}
        found |= {f"map@{k}": mean_of(metrics.map_at, k) for k in self.map_at}
        return {f"{self.prefix}{by}_{metric}": value for metric, value in found.items()}
