"""Evaluators of pairs and triplets of texts by their embeddings: do similarities agree with what people say of them?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minist.checks import pick
from minist.data.rows import Place, check_number
from minist.evaluation.base import (
    Embedder,
    Evaluator,
    Metrics,
    by_similarity,
    check_lengths,
    embed,
    mean_figures,
    pair_similarities,
    read_columns,
    sparse_figures,
)
from minist.evaluation.metrics import matthews, pearson, spearman, threshold_metrics
from minist.quantization import PRECISIONS, quantize
from minist.similarity import NEAREST, pairwise_similarity


class EmbeddingSimilarityEvaluator(Evaluator):
    """Metrics `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}`, correlations with human scores.
    Of a sparse model also how many dimensions are active, `{name}_active_dims`, and `{name}_sparsity_ratio`. With
    several similarities also the largest of each, `.._max`."""

    columns = ("text1", "text2", "score")

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        name: str = "",
        similarity_fn_names: Sequence[str] | None = None,
        precision: str | None = None,
        truncate_dim: int | None = None,
        note: str = "",
    ) -> None:
        """`similarity_fn_names` None is the model's own. A `precision` of quantization.py is that of the embeddings,
        each of length one before; the ranges of int8 and uint8 are those of all of these texts."""
        super().__init__(name, note)
        check_lengths(len(sentences1), "second texts", sentences2)
        check_lengths(len(sentences1), "scores", scores)
        self.sentences1, self.sentences2 = list(sentences1), list(sentences2)
        self.scores, self.similarity_fn_names = np.asarray(scores, np.float64), check_names(similarity_fn_names)
        self.truncate_dim, self.precision = truncate_dim, precision and pick("precision", precision, PRECISIONS) and precision

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a pair with its score. `note` says how many have none, and are left out (STS15)."""
        given = list(rows)
        scored = [place for place in given if place.row["score"] not in (None, "")]
        first, second = read_columns(scored, "text1", "text2")
        scores, empty = [check_number(place, "score") for place in scored], len(given) - len(scored)
        note = f"{empty:,} rows of {len(given):,} left out: their score is empty" if empty else ""
        return {"sentences1": first, "sentences2": second, "scores": scores, "note": note}

    def __call__(self, model: Embedder) -> Metrics:
        a, b = (embed(model, texts, self.truncate_dim) for texts in (self.sentences1, self.sentences2))
        figures = mean_figures(a, b)
        if self.precision:
            a, b = with_precision(torch.cat([a, b]), self.precision).split(len(a))

        def measure(name: str) -> Metrics:
            found = pair_similarities(name, a, b).astype(np.float64)
            return {"pearson": pearson(self.scores, found), "spearman": spearman(self.scores, found)}

        names = self.similarity_fn_names or [model.similarity_name]
        metrics = by_similarity(names, measure)
        named = {f"{kind}_{name}": value for name, of in metrics.items() for kind, value in of.items()}
        return self.named(named | figures, f"spearman_{list(metrics)[-1]}")


def check_names(similarities: Sequence[str] | None) -> list[str]:
    """ValueError for an unknown one, before the run and not after it."""
    return [name for name in similarities or () if pairwise_similarity(name)]


def with_precision(embeddings: Tensor, precision: str) -> Tensor:
    """[N, D] as a search in codes sees them, as floats: 0 and 1 for each bit, or whole numbers of a byte."""
    if embeddings.is_sparse:
        raise ValueError(f"precision is {precision!r}: sparse embeddings have none but float32")
    unit = F.normalize(embeddings, dim=-1)
    if precision in ("binary", "ubinary"):  # the two differ in how eight bits are written
        return (unit > 0).float()
    return torch.from_numpy(quantize(unit.numpy(), precision).astype(np.float32))


