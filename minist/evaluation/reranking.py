"""Evaluators of re-ranking: do relevant documents come first when the model orders the candidates of a query?"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from minist.checks import listing, number, pick, whole
from minist.data.rows import Place, check_number, check_text, check_texts, read_places
from minist.evaluation.embedder import Pair, Samples, Scorer, one_score_each
from minist.evaluation.information_retrieval import InformationRetrievalEvaluator
from minist.evaluation.metrics import found_by, rank_means
from minist.retrieval.bm25 import BM25

RERANK_K = 100  # candidates of a query, where a collection is given instead of lists
OF_ARGUMENTS = ("NanoArguAna", "NanoTouche2020")  # what counters a claim is relevant there, another task
NANO_BEIR = "ArguAna ClimateFEVER DBPedia FEVER FiQA2018 HotpotQA MSMARCO NFCorpus NQ QuoraRetrieval SCIDOCS SciFact"
SPELLING = {name.lower(): f"Nano{name}" for name in [*NANO_BEIR.split(), "Touche2020"]}


class CrossEncoderRerankingEvaluator:
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

    A query without a positive in its list counts 0. Of equal scores MAP takes all at once, nDCG is the mean over their
    orders, and MRR has the later one first: positives are given first, and equal scores for all must not look good."""

    columns = ("query", "positive", "negative or documents", "scores (optional)")
    of = "one score"

    def __init__(
        self, samples: Samples, at_k: int = 10, always_rerank_positives: bool = True, name: str = "", note: str = ""
    ) -> None:
        """`note` is what a person should know of the rows. ValueError for a sample that is none, by its place."""
        number("number of samples", len(samples), least=1)
        self.at_k = whole("at_k", at_k, least=1)
        self.lists = [_candidates(i, sample, always_rerank_positives) for i, sample in enumerate(samples)]
        self.first = [np.array(sample["scores"], np.float64) for sample in samples if "scores" in sample]
        shapes = [(len(pairs),) for pairs, *_ in self.lists]
        if self.first and (always_rerank_positives or [scores.shape for scores in self.first] != shapes):
            raise ValueError("scores are a number for each of the documents, with always_rerank_positives = false")
        self.prefix, lost = f"{name}_" if name else "", sum(not sample["positive"] for sample in samples)
        without = f"{lost:,} queries of {len(samples):,} have no positive and count 0" if lost else ""
        self.note = "; ".join(filter(None, [note, without]))

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
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
        """Arguments from the files of BEIR, see InformationRetrievalEvaluator. The documents of a query are the first
        `rerank_k` of `candidates`, rows of a query-id and its list of corpus-ids, best first; else of BM25.
        Left out are queries without judgements or candidates, and positives that the corpus has not; `note` says so."""
        given = InformationRetrievalEvaluator.of_files(queries, corpus, qrels)
        texts, documents, relevant = given["queries"], given["corpus"], given["relevant"]
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

    def __call__(self, model: Scorer) -> dict[str, float]:
        pairs, relevant, base = zip(*self.lists, strict=True)
        scores = one_score_each(model, [pair for of in pairs for pair in of])
        own = np.split(scores, np.cumsum([len(of) for of in pairs])[:-1])
        fused = [_standard(a) + _standard(b) for a, b in zip(self.first, own, strict=False)]  # none of none
        found = rank_means(self.prefix, zip(relevant, own, strict=True), self.at_k)
        found |= rank_means(f"{self.prefix}fused_", zip(relevant, fused, strict=False), self.at_k)
        if np.isnan(scores).any():  # to argsort the largest number is nan
            found = dict.fromkeys(found, float("nan"))
        first = [(hits, -np.arange(len(hits))) for hits in base if hits]
        return found | rank_means(f"{self.prefix}base_", first, self.at_k)


def _candidates(i: int, sample: Mapping[str, Any], always: bool) -> tuple[list[Pair], list[bool], list[bool]]:
    """The pairs to order, which are relevant, and which of the first stage were, if there was one."""
    kinds, cell = sample.keys() & {"negative", "documents"}, sample.get("documents", sample.get("negative"))
    if not {"query", "positive"} <= sample.keys() or len(kinds) != 1 or not cell:
        wanted = "query, positive, and one of negative and documents, not empty"
        raise ValueError(f"sample {i} has {listing(sample)}: it takes {wanted}")
    positive, others = ([x] if isinstance(x, str) else list(x) for x in (sample["positive"], cell))
    base = found_by(others, positive) if "documents" in sample else []
    relevant = base[: len(others)]
    if always and base:
        others = [text for text, is_relevant in zip(others, relevant, strict=True) if not is_relevant]
    if always or "negative" in sample:
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


