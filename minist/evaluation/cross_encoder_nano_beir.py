"""CrossEncoderNanoBEIREvaluator: re-ranking on several collections, and on average."""

from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path
from statistics import fmean

from minist.checks import listing, number, pick
from minist.evaluation.cross_encoder_reranking import RERANK_K, CrossEncoderRerankingEvaluator
from minist.evaluation.embedder import Scorer

# of NanoBEIR: 50 queries and at most 10,000 documents of each of these
SPELLING = {
    name.lower(): f"Nano{name}"
    for name in (
        *("ClimateFEVER", "DBPedia", "FEVER", "FiQA2018", "HotpotQA", "MSMARCO", "NFCorpus", "NQ", "QuoraRetrieval"),
        *("SCIDOCS", "ArguAna", "SciFact", "Touche2020"),
    )
}
OF_ARGUMENTS = ("arguana", "touche2020")  # what counters a claim is relevant there, another task than all others


class CrossEncoderNanoBEIREvaluator:
    """Metrics `Nano.._R{rerank_k}_{metric}` of each data set and `NanoBEIR_R{rerank_k}_{aggregate_key}_{metric}` over
    all, where metrics are those of a CrossEncoderRerankingEvaluator: map, mrr@k, ndcg@k, base_map, base_mrr@k,
    base_ndcg@k. With a `name` all begin with `{name}_`.

    <folder>/<data set>/queries.jsonl, corpus.jsonl, qrels/test.tsv   as in BEIR; another .tsv if it is the only one
    <folder>/<data set>/bm25.jsonl or bm25.parquet                    query-id, corpus-ids: candidates, best first

    Where there is no such list, our own BM25 makes one, and `note` says so: its numbers differ from published ones.
    A data set of NanoBEIR may be called msmarco or NanoMSMARCO; of any other the folder's name begins its metrics.
    """

    columns = ()  # it reads its own files

    def __init__(
        self,
        folder: str | Path,
        dataset_names: Sequence[str] | None = None,
        rerank_k: int = RERANK_K,
        at_k: int = 10,
        always_rerank_positives: bool = True,
        aggregate_fn: Callable[[Sequence[float]], float] = fmean,
        aggregate_key: str = "mean",
        name: str = "",
    ) -> None:
        """`dataset_names` None is all that `folder` has, but arguana and touche2020, as in sentence-transformers."""
        depth = index(number("rerank_k", rerank_k, least=1))
        self.prefix, self.depth = f"{name}_" if name else "", f"_R{depth}_"
        self.aggregate_fn, self.aggregate_key = aggregate_fn, aggregate_key
        self.evaluators: dict[str, CrossEncoderRerankingEvaluator] = {}
        for found in _find(Path(folder), dataset_names):
            label = SPELLING.get(_key(found.name), found.name)
            given = CrossEncoderRerankingEvaluator.of_files(
                found / "queries.jsonl", found / "corpus.jsonl", _qrels(found), _candidates_file(found), depth
            )
            evaluator = CrossEncoderRerankingEvaluator(
                **given, at_k=at_k, always_rerank_positives=always_rerank_positives
            )
            self.evaluators[label] = evaluator
        self.note = "; ".join(f"{label}: {one.note}" for label, one in self.evaluators.items() if one.note)

    def __call__(self, model: Scorer) -> dict[str, float]:
        found, values = dict[str, float](), dict[str, list[float]]()
        for label, evaluator in self.evaluators.items():
            for metric, value in evaluator(model).items():
                found[f"{label}{self.depth}{metric}"] = value
                values.setdefault(metric, []).append(value)
        together = f"NanoBEIR{self.depth}{self.aggregate_key}"
        found |= {f"{together}_{metric}": float(self.aggregate_fn(of)) for metric, of in values.items()}
        return {f"{self.prefix}{metric}": value for metric, value in found.items()}


def _key(name: str) -> str:
    return name.lower().removeprefix("nano")


def _find(folder: Path, names: Sequence[str] | None) -> list[Path]:
    """The folders of the data sets. ValueError where there is none, or not the one that is asked for."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    known = {_key(found.name): found for found in sorted(folder.iterdir()) if (found / "corpus.jsonl").is_file()}
    if names is None:
        names = [name for name in known if name not in OF_ARGUMENTS]
    if not names:
        there = f"it has {listing(known)}" if known else "a data set is a folder in it with a corpus.jsonl"
        raise ValueError(f"no data set of {folder} is chosen: {there}")
    return [pick(f"data set in {folder}", _key(name), known) for name in dict.fromkeys(names)]


def _qrels(folder: Path) -> Path:
    files = sorted((folder / "qrels").glob("*.tsv"))
    test = folder / "qrels" / "test.tsv"
    if test not in files and len(files) != 1:
        raise ValueError(
            f"{folder / 'qrels'} has {listing(f.name for f in files)}: it takes test.tsv, or a single .tsv"
        )
    return test if test in files else files[0]


def _candidates_file(folder: Path) -> Path | None:
    return next((file for file in (folder / "bm25.jsonl", folder / "bm25.parquet") if file.is_file()), None)
