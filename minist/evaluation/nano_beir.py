"""Evaluators of several collections at once, such as NanoBEIR: each alone, and the mean of all."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from minist.checks import whole
from minist.evaluation.base import Dim, Evaluator, Metrics, Texts
from minist.evaluation.beir import collections_in, files_of, read_collection
from minist.evaluation.information_retrieval import CHUNK, InformationRetrievalEvaluator
from minist.evaluation.reranking import RERANK_K, CrossEncoderRerankingEvaluator

OF_ARGUMENTS = ("arguana", "touche2020")  # what counters a claim is relevant there, another task
NANO_BEIR = "ArguAna ClimateFEVER DBPedia FEVER FiQA2018 HotpotQA MSMARCO NFCorpus NQ QuoraRetrieval SCIDOCS SciFact"
SPELLING = {name.lower(): f"Nano{name}" for name in [*NANO_BEIR.split(), "Touche2020"]}
Aggregate = Callable[[Sequence[float]], float]


class SeveralCollections(Evaluator):
    """<folder>/<data set> is laid out as in beir.py. A data set of NanoBEIR may be called msmarco or NanoMSMARCO; any
    other keeps the name of its folder."""

    def over(self, evaluators: Mapping[str, Any], each: str, over_all: str, mean: Aggregate) -> None:
        """What comes between the names of a data set, or of all, and of a metric; and how all become one number."""
        self.evaluators, self.each, self.over_all, self.mean = evaluators, each, over_all, mean
        self.note = "; ".join(f"{label}: {one.note}" for label, one in evaluators.items() if one.note)

    def __call__(self, model: Any) -> Metrics:
        found, values = Metrics(), dict[str, list[float]]()
        for label, evaluator in self.evaluators.items():
            for metric, value in evaluator(model).items():
                found[f"{label}{self.each}{metric}"] = value
                values.setdefault(metric, []).append(value)
        found |= {f"NanoBEIR_{self.over_all}{metric}": float(self.mean(of)) for metric, of in values.items()}
        return self.named(found, f"NanoBEIR_{self.over_all}{evaluator.primary_metric}")


class NanoBEIREvaluator(SeveralCollections):
    """Metrics `Nano.._{similarity}_{metric}` of each data set and `NanoBEIR_{aggregate_key}_{similarity}_{metric}` over
    all, with those of an InformationRetrievalEvaluator. `truncate_dim` stands behind the name: `NanoMSMARCO_64_..`."""

    def __init__(
        self, folder: str | Path, dataset_names: Texts | None = None, mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,), accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10), map_at_k: Sequence[int] = (100,),
        similarity_fn_names: Texts | None = None, truncate_dim: Dim = None, query_prompts: str = "",
        corpus_prompts: str = "", aggregate_fn: Aggregate = fmean, aggregate_key: str = "mean", name: str = "",
        split: str = "",
    ) -> None:  # fmt: skip
        """`dataset_names` None is all that `folder` has."""
        super().__init__(name)
        depths = accuracy_at_k, precision_recall_at_k, mrr_at_k, ndcg_at_k, map_at_k
        how, made = (similarity_fn_names, truncate_dim, query_prompts, corpus_prompts), dict[str, Any]()
        for key, at in collections_in(Path(folder), dataset_names).items():
            queries, corpus, relevant, note = read_collection(**files_of(at, split)).values()
            queries, corpus = ({i: text for i, text in side.items() if text} for side in (queries, corpus))
            one = InformationRetrievalEvaluator(queries, corpus, relevant, "", *depths, CHUNK, *how, note=note)
            made[SPELLING.get(key, at.name)] = one
        each = f"_{truncate_dim}_" if truncate_dim else "_"
        self.over(made, each, f"{aggregate_key}{each}", aggregate_fn)


class CrossEncoderNanoBEIREvaluator(SeveralCollections):
    """Metrics `Nano.._R{rerank_k}_{metric}` of each data set and `NanoBEIR_R{rerank_k}_{aggregate_key}_{metric}` over
    all, with those of a CrossEncoderRerankingEvaluator."""

    of = "one score"

    def __init__(
        self, folder: str | Path, dataset_names: Texts | None = None, rerank_k: int = RERANK_K, at_k: int = 10,
        always_rerank_positives: bool = True, aggregate_fn: Aggregate = fmean, aggregate_key: str = "mean",
        name: str = "", split: str = "",
    ) -> None:  # fmt: skip
        """`dataset_names` None is all that `folder` has, but arguana and touche2020, as in sentence-transformers."""
        super().__init__(name)
        each, made = f"R{whole('rerank_k', rerank_k, least=1)}_", dict[str, Any]()
        for key, at in collections_in(Path(folder), dataset_names, OF_ARGUMENTS).items():
            ranked = next((file for file in (at / "bm25.jsonl", at / "bm25.parquet") if file.is_file()), None)
            given = CrossEncoderRerankingEvaluator.of_files(**files_of(at, split), candidates=ranked, rerank_k=rerank_k)
            one = CrossEncoderRerankingEvaluator(given["samples"], at_k, always_rerank_positives, note=given["note"])
            made[SPELLING.get(key, at.name)] = one
        self.over(made, f"_{each}", f"{each}{aggregate_key}_", aggregate_fn)