class BinaryClassificationEvaluator(Evaluator):
    """Are pairs of label 1 told from those of label 0 by a threshold? Metrics `{name}_{similarity}_..`: accuracy,
    accuracy_threshold, f1, f1_threshold, precision, recall, ap, mcc; the thresholds are the best ones for these pairs,
    and precision, recall and mcc (Matthews correlation) are those at f1_threshold. With several similarities also
    `{name}_max_..`; of a sparse model also `active_dims` and `sparsity_ratio`."""

    columns = ("text1", "text2", "label")

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        labels: Sequence[int],
        name: str = "",
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
        note: str = "",
    ) -> None:
        super().__init__(name, note)
        check_lengths(len(sentences1), "second texts", sentences2)
        check_lengths(len(sentences1), "labels", labels)
        if other := [label for label in labels if label not in (0, 1)]:
            raise ValueError(f"a label is {other[0]!r}: use 1 for pairs that belong together, 0 for others")
        self.texts = list(dict.fromkeys([*sentences1, *sentences2]))  # each is embedded once
        places = {text: i for i, text in enumerate(self.texts)}
        self.rows = [torch.tensor([places[text] for text in side]) for side in (sentences1, sentences2)]
        self.positive, self.truncate_dim = np.array(labels) == 1, truncate_dim
        self.similarity_fn_names = check_names(similarity_fn_names)

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a pair with its label, 0 or 1."""
        places = list(rows)
        first, second = read_columns(places, "text1", "text2")
        return {"sentences1": first, "sentences2": second, "labels": [check_number(p, "label") for p in places]}

    def __call__(self, model: Embedder) -> Metrics:
        embeddings = embed(model, self.texts, self.truncate_dim)
        a, b = (embeddings.index_select(0, rows) for rows in self.rows)

        def measure(name: str) -> Metrics:
            scores = pair_similarities(name, a, b)
            found = threshold_metrics(self.positive, scores, "ap")
            lost = np.isnan(scores).any()
            found["mcc"] = np.nan if lost else matthews(self.positive, scores >= found["f1_threshold"])
            for key in ("accuracy_threshold", "f1_threshold") if NEAREST.get(name) == 0 else ():
                found[key] = -found[key]  # a distance, as people speak of them
            return found

        metrics = by_similarity(self.similarity_fn_names or [model.similarity_name], measure)
        named = {f"{name}_{key}": value for name, of in metrics.items() for key, value in of.items()}
        return self.named(named | mean_figures(embeddings), f"{list(metrics)[-1]}_ap")


class TripletEvaluator(Evaluator):
    """Metrics `{name}_{similarity}_accuracy`: the share of triplets whose anchor is nearer to the positive than to the
    negative, by more than `margin`. With several similarities also `{name}_max_accuracy`; of a sparse model also how
    many dimensions are active, `{name}_anchor_active_dims` and so on."""

    columns = ("anchor", "positive", "negative")

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        name: str = "",
        margin: float | Mapping[str, float] = 0.0,
        truncate_dim: int | None = None,
        similarity_fn_names: Sequence[str] | None = None,
        note: str = "",
    ) -> None:
        """`margin` is one for all similarities, or one for each by name. Anchors are embedded as queries."""
        super().__init__(name, note)
        check_lengths(len(anchors), "positives", positives)
        check_lengths(len(anchors), "negatives", negatives)
        self.sides = {"anchor": list(anchors), "positive": list(positives), "negative": list(negatives)}
        self.margin = margin if isinstance(margin, Mapping) else dict.fromkeys(NEAREST | {"dot": 0}, margin)
        self.similarity_fn_names, self.truncate_dim = check_names(similarity_fn_names), truncate_dim
        check_names(list(self.margin))

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a triplet."""
        return dict(zip(("anchors", "positives", "negatives"), read_columns(rows, *TripletEvaluator.columns), strict=True))

    def __call__(self, model: Embedder) -> Metrics:
        roles = zip(self.sides.items(), ("query", "document", "document"), strict=True)
        sides = {side: embed(model, texts, self.truncate_dim, role) for (side, texts), role in roles}
        anchor, *others = sides.values()

        def measure(name: str) -> Metrics:
            positive, negative = (pair_similarities(name, anchor, other) for other in others)
            lost = np.isnan(positive).any() or np.isnan(negative).any()
            near = np.mean(positive > negative + self.margin.get(name, 0.0))
            return {"accuracy": np.nan if lost else float(near)}

        metrics = by_similarity(self.similarity_fn_names or [model.similarity_name], measure)
        named = {f"{name}_accuracy": of["accuracy"] for name, of in metrics.items()}
        return self.named(named | sparse_figures(sides), f"{list(metrics)[-1]}_accuracy")
