"""Evaluators of several collections at once, such as NanoBEIR: each alone, and the mean of all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from minist.checks import whole
from minist.evaluation.base import Evaluator, Metrics, Texts
from minist.evaluation.beir import collections_in, files_of, read_collection
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator
from minist.evaluation.reranking import RERANK_K, CrossEncoderRerankingEvaluator

OF_ARGUMENTS = ("arguana", "touche2020")  # what counters a claim is relevant there, another task
NANO_BEIR = "ArguAna ClimateFEVER DBPedia FEVER FiQA2018 HotpotQA MSMARCO NFCorpus NQ QuoraRetrieval SCIDOCS SciFact"
SPELLING = {name.lower(): f"Nano{name}" for name in [*NANO_BEIR.split(), "Touche2020"]}
Aggregate = Callable[[Sequence[float]], float]


class SeveralCollections(Evaluator):
    """Metrics `Nano..{middle}_{metric}` of each data set and `NanoBEIR{middle}` over all; with a `name` all begin with
    it. <folder>/<data set> is laid out as in beir.py. A data set of NanoBEIR may be called msmarco or NanoMSMARCO; of
    any other the folder's name begins its metrics."""

    def _over(self, found: Mapping[str, tuple[Path, Any]], each: str, over_all: str, aggregate_fn: Aggregate) -> None:
        self.evaluators = {SPELLING.get(name, at.name): one for name, (at, one) in found.items()}
        self.each, self.over_all, self.aggregate_fn = each, over_all, aggregate_fn
        self.note = "; ".join(f"{label}: {one.note}" for label, one in self.evaluators.items() if one.note)

    def __call__(self, model: Any) -> Metrics:
        found, values = Metrics(), dict[str, list[float]]()
        for label, evaluator in self.evaluators.items():
            for metric, value in evaluator(model).items():
                found[f"{label}{self.each}{metric}"] = value
                values.setdefault(metric, []).append(value)
        found |= {f"{self.over_all}{metric}": float(self.aggregate_fn(of)) for metric, of in values.items()}
        return self.named(found, f"{self.over_all}{evaluator.primary_metric}")


class NanoBEIREvaluator(SeveralCollections):
    """Metrics `Nano.._{similarity}_{metric}` of each data set and `NanoBEIR_{aggregate_key}_{similarity}_{metric}` over
    all, with those of an InformationRetrievalEvaluator. `truncate_dim` stands behind the name: `NanoMSMARCO_64_..`."""

    def __init__(
        self,
        folder: str | Path,
        dataset_names: Texts | None = None,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        corpus_chunk_size: int = 50000,
        similarity_fn_names: Texts | None = None,
        truncate_dim: int | None = None,
        query_prompts: str = "",
        corpus_prompts: str = "",
        aggregate_fn: Aggregate = fmean,
        aggregate_key: str = "mean",
        name: str = "",
        split: str = "test",
    ) -> None:
        """`dataset_names` None is all that `folder` has."""
        super().__init__(name)
        found, cut = {}, f"_{truncate_dim}" if truncate_dim else ""
        for short, at in collections_in(Path(folder), dataset_names).items():
            queries, corpus, relevant, note = read_collection(*files_of(at, split)[0]).values()
            depths = (accuracy_at_k, precision_recall_at_k, mrr_at_k, ndcg_at_k, map_at_k, corpus_chunk_size)
            how = (similarity_fn_names, truncate_dim, query_prompts, corpus_prompts, "", note)
            found[short] = at, InformationRetrievalEvaluator(queries, corpus, relevant, "", *depths, *how)
        self._over(found, f"{cut}_", f"NanoBEIR_{aggregate_key}{cut}_", aggregate_fn)


class CrossEncoderNanoBEIREvaluator(SeveralCollections):
    """Metrics `Nano.._R{rerank_k}_{metric}` of each data set and `NanoBEIR_R{rerank_k}_{aggregate_key}_{metric}` over
    all, with those of a CrossEncoderRerankingEvaluator."""

    of = "one score"

    def __init__(
        self,
        folder: str | Path,
        dataset_names: Texts | None = None,
        rerank_k: int = RERANK_K,
        at_k: int = 10,
        always_rerank_positives: bool = True,
        aggregate_fn: Aggregate = fmean,
        aggregate_key: str = "mean",
        name: str = "",
        split: str = "test",
    ) -> None:
        """`dataset_names` None is all that `folder` has, but arguana and touche2020, as in sentence-transformers."""
        super().__init__(name)
        found, depth = {}, whole("rerank_k", rerank_k, least=1)
        for short, at in collections_in(Path(folder), dataset_names, OF_ARGUMENTS).items():
            files, candidates = files_of(at, split)
            given = CrossEncoderRerankingEvaluator.of_files(*files, candidates, depth)
            one = CrossEncoderRerankingEvaluator(given["samples"], at_k, always_rerank_positives, note=given["note"])
            found[short] = at, one
        self._over(found, f"_R{depth}_", f"NanoBEIR_R{depth}_{aggregate_key}_", aggregate_fn)
