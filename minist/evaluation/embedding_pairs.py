"""Evaluators of pairs and triplets of texts by their embeddings: do similarities agree with what people say of them?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minist.checks import pick
from minist.evaluation import base
from minist.evaluation.base import Dim, Evaluator, Metrics, Texts, check_lengths
from minist.evaluation.metrics import matthews, pearson, spearman, threshold_metrics
from minist.quantization import PRECISIONS, quantize
from minist.similarity import NEAREST, SIMILARITIES, pairwise_similarity


class EmbeddingSimilarityEvaluator(Evaluator):
    """Metrics `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}`, correlations with human scores.
    Of a sparse model also how many dimensions are active, `{name}_active_dims`, and `{name}_sparsity_ratio`. With
    several similarities also the largest of each, `.._max`."""

    columns, arguments = ("text1", "text2", "score"), ("sentences1", "sentences2", "scores")

    def __init__(
        self, sentences1: Texts, sentences2: Texts, scores: Sequence[float], name: str = "",
        similarity_fn_names: Texts | None = None, precision: str | None = None, truncate_dim: Dim = None,
        note: str = "",
    ) -> None:  # fmt: skip
        """A `precision` of quantization.py is that of the embeddings, each of length one before; the ranges of int8 and
        uint8 are those of all of these texts."""
        super().__init__(name, note, similarity_fn_names, truncate_dim)
        check_lengths(sentences1, ("second texts", sentences2), ("scores", scores))
        self.sentences1, self.sentences2, self.precision = sentences1, sentences2, precision
        self.scores = np.asarray(scores, np.float64)
        pick("precision", precision or "float32", PRECISIONS)

    def __call__(self, model: Any) -> Metrics:
        a, b = (self.embed(model, texts) for texts in (self.sentences1, self.sentences2))
        figures = base.mean_figures(a, b)
        if self.precision:
            a, b = with_precision(torch.cat([a, b]), self.precision).split(len(a))
        found = dict[str, Metrics]()
        for name in self.similarity_fn_names or [model.similarity_name]:
            scores = base.pair_similarities(name, a, b).astype(np.float64)
            found[name] = {kind.__name__: kind(self.scores, scores) for kind in (pearson, spearman)}
        return self.compare(found, "spearman", figures, "{1}_{0}")


def with_precision(embeddings: Tensor, precision: str) -> Tensor:
    """[N, D] as a search in codes sees them, as floats: 0 and 1 for each bit, or whole numbers of a byte."""
    if embeddings.is_sparse:
        raise ValueError(f"precision is {precision!r}: sparse embeddings have none to choose")
    unit = F.normalize(embeddings, dim=-1)
    if precision in ("binary", "ubinary"):  # which differ in how eight bits are written
        return (unit > 0).float()
    return torch.from_numpy(quantize(unit.numpy(), precision).astype(np.float32))


class BinaryClassificationEvaluator(Evaluator):
    """Are pairs of label 1 told from those of label 0 by a threshold? Metrics `{name}_{similarity}_..`: accuracy,
    accuracy_threshold, f1, f1_threshold, precision, recall, ap, mcc; the thresholds are the best ones for these pairs,
    and precision, recall and mcc (Matthews correlation) are those at f1_threshold. With several similarities also
    `{name}_max_..`; of a sparse model also `active_dims` and `sparsity_ratio`."""

    columns, arguments = ("text1", "text2", "label"), ("sentences1", "sentences2", "labels")

    def __init__(
        self, sentences1: Texts, sentences2: Texts, labels: Sequence[int], name: str = "", truncate_dim: Dim = None,
        similarity_fn_names: Texts | None = None, note: str = "",
    ) -> None:  # fmt: skip
        super().__init__(name, note, similarity_fn_names, truncate_dim)
        check_lengths(sentences1, ("second texts", sentences2), ("labels", labels))
        if other := [label for label in labels if label not in (0, 1)]:
            raise ValueError(f"a label is {other[0]!r}: use 1 for pairs that belong together, 0 for others")
        self.texts, self.positive = [*sentences1, *sentences2], np.array(labels) == 1

    def __call__(self, model: Any) -> Metrics:
        embeddings, rows = self.embed_once(model, self.texts)
        a, b = (embeddings.index_select(0, part) for part in rows.chunk(2))
        found = dict[str, Metrics]()
        for name in self.similarity_fn_names or [model.similarity_name]:
            scores = base.pair_similarities(name, a, b)
            found[name] = of = threshold_metrics(self.positive, scores, "ap")
            of["mcc"] = matthews(self.positive, scores, of["f1_threshold"])
            if NEAREST.get(name) == 0:  # a distance: people speak of it as such
                of |= {key: -of[key] for key in ("accuracy_threshold", "f1_threshold")}
        return self.compare(found, "ap", base.mean_figures(embeddings))


class TripletEvaluator(Evaluator):
    """Metrics `{name}_{similarity}_accuracy`: the share of triplets whose anchor is nearer to the positive than to the
    negative, by more than `margin`. With several similarities also `{name}_max_accuracy`; of a sparse model also how
    many dimensions are active, `{name}_anchor_active_dims` and so on."""

    columns, arguments = ("anchor", "positive", "negative"), ("anchors", "positives", "negatives")

    def __init__(
        self, anchors: Texts, positives: Texts, negatives: Texts, name: str = "",
        margin: float | Mapping[str, float] = 0.0, truncate_dim: Dim = None, similarity_fn_names: Texts | None = None,
        note: str = "",
    ) -> None:  # fmt: skip
        """`margin` is one for all similarities, or one for each by name. Anchors are embedded as queries."""
        super().__init__(name, note, similarity_fn_names, truncate_dim)
        check_lengths(anchors, ("positives", positives), ("negatives", negatives))
        self.sides = {"anchor": anchors, "positive": positives, "negative": negatives}
        self.margin = margin if isinstance(margin, Mapping) else dict.fromkeys(SIMILARITIES, margin)
        for known in self.margin:
            pairwise_similarity(known)

    def __call__(self, model: Any) -> Metrics:
        roles = {side: "query" if side == "anchor" else "document" for side in self.sides}
        sides = {side: self.embed(model, texts, roles[side]) for side, texts in self.sides.items()}
        anchor, *others = sides.values()
        found = dict[str, Metrics]()
        for name in self.similarity_fn_names or [model.similarity_name]:
            positive, negative = (base.pair_similarities(name, anchor, other) for other in others)
            near = positive > negative + self.margin.get(name, 0.0)
            found[name] = {"accuracy": np.nan if np.isnan(positive + negative).any() else float(near.mean())}
        return self.compare(found, "accuracy", base.sparse_figures(sides))
