"""The [[eval]] entries of a config: build the evaluators, run them on all ranks, and show the result at the end."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minist import collectives, distributed, evaluation
from minist.batch import Batch
from minist.checks import listing, pick
from minist.data.rows import read_places
from minist.evaluation.base import Evaluator
from minist.losses.base import Loss
from minist.models.text_model import TextModel
from minist.retrieval.bm25 import BM25
from minist.retrieval.search import search
from minist.training.config import EvalConfig
from minist.training.construct import Table, call, find_class
from minist.training.guide import embed_in_parts
from minist.training.step import Objective, mini_batches
from minist.training.task import Task, TrainingRows

SHOWN = 3  # hits of each example search
# metrics that a run shows, of the many that it keeps: of rankings, of correlations, of classes
RANKING, SCORING = ("ndcg@10", "mrr@10", "accuracy@1"), ("spearman_cosine", "spearman_dot", "_spearman")
HEADLINES = (*RANKING, *SCORING, "_accuracy", "_f1_macro", "_average_precision", "_ap", "_negative_mse", "_loss")
MEASURED_TOKENS = 4096  # at once, where a loss over tokens is measured: each token has a score for every word

Evaluation = Callable[[Any], dict[str, float]]  # takes a model
Say = Callable[[str], None]  # prints a line, on rank 0 only


def make_evaluator(entry: EvalConfig, tasks: Iterable[Task] = ()) -> Evaluation:
    """The evaluator that an entry names, with its rows. ValueError for an unknown one, or columns it does not take.
    `tasks` are those trained, for one that asks the loss of a task."""
    arguments = dict(entry.evaluator)
    name = arguments.pop("name", "")
    found = find_class(f"evaluator in {entry.where}", name, evaluation)
    # its columns, each a name, "negative or documents", or "scores (optional)", must be there alone
    extra = {column.removesuffix(" (optional)") for column in found.columns if column.endswith(" (optional)")}
    left, must = entry.columns.keys() - extra, [c for c in found.columns if not c.endswith(" (optional)")]
    fits = len(left) == len(must) and all(len(left.intersection(column.split(" or "))) == 1 for column in must)
    if not entry.queries and not fits:
        given = f"columns in {entry.where} name {listing(entry.columns)}"
        raise ValueError(f"config: {given}; {name} takes {listing(found.columns)}")

    def read() -> Table:  # when the arguments in the config are known to be right
        own: Table = {}  # of one that reads its own files
        if entry.queries:
            own = found.of_files(Path(entry.queries), Path(entry.corpus), Path(entry.qrels))
        elif found.columns:
            own = found.of_rows(read_places(entry.paths(), entry.columns, entry.format))
        if loss := arguments.get("softmax_model"):
            task = pick(f"config: softmax_model in {entry.where}, a [[data]] entry,", loss, {t.name: t for t in tasks})
            own |= {"softmax_model": task.loss, "classes": task.rows.dataset.classes}
        return {**own, "name": entry.name}

    return call(name, found, arguments, evaluation, Evaluator, read)


def check_kind(name: str, evaluator: Any, model: TextModel) -> None:
    """ValueError, before the training, for an evaluator of other models, or labels that are no classes of this one."""
    gives = [model.gives, "one score"] if model.gives == "scores" and model.width == 1 else [model.gives]
    gives = ["sparse", "embeddings"] if model.gives == "sparse" else gives  # which are embeddings too
    match evaluator:
        case object(of=str(of)) if of not in gives:  # a class of a user's own need not say
            given = f"{model.gives} of width {model.width}"
            raise ValueError(f"{name} is for models that give {of}, this one gives {given}")
        case object(check_model=check_model):
            check_model(model, model.width)


class LossEvaluation:
    """The mean of a loss over the rows of a data set, in batches as in training, since it may compare their rows."""

    def __init__(self, name: str, loss: Loss, rows: TrainingRows, batch_size: int) -> None:
        self.name, self.loss, self.rows, self.batch_size = name, loss, rows, batch_size

    def __call__(self, model: TextModel) -> dict[str, float]:
        rows, total = torch.arange(len(self.rows.dataset)), 0.0
        self.loss.eval()  # a decoder has dropout too
        for part in rows.split(self.batch_size):
            total += self._measure(model, self.rows.batch(part, epoch=0, step=0, progress=1.0)) * len(part)
        self.loss.train()
        return {f"eval_{self.name}_loss": total / len(rows)}  # the last batch may have fewer rows

    @torch.no_grad()
    def _measure(self, model: TextModel, batch: Batch) -> float:
        """The loss of a batch in the memory of a few texts: the same number on every rank."""
        columns, roles, *_ = batch
        if not self.loss.over_tokens:
            outputs = self.loss.outputs(batch.step, model.stack.num_layers)
            return Objective(self.loss, batch, outputs=outputs)(embed_in_parts(model, columns, roles, outputs)).item()
        found = torch.zeros(2, dtype=model.dtype, device=model.device)  # sum, and number of tokens
        for part in mini_batches(columns, MEASURED_TOKENS):
            found += torch.stack([self.loss(model, part, roles).to(found), found.new_tensor(self.loss.count(part))])
        value, count = collectives.gather(found[None]).sum(0)
        return (value / count.clamp(min=1)).item()


def evaluate(evaluations: Iterable[Evaluation], model: TextModel) -> dict[str, float]:
    """All metrics of all evaluations, the same on every rank; all ranks call it together."""
    was_training = model.training
    model.eval()
    model.ranks_share = True  # each embeds a part of the texts
    found: dict[str, float] = {}
    for one in evaluations:
        found |= one(model)
        distributed.barrier()  # what an evaluator computes beside the embeddings takes any time
    model.ranks_share = False  # else one rank alone, as at the end of a run, would wait for the others
    model.train(was_training)
    return found


def bm25_metrics(evaluator: evaluation.InformationRetrievalEvaluator) -> dict[str, float]:
    index = BM25(evaluator.documents)
    scores = torch.stack([index.scores(query) for query in evaluator.queries])
    ranking = scores.argsort(dim=1, descending=True, stable=True)[:, : evaluator.deepest]
    return evaluator.measure(ranking.numpy(), "bm25")


class WordMatch:
    """BM25 as a scorer of pairs, over all documents in them: what a reranker has to beat."""

    id2label: dict[int, str] = {}  # noqa: RUF012  it has none

    def predict(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        numbers = {text: i for i, text in enumerate(dict.fromkeys(document for _, document in pairs))}
        index = BM25(list(numbers))
        scores = {query: index.scores(query) for query in dict.fromkeys(query for query, _ in pairs)}
        return np.array([scores[query][numbers[document]].item() for query, document in pairs])


def report(entry: EvalConfig, evaluator: Any, model: Any, metrics: dict[str, float], say: Say) -> None:
    """Show nDCG beside BM25's, of a reranker its first stage's too, and some searches, where the config asks for it."""
    if entry.bm25 and model.gives == "scores":
        metric = f"ndcg@{evaluator.at_k}"
        ours, theirs = metrics[f"{entry.name}_{metric}"], evaluator(WordMatch())[f"{entry.name}_{metric}"]
        named = {"first stage": f"{entry.name}_base_{metric}", "both fused": f"{entry.name}_fused_{metric}"}
        others = "".join(f"   {what}: {metrics[key]:.4f}" for what, key in named.items() if key in metrics)
        say(f"\nnDCG@{evaluator.at_k} on {entry.name}: {ours:.4f}{others}   BM25 on the same lists: {theirs:.4f}")
    elif entry.bm25:
        ours = metrics[f"{entry.name}_{model.similarity_name}_ndcg@10"]
        theirs = bm25_metrics(evaluator)[f"{entry.name}_bm25_ndcg@10"]
        say(f"\nnDCG@10 on {entry.name}: {ours:.4f}   BM25: {theirs:.4f}   difference: {ours - theirs:+.4f}")
    if entry.searches:
        queries, documents = model.encode_query(entry.searches), model.encode_document(evaluator.documents)
        found = search(torch.as_tensor(queries), torch.as_tensor(documents), SHOWN, model.similarity_name)
        for query, scores, rows in zip(entry.searches, *(x.tolist() for x in found), strict=True):
            say(f"\nsearch: {query}")
            for score, row in zip(scores, rows, strict=True):
                say(f"  {score:.3f}  {evaluator.documents[row][:100]}")
