"""What a few queries of an evaluation find, by the model before its first step and by the newest one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minist.files import complete_file, read_json, write_json
from minist.retrieval.search import search
from minist.training.config import Config
from minist.training.construct import Table
from minist.training.evaluations import Evaluation

EXAMPLES = "examples.json"
QUERIES, HITS = 5, 3
SHOWN = 300  # characters of a text
DOCUMENTS = 1000  # that are searched: some seconds' work
CANDIDATES = DOCUMENTS // QUERIES  # of each query, for a cross-encoder


class Examples:
    """An evaluation without a metric, for all ranks to call together as others; of the first entry of [[eval]] that
    searches. A run without one has no examples."""

    def __init__(self, config: Config, evaluations: Sequence[Evaluation]) -> None:
        pairs = zip(config.eval, evaluations, strict=True)
        known = [(entry, one) for entry, one in pairs if entry.evaluator.get("name") in KINDS]
        self.of = known[0] if known else None
        self.found: Table = {}

    def __call__(self, model: Any) -> dict[str, float]:
        if self.of:
            entry, evaluator = self.of
            self.found = {"name": entry.name, "searches": KINDS[entry.evaluator["name"]](evaluator, model)}
        return {}

    def keep(self, output: Path, step: int) -> None:
        """Write what was found last, on rank 0; what the model found before its first step stays beside it."""
        if self.found:
            file = output / EXAMPLES
            before = read_json(file) if step and file.exists() else {}
            with complete_file(file) as partial:
                write_json(partial, before | {"after" if step else "before": {"step": step, **self.found}})
        self.found = {}


def search_documents(evaluator: Any, model: Any) -> list[Table]:
    """Of an InformationRetrievalEvaluator, among the right documents of these queries and some others."""
    places, gains = spread(len(evaluator.queries), QUERIES), list(evaluator.relevant.values())
    right = [{document for document, gain in gains[i].items() if gain > 0} for i in places]
    ids, answers = list[str](evaluator.document_ids), set[str]().union(*right)
    first = [i for i, document in enumerate(ids) if document in answers][:DOCUMENTS]
    rows = sorted({*first, *spread(len(ids), DOCUMENTS - len(first))})
    texts, queries = [evaluator.documents[row] for row in rows], [evaluator.queries[i] for i in places]
    embeddings = evaluator.embed(model, queries, "query", evaluator.prompts[0])
    by = min(evaluator.similarity_fn_names or [model.similarity_name])
    found = search(embeddings, evaluator.embed(model, texts, "document", evaluator.prompts[1]), HITS, by)
    hits = [list(zip(*line, strict=True)) for line in zip(*(x.tolist() for x in found), strict=True)]
    return [
        listed(query, [(texts[i], score, ids[rows[i]] in good) for score, i in line])
        for query, line, good in zip(queries, hits, right, strict=True)
    ]


def order_candidates(evaluator: Any, model: Any) -> list[Table]:
    """Of an evaluator of re-ranking, among each query's own candidates."""
    lists = [evaluator.lists[i] for i in spread(len(evaluator.lists), QUERIES)]
    pairs = [pairs[:CANDIDATES] for pairs, *_ in lists]
    scores, _ = evaluator.score(model, [pair for of in pairs for pair in of])
    split, found = np.split(scores, np.cumsum([len(of) for of in pairs])[:-1]), []
    for (_, right, _), of, own in zip(lists, pairs, split, strict=True):
        best = np.argsort(-own, kind="stable")[:HITS].tolist()
        found.append(listed(of[0][0], [(of[i][1], float(own[i]), right[i]) for i in best]))
    return found


KINDS = {
    "InformationRetrievalEvaluator": search_documents,
    "CrossEncoderRerankingEvaluator": order_candidates,
    "RerankingEvaluator": order_candidates,
}


def listed(query: str, hits: Sequence[tuple[str, float, bool]]) -> Table:
    rows = [{"text": shorten(text), "score": score, "right": right} for text, score, right in hits]
    return {"query": shorten(query), "hits": rows}


def spread(count: int, wanted: int) -> list[int]:
    """So many of the numbers below `count`, or all, evenly."""
    return [i * count // wanted for i in range(wanted)] if wanted < count else list(range(count))


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 2] + ".."
