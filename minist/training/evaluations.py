"""The [[eval]] entries of a config: build the evaluators, run them, and show the result at the end."""

from collections.abc import Callable
from pathlib import Path

import torch

from minist.data.rows import read_rows, read_texts
from minist.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval.bm25 import BM25
from minist.retrieval.search import search
from minist.training.config import EvalConfig

Evaluator = InformationRetrievalEvaluator | EmbeddingSimilarityEvaluator
ROLES = {  # the columns that each evaluator takes
    "InformationRetrievalEvaluator": ("query", "document"),
    "EmbeddingSimilarityEvaluator": ("text1", "text2", "score"),
}
SHOWN = 3  # hits of each example search


def make_evaluator(entry: EvalConfig) -> Evaluator:
    """Read the files of an entry. ValueError for an unknown evaluator, or columns that it does not take."""
    if entry.evaluator not in ROLES:
        raise ValueError(f"config: evaluator in [[eval]] is {entry.evaluator!r}, known are {', '.join(ROLES)}")
    roles = ROLES[entry.evaluator]
    if set(entry.columns) != set(roles):
        raise ValueError(
            f"config: columns in [[eval]] name {', '.join(entry.columns)}; {entry.evaluator} takes {', '.join(roles)}"
        )
    files = [Path(f) for f in entry.files]
    if not files:
        raise ValueError(f"config: [[eval]] {entry.name!r} has no files")
    texts = {role: entry.columns[role] for role in roles if role != "score"}
    pairs = [pair for file in files for pair in read_texts(file, texts)]
    if entry.evaluator == "InformationRetrievalEvaluator":
        return InformationRetrievalEvaluator.from_pairs([(query, document) for query, document in pairs], entry.name)
    scores = [score for file in files for score in _read_scores(file, entry.columns["score"])]
    return EmbeddingSimilarityEvaluator([a for a, _ in pairs], [b for _, b in pairs], scores, entry.name)


def _read_scores(file: Path, column: str) -> list[float]:
    scores = []
    for number, row in enumerate(read_rows(file, [column]), 1):
        try:
            scores.append(float(row[column]))
        except (TypeError, ValueError):
            raise ValueError(f"{file}, row {number}: {column!r} is {row[column]!r}, but a number is wanted") from None
    return scores


def evaluate(evaluators: list[Evaluator], model: SentenceTransformer) -> dict[str, float]:
    """All metrics of all evaluators."""
    return {name: value for evaluator in evaluators for name, value in evaluator(model).items()}


def bm25_metrics(evaluator: InformationRetrievalEvaluator) -> dict[str, float]:
    """What BM25 reaches on the same queries and documents."""
    index = BM25(evaluator.documents)
    scores = torch.stack([index.scores(query) for query in evaluator.queries])
    ranking = scores.argsort(dim=1, descending=True, stable=True)[:, : evaluator.deepest]
    return evaluator.measure(ranking.numpy(), "bm25")


def report(
    entry: EvalConfig,
    evaluator: Evaluator,
    model: SentenceTransformer,
    metrics: dict[str, float],
    say: Callable[[str], None],
) -> None:
    """Show nDCG@10 beside BM25's, and some searches with their hits, where the config asks for it."""
    if not isinstance(evaluator, InformationRetrievalEvaluator):
        return
    if entry.bm25:
        ours = metrics[f"{entry.name}_{model.similarity_name}_ndcg@10"]
        theirs = bm25_metrics(evaluator)[f"{entry.name}_bm25_ndcg@10"]
        say(f"\nnDCG@10 on {entry.name}: {ours:.4f}   BM25: {theirs:.4f}   difference: {ours - theirs:+.4f}")
    if entry.searches:
        show_searches(entry.searches, evaluator.documents, model, say)


def show_searches(
    searches: list[str], documents: list[str], model: SentenceTransformer, say: Callable[[str], None]
) -> None:
    """Print the best documents of each search."""
    found = torch.as_tensor(model.encode_document(documents))
    queries = torch.as_tensor(model.encode_query(searches))
    scores, rows = search(queries, found, SHOWN, model.similarity_name)
    for query, best, where in zip(searches, scores.tolist(), rows.tolist(), strict=True):
        say(f"\nsearch: {query}")
        for score, row in zip(best, where, strict=True):
            say(f"  {score:.3f}  {documents[row][:100]}")
