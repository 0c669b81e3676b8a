"""The [[eval]] entries of a config: build the evaluators, run them on all ranks, and show the result at the end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minist import distributed, evaluation
from minist.batch import Batch
from minist.data.rows import read_places
from minist.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from minist.losses.autoencoder import DenoisingAutoEncoderLoss
from minist.losses.base import Loss
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval.bm25 import BM25
from minist.retrieval.search import search
from minist.training.config import EvalConfig
from minist.training.objective import Objective, embed_in_parts
from minist.training.token_step import token_loss
from minist.training.training_set import TrainingSet

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
    found: type[Evaluator] = getattr(evaluation, entry.evaluator)
    places = read_places([Path(f) for f in entry.files], list(entry.columns.values()))
    rows = (p._replace(row={ours: p.row[theirs] for ours, theirs in entry.columns.items()}, columns=entry.columns) for p in places)
    return found.from_rows(rows, entry.name)


class LossEvaluation:
    """The mean of a loss over the rows of a data set, in batches as in training: `eval_<name>_loss`.

    A batch of fewer rows counts for less. A loss that compares the rows of a batch depends on `batch_size`.
    """

    def __init__(self, name: str, loss: Loss, data: TrainingSet, batch_size: int) -> None:
        self.name, self.loss, self.data, self.batch_size = name, loss, data, batch_size

    @torch.no_grad()
    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """All ranks call it together, each embeds its share."""
        rows, total = torch.arange(len(self.data.dataset)), 0.0
        self.loss.eval()
        for part in rows.split(self.batch_size):
            total += self._value(model, self.data.batch(part, epoch=0, step=0, progress=1.0)) * len(part)
        self.loss.train()
        return {f"eval_{self.name}_loss": total / len(rows)}

    def _value(self, model: SentenceTransformer, batch: Batch) -> float:
        if isinstance(self.loss, DenoisingAutoEncoderLoss):
            return token_loss(model, self.loss, batch).item()
        outputs = self.loss.outputs(0, model.num_layers)
        embeddings = embed_in_parts(model, batch.columns, batch.roles, outputs)
        return Objective(self.loss, batch, 1.0, outputs)(embeddings).item()


class Shared:
    """A model whose texts are embedded by all ranks together, each a share of them."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model, self.similarity_name = model, model.similarity_name

    def encode(self, texts: Sequence[str]) -> Tensor:
        """[N, D], on every rank."""
        return self._gathered(self.model.encode, texts)

    def encode_query(self, texts: Sequence[str]) -> Tensor:
        """[N, D], on every rank."""
        return self._gathered(self.model.encode_query, texts)

    def encode_document(self, texts: Sequence[str]) -> Tensor:
        """[N, D], on every rank."""
        return self._gathered(self.model.encode_document, texts)

    def _gathered(self, encode: Callable[..., Any], texts: Sequence[str]) -> Tensor:
        rank, world = distributed.rank(), distributed.world_size()
        start, end = (len(texts) * share // world for share in (rank, rank + 1))
        own = encode(texts[start:end], convert_to_tensor=True)
        return distributed.gather(own).cpu()


Evaluation = Evaluator | LossEvaluation


def evaluate(evaluations: Sequence[Evaluation], model: SentenceTransformer) -> dict[str, float]:
    """All metrics of all evaluations, the same on every rank; all ranks call it together."""
    was_training = model.training
    model.eval()
    found: dict[str, float] = {}
    for evaluation in evaluations:
        found |= evaluation.measure(model) if isinstance(evaluation, LossEvaluation) else evaluation(Shared(model))
    model.train(was_training)
    return found


def bm25_metrics(evaluator: InformationRetrievalEvaluator) -> dict[str, float]:
    """What BM25 reaches on the same queries and documents."""
    index = BM25(evaluator.documents)
    scores = torch.stack([index.scores(query) for query in evaluator.queries])
    ranking = scores.argsort(dim=1, descending=True, stable=True)[:, : evaluator.deepest]
    return evaluator.measure(ranking.numpy(), "bm25")


def report(
    entry: EvalConfig,
    evaluator: Evaluation,
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
