"""ReciprocalRankFusionEvaluator: is what two systems find together better than what each of them finds?"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from minist.checks import number, whole
from minist.evaluation.metrics import average_precision, mrr_at, ndcg_of_scores
from minist.retrieval.search import fuse_rankings

Samples = Sequence[Mapping[str, Any]]


class ReciprocalRankFusionEvaluator:
    """Metrics `{name}_map`, `{name}_mrr@k` and `{name}_ndcg@k` of both lists fused, and the same with `dense_` and
    `sparse_` of each alone: means over queries. It needs no model, as the lists are found already.

    A sample has a `query_id`, `positive` (a text or a list) and `documents`, best first. The samples of both systems
    stand in the same order. Positives that a list has not stand behind its last document; a list without any counts 0.
    """

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
        found: dict[str, list[float]] = {}
        for dense, sparse in self.pairs:
            given = dense["positive"]
            positive = [given] if isinstance(given, str) else list(given)
            rankings = {"dense_": list(dense["documents"]), "sparse_": list(sparse["documents"])}
            for kind, documents in (rankings | {"": fuse_rankings(list(rankings.values()), self.rrf_k)}).items():
                for metric, value in self._measure(documents, positive).items():
                    found.setdefault(f"{self.prefix}{kind}{metric}", []).append(value)
        return {name: fmean(values) for name, values in found.items()}

    def _measure(self, documents: Sequence[Any], positive: Sequence[Any]) -> dict[str, float]:
        relevant = np.array([document in positive for document in documents], bool)
        missed = np.ones(len(positive) - relevant.sum() if relevant.any() else 0, bool)
        hits = np.concatenate([relevant, missed])
        scores, k = -np.arange(len(hits)), self.at_k
        if not hits.any():
            return {"map": 0.0, f"mrr@{k}": 0.0, f"ndcg@{k}": 0.0}
        values = average_precision(hits, scores), mrr_at(hits, k), ndcg_of_scores(hits, scores, k)
        return dict(zip(("map", f"mrr@{k}", f"ndcg@{k}"), values, strict=True))