def _standard(scores: np.ndarray) -> np.ndarray:
    """With mean 0 and standard deviation 1, or all 0 where there is no difference."""
    centered = scores - scores.mean()
    return centered / (scores.std() or 1.0)


def _first_stage(file: Path | None, queries: dict[str, str], documents: dict[str, str], k: int) -> dict[str, list[str]]:
    """query-id -> its first k documents in a file, or of BM25; of equal scores the earlier document comes first."""
    if file:
        found = {}
        for place in read_places([file], {name: name for name in ("query-id", "corpus-ids")}):
            what, ids = f"{file}, row {place.number}: a corpus-id", check_texts(place, "corpus-ids", True)
            found[str(place.row["query-id"])] = [pick(what, document, documents) for document in ids][:k]
        return found
    texts = list(documents.values())
    search = BM25(texts)
    order = {i: search.scores(query).argsort(descending=True, stable=True)[:k] for i, query in queries.items()}
    return {i: [texts[row] for row in rows.tolist()] for i, rows in order.items()}


class CrossEncoderNanoBEIREvaluator:
    """Metrics `Nano.._R{rerank_k}_{metric}` of each data set and `NanoBEIR_R{rerank_k}_{aggregate_key}_{metric}` over
    all, with the metrics of a CrossEncoderRerankingEvaluator. With a `name` all begin with `{name}_`.

    <folder>/<data set>/queries.jsonl, corpus.jsonl, qrels/test.tsv   as in BEIR; another .tsv if it is the only one
    <folder>/<data set>/bm25.jsonl or bm25.parquet                    query-id, corpus-ids: candidates, best first

    Where there is no such list, our own BM25 makes one, and `note` says so: its numbers differ from published ones.
    A data set of NanoBEIR may be called msmarco or NanoMSMARCO; of any other the folder's name begins its metrics."""

    columns = ()  # it reads its own files
    of = "one score"

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
        depth, self.prefix = whole("rerank_k", rerank_k, least=1), f"{name}_" if name else ""
        self.depth, self.mean = f"_R{depth}_", f"{self.prefix}NanoBEIR_R{depth}_{aggregate_key}_"
        self.aggregate_fn, self.evaluators = aggregate_fn, dict[str, CrossEncoderRerankingEvaluator]()
        for short, at in _data_sets(Path(folder), dataset_names).items():
            candidates = next((file for file in (at / "bm25.jsonl", at / "bm25.parquet") if file.is_file()), None)
            found = {file.name: file for file in sorted((at / "qrels").glob("*.tsv"))}
            qrels = pick(f"file of {at / 'qrels'}", next(iter(found)) if len(found) == 1 else "test.tsv", found)
            files = (at / "queries.jsonl", at / "corpus.jsonl", qrels, candidates)
            given = CrossEncoderRerankingEvaluator.of_files(*files, depth)
            one = CrossEncoderRerankingEvaluator(given["samples"], at_k, always_rerank_positives, note=given["note"])
            self.evaluators[SPELLING.get(short, at.name)] = one
        self.note = "; ".join(f"{label}: {one.note}" for label, one in self.evaluators.items() if one.note)

    def __call__(self, model: Scorer) -> dict[str, float]:
        found, values = dict[str, float](), dict[str, list[float]]()
        for label, evaluator in self.evaluators.items():
            for metric, value in evaluator(model).items():
                found[f"{self.prefix}{label}{self.depth}{metric}"] = value
                values.setdefault(metric, []).append(value)
        return found | {f"{self.mean}{metric}": float(self.aggregate_fn(of)) for metric, of in values.items()}


def _data_sets(folder: Path, names: Sequence[str] | None) -> dict[str, Path]:
    """Short name -> folder. ValueError where there is none, or not the one that is asked for."""
    folders = sorted(file.parent for file in folder.glob("*/corpus.jsonl"))
    known = {found.name.lower().removeprefix("nano"): found for found in folders}
    own = [name for name in known if SPELLING.get(name) not in OF_ARGUMENTS]
    chosen = [name.lower().removeprefix("nano") for name in (own if names is None else names)]
    if not chosen:
        rule = "a data set is a folder in it with a corpus.jsonl"
        raise ValueError(f"no data set of {folder} is chosen: {rule}, and it has {listing(known)}")
    return {name: pick(f"data set in {folder}", name, known) for name in chosen}
