"""Evaluators of retrieval: how well are the relevant documents of each query found, by a model or by two systems?"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minist.checks import number, whole
from minist.data.rows import Place, check_number, check_text, read_rows
from minist.evaluation import metrics
from minist.evaluation.embedder import Embedder, Samples, sparse_figures
from minist.retrieval.search import fuse_rankings, search

# of which of the results are relevant [depth], best first, k, and how many documents are relevant
METRICS: dict[str, Callable[[np.ndarray, int, int], float]] = {
    "accuracy": lambda hits, k, relevant: float(hits[:k].any()),  # 1 if one of the first k is relevant
    "precision": lambda hits, k, relevant: hits[:k].sum() / k,  # also of fewer: what is missing is not relevant
    "recall": lambda hits, k, relevant: hits[:k].sum() / relevant,  # share of those that are found
    "ndcg": metrics.ndcg_at,
    "mrr": lambda hits, k, relevant: metrics.mrr_at(hits, k),
    "map": metrics.map_at,
}


class InformationRetrievalEvaluator:
    """Metrics `{name}_{similarity}_{metric}@k` for accuracy, precision, recall, mrr, ndcg and map; of a sparse model
    also how many dimensions are active, and the products that a search takes, see embedder.py.

    Queries and documents are given by id, `relevant` has the ids of the relevant documents of each query; a query
    without any is left out. Of equal scores, the lower document id ranks first."""

    columns = ("query", "document")
    of = "embeddings"  # what it asks a model for

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
        note: str = "",
    ) -> None:
        """`note` is what a person should know of the files. ValueError where no relevant document is in the corpus."""
        self.document_ids = sorted(corpus)  # search puts the lower row first among equal scores
        self.documents = [corpus[i] for i in self.document_ids]
        query_ids = [i for i in queries if relevant.get(i)]
        self.queries, self.relevant = [queries[i] for i in query_ids], [relevant[i] for i in query_ids]
        if not any(ids & corpus.keys() for ids in self.relevant):
            raise ValueError("no query has a relevant document in the corpus: do the ids agree?")
        self.prefix, self.note = f"{name}_" if name else "", note
        depths = (accuracy_at, precision_recall_at, precision_recall_at, ndcg_at, mrr_at, map_at)
        wanted = [(metric, k) for metric, ks in zip(METRICS, depths, strict=True) for k in ks]
        self.wanted = [(metric, whole(f"k of {metric}", k, least=1)) for metric, k in wanted]
        self.deepest = max((k for _, k in self.wanted), default=1)  # so far a search has to go

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a query and a relevant document, which distracts from others. Equal texts are one."""
        queries: dict[str, str] = {}  # text -> id; an id is the text's place among those that differ
        corpus: dict[str, str] = {}
        relevant: dict[str, set[str]] = {}
        for place in rows:
            query = queries.setdefault(check_text(place, "query"), f"{len(queries):09d}")  # digits: ids sort as numbers
            document = corpus.setdefault(check_text(place, "document"), f"{len(corpus):09d}")
            relevant.setdefault(query, set()).add(document)
        texts, documents = ({i: text for text, i in ids.items()} for ids in (queries, corpus))
        return {"queries": texts, "corpus": documents, "relevant": relevant}

    @staticmethod
    def of_files(queries: Path, corpus: Path, qrels: Path) -> dict[str, Any]:
        """Arguments from the files of BEIR (Thakur et al. 2021, arXiv:2104.08663), whose ids say what belongs together.

        queries.jsonl   _id, text
        corpus.jsonl    _id, text, and often title, which is put before the text
        qrels/*.tsv     query-id, corpus-id, score; all above 0 are relevant alike

        A document that is judged relevant and not in the corpus counts as not found; `note` says so."""
        texts, documents, relevant = _read_texts(queries), _read_texts(corpus), dict[str, set[str]]()
        for i, row in enumerate(read_rows(qrels, ["query-id", "corpus-id", "score"]), 1):
            if check_number(Place(qrels, i, row), "score") > 0:
                relevant.setdefault(str(row["query-id"]), set()).add(str(row["corpus-id"]))
        judged, notes = dict.fromkeys(i for ids in relevant.values() for i in sorted(ids)), []
        for file, named, known in ((queries, relevant, texts), (corpus, judged, documents)):
            if ids := [i for i in named if i not in known]:
                notes.append(f"{qrels} names {len(ids):,} ids that {file} has not, such as {', '.join(ids[:3])}")
        return {"queries": texts, "corpus": documents, "relevant": relevant, "note": "; ".join(notes)}

    def __call__(self, model: Embedder) -> dict[str, float]:
        queries = torch.as_tensor(model.encode_query(self.queries))
        documents = torch.as_tensor(model.encode_document(self.documents))
        _, rows = search(queries, documents, self.deepest, model.similarity_name)
        figures = sparse_figures({"query": queries, "corpus": documents})
        more = {f"{self.prefix}{name}": value for name, value in figures.items()}
        return self.measure(rows.numpy(), model.similarity_name) | more

    def measure(self, ranking: np.ndarray, by: str) -> dict[str, float]:
        """Metrics of a ranking made by any system: document numbers [queries, depth], best first."""
        found: dict[str, list[float]] = {}
        for ids, row in zip(self.relevant, ranking, strict=True):
            hits = np.array([self.document_ids[i] in ids for i in row])
            for metric, k in self.wanted:
                value = METRICS[metric](hits, k, len(ids))  # ids: also those that the corpus has not
                found.setdefault(f"{self.prefix}{by}_{metric}@{k}", []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items()}


