"""What a few queries of an evaluation find, by the model before its first step and by the newest one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minist.files import complete_file, write_json
from minist.models.reading import read_optional
from minist.retrieval.search import search
from minist.training.config import Config
from minist.training.construct import Table
from minist.training.evaluations import Evaluation

EXAMPLES = "examples.json"
QUERIES, HITS = 5, 3
SHOWN = 300  # characters of a text
DOCUMENTS = 1000  # that are searched, or scored for all queries together: some seconds' work

Searched = tuple[str, list[tuple[str, float, bool]]]  # a query; texts, best first, their scores, and are they right?


class Examples:
    """An evaluation without a metric, for all ranks to call together as others; of the first entry of [[eval]] that
    searches. A run without one has no examples."""

    def __init__(self, config: Config, evaluations: Sequence[Evaluation]) -> None:
        names = [entry.evaluator.get("name") for entry in config.eval]
        self.of = [(KINDS[name], one) for name, one in zip(names, evaluations, strict=True) if name in KINDS][:1]
        self.found: list[Table] = []

    def __call__(self, model: Any) -> dict[str, float]:
        self.found = []
        for query, hits in [searched for find, evaluator in self.of for searched in find(evaluator, model)]:
            rows = [{"text": shorten(text), "score": score, "right": right} for text, score, right in hits]
            self.found.append({"query": shorten(query), "hits": rows})
        return {}

    def keep(self, output: Path, step: int) -> None:
        """Write what was found last, on rank 0; what the model found before its first step stays beside it."""
        if self.found:
            file, moment = output / EXAMPLES, "after" if step else "before"
            before = read_optional(file) if step else {}
            with complete_file(file) as partial:
                write_json(partial, before | {moment: {"step": step, "searches": self.found}})
        self.found = []


def search_documents(evaluator: Any, model: Any) -> Iterator[Searched]:
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
    for query, good, scores, best in zip(queries, right, *(x.tolist() for x in found), strict=True):
        yield query, [(texts[i], score, ids[rows[i]] in good) for score, i in zip(scores, best, strict=True)]


def order_candidates(evaluator: Any, model: Any) -> Iterator[Searched]:
    """Of an evaluator of re-ranking, among each query's own candidates."""
    for pairs, right, _ in [evaluator.lists[i] for i in spread(len(evaluator.lists), QUERIES)]:
        scores, _ = evaluator.score(model, pairs[: DOCUMENTS // QUERIES])
        best = np.argsort(-scores, kind="stable")[:HITS].tolist()
        yield pairs[0][0], [(pairs[i][1], float(scores[i]), right[i]) for i in best]


KINDS = {
    "InformationRetrievalEvaluator": search_documents,
    "CrossEncoderRerankingEvaluator": order_candidates,
    "RerankingEvaluator": order_candidates,
}


def spread(count: int, wanted: int) -> list[int]:
    """So many of the numbers below `count`, or all, evenly."""
    return [i * count // wanted for i in range(wanted)] if wanted < count else list(range(count))


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 2] + ".."
