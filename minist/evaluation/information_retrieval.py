"""InformationRetrievalEvaluator: how well does a search among all documents find those that are relevant?"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist import distributed
from minist.checks import whole
from minist.data.rows import Place, check_text
from minist.evaluation import metrics
from minist.evaluation.base import Dim, Evaluator, Metrics, Texts, sparse_figures
from minist.evaluation.beir import read_collection
from minist.retrieval.search import in_order, search

# of what the results gain [depth], best first and 0 if not relevant, k, and of all relevant documents, largest first
METRICS: dict[str, Callable[[np.ndarray, int, np.ndarray], float]] = {
    "accuracy": lambda gains, k, best: float(gains[:k].any()),  # 1 if one of the first k is relevant
    "precision": lambda gains, k, best: np.count_nonzero(gains[:k]) / k,  # also where fewer are found
    "recall": lambda gains, k, best: np.count_nonzero(gains[:k]) / len(best),  # share of those that are found
    "ndcg": metrics.ndcg_at,
    "mrr": lambda gains, k, best: metrics.mrr_at(gains, k),
    "map": lambda gains, k, best: metrics.map_at(gains, k, len(best)),
}
CHUNK = 50000  # documents that are embedded and searched at a time


class InformationRetrievalEvaluator(Evaluator):
    """Metrics `{name}_{similarity}_{metric}@k` for accuracy, precision, recall, mrr, ndcg and map; of a sparse model
    also how many dimensions are active, and the products that a search takes, see base.py.

    Queries and documents are given by id. `relevant_docs` has for each query the ids of its relevant documents: a set,
    all alike, or a table with how relevant each is, the gain in nDCG. A query without any is left out. Of equal scores,
    the lower document id ranks first."""

    columns = ("query", "document")

    def __init__(
        self, queries: Mapping[str, str], corpus: Mapping[str, str],
        relevant_docs: Mapping[str, Set[str] | Mapping[str, float]], name: str = "",
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10), precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        mrr_at_k: Sequence[int] = (10,), ndcg_at_k: Sequence[int] = (10,), map_at_k: Sequence[int] = (100,),
        corpus_chunk_size: int = CHUNK, similarity_fn_names: Texts | None = None, truncate_dim: Dim = None,
        query_prompt: str = "", corpus_prompt: str = "", write_predictions: str = "", note: str = "",
    ) -> None:  # fmt: skip
        """So many documents are embedded and searched at a time. Prompts "" are the model's own. `write_predictions` is
        a file: x.jsonl gets the results as x_cosine.jsonl. ValueError where nothing relevant is in the corpus."""
        super().__init__(name, note, similarity_fn_names, truncate_dim)
        self.document_ids = sorted(corpus)  # search puts the lower row first among equal scores
        self.documents = [corpus[i] for i in self.document_ids]
        gains = {i: dict.fromkeys(ids, 1.0) if isinstance(ids, Set) else ids for i, ids in relevant_docs.items()}
        self.relevant = {i: gains[i] for i in queries if any(gain > 0 for gain in gains.get(i, {}).values())}
        self.queries = [queries[i] for i in self.relevant]
        if not any(ids.keys() & corpus.keys() for ids in self.relevant.values()):
            raise ValueError("no query has a relevant document in the corpus: do the ids agree?")
        depths = (accuracy_at_k, precision_recall_at_k, precision_recall_at_k, ndcg_at_k, mrr_at_k, map_at_k)
        wanted = [(metric, k) for metric, ks in zip(METRICS, depths, strict=True) for k in ks]
        self.wanted = [(metric, whole(f"k of {metric}", k, least=1)) for metric, k in wanted]
        self.deepest = max((k for _, k in self.wanted), default=1)  # so far a search has to go
        self.at_once = whole("corpus_chunk_size", corpus_chunk_size, 1)
        self.prompts, self.predictions = (query_prompt, corpus_prompt), write_predictions

    @classmethod
    def of_rows(cls, rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a query and a relevant document, which distracts from others. Equal texts are one."""
        queries, corpus = dict[str, str](), dict[str, str]()  # text -> id, its place among those that differ
        relevant: dict[str, set[str]] = {}
        for place in rows:
            query = queries.setdefault(check_text(place, "query"), f"{len(queries):09d}")  # digits: ids sort as numbers
            document = corpus.setdefault(check_text(place, "document"), f"{len(corpus):09d}")
            relevant.setdefault(query, set()).add(document)
        texts, documents = ({i: text for text, i in ids.items()} for ids in (queries, corpus))
        return {"queries": texts, "corpus": documents, "relevant_docs": relevant}

    of_files = staticmethod(read_collection)

    def __call__(self, model: Any) -> Metrics:
        queries, figures = self.embed(model, self.queries, "query", self.prompts[0]), Metrics()
        names = sorted(self.similarity_fn_names or [model.similarity_name])
        best = {name: (torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)) for name in names}
        for start in range(0, len(self.documents), self.at_once):
            texts = self.documents[start : start + self.at_once]
            chunk = self.embed(model, texts, "document", self.prompts[1])
            for by, (values, numbers) in best.items():
                scores, rows = search(queries, chunk, self.deepest, by)
                both = torch.cat([values, scores], 1), torch.cat([numbers, start + rows], 1)
                best[by] = in_order(*both, self.deepest)  # earlier ones stay ahead among equals
            for name, value in sparse_figures({"query": queries, "corpus": chunk}).items():  # all are means over texts
                figures[name] = figures.get(name, 0.0) + value * len(texts) / len(self.documents)
        found = Metrics()
        for by, (scores, rows) in best.items():
            found |= self.measure(rows.numpy(), by)
            if self.predictions and not distributed.rank():
                self.write(Path(self.predictions), by, scores, rows)
        last = f"ndcg@{max((k for metric, k in self.wanted if metric == 'ndcg'), default=0)}"
        primary = max(names, key=lambda by: found.get(f"{self.prefix}{by}_{last}", 0.0))
        return found | self.named(figures, f"{primary}_{last}")

    def measure(self, ranking: np.ndarray, by: str) -> Metrics:
        """Metrics of a ranking made by any system: document numbers [queries, depth], best first."""
        found: dict[str, list[float]] = {}
        for relevant, row in zip(self.relevant.values(), ranking, strict=True):
            gains = np.array([max(relevant.get(self.document_ids[i], 0.0), 0.0) for i in row])
            best = np.array(sorted((gain for gain in relevant.values() if gain > 0), reverse=True))  # of all
            for metric, k in self.wanted:
                found.setdefault(f"{self.prefix}{by}_{metric}@{k}", []).append(METRICS[metric](gains, k, best))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def write(self, file: Path, by: str, scores: Tensor, rows: Tensor) -> None:
        """Results as sentence-transformers writes them, a query in each line."""
        with open(file.with_stem(f"{file.stem}_{by}"), "w", encoding="utf-8") as stream:
            lines = zip(self.relevant, self.queries, scores.tolist(), rows.tolist(), strict=True)
            for query, text, values, numbers in lines:
                hits = [{"corpus_id": self.document_ids[i], "score": s} for i, s in zip(numbers, values, strict=True)]
                line = {"query_id": query, "query": text, "results": hits}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