def _read_texts(file: Path) -> dict[str, str]:
    """id -> title and text. ValueError for an id that stands for two texts."""
    found: dict[str, str] = {}
    for i, row in enumerate(read_rows(file, ["_id", "text"]), 1):
        place, key = Place(file, i, row), str(row["_id"])
        title = check_text(place, "title") if row.get("title") else ""  # some have null, some no such column
        text = f"{title} {check_text(place, 'text')}".strip()
        if found.setdefault(key, text) != text:
            raise ValueError(f"{file}, row {i}: the id {key!r} has another text in a row before")
    return found


class ReciprocalRankFusionEvaluator:
    """Metrics `{name}_map`, `{name}_mrr@k` and `{name}_ndcg@k` of both lists fused, and the same with `dense_` and
    `sparse_` of each alone: means over queries. It needs no model, as the lists are found already.

    A sample has a `query_id`, `positive` (a text or a list) and `documents`, best first. The samples of both systems
    stand in the same order. Positives that a list lacks stand behind its last document; a list without any counts 0."""

    columns = ()

    def __init__(
        self, dense_samples: Samples, sparse_samples: Samples, at_k: int = 10, rrf_k: float = 60, name: str = ""
    ) -> None:
        """`rrf_k` lowers what the first ranks weigh. ValueError unless both have the same queries, in one order."""
        ids = [[sample["query_id"] for sample in samples] for samples in (dense_samples, sparse_samples)]
        if ids[0] != ids[1] or not ids[0]:
            given = f"{len(ids[0])} dense and {len(ids[1])} sparse samples"
            raise ValueError(f"{given}: give the same query_ids in one order")
        self.pairs = list(zip(dense_samples, sparse_samples, strict=True))
        self.at_k, self.rrf_k = whole("at_k", at_k, 1), number("rrf_k", rrf_k, 0)
        self.prefix = f"{name}_" if name else ""

    def __call__(self, model: Any = None) -> dict[str, float]:
        lists: dict[str, list[tuple[list[bool], np.ndarray]]] = {"dense_": [], "sparse_": [], "": []}
        for dense, sparse in self.pairs:
            given = dense["positive"]
            positive = [given] if isinstance(given, str) else list(given)
            rankings = [list(dense["documents"]), list(sparse["documents"])]
            for of, ranking in zip(lists.values(), [*rankings, fuse_rankings(rankings, self.rrf_k)], strict=True):
                hits = metrics.found_by(ranking, positive) or [False]
                of.append((hits, -np.arange(len(hits))))
        kinds = [metrics.rank_means(f"{self.prefix}{kind}", of, self.at_k) for kind, of in lists.items()]
        return {metric: value for kind in kinds for metric, value in kind.items()}
