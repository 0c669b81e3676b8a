"""Evaluators of scores for pairs: do a cross-encoder's agree with classes, or with human scores?"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minist.checks import pick
from minist.data.rows import Place, check_text, parse_number
from minist.evaluation.base import Evaluator, Metrics, Pair, check_lengths, one_score_each
from minist.evaluation.embedding_pairs import EmbeddingSimilarityEvaluator
from minist.evaluation.metrics import class_metrics, pearson, spearman, threshold_metrics

Labels = Sequence[int] | Sequence[str]  # numbers of classes, or their names


class CrossEncoderClassificationEvaluator(Evaluator):
    """Metrics `{name}_..` of a classifier of pairs, from scores as `predict` gives them; all are nan if a score is.

    one score   accuracy, accuracy_threshold, f1, f1_threshold, precision, recall, average_precision: labels are 0 and
                1, and a score from the threshold on is a 1. The threshold is the best one for these pairs.
    several     f1_macro, f1_micro, f1_weighted, accuracy: the class with the highest score is the predicted one."""

    columns = ("text1", "text2", "label")
    of = "scores"

    def __init__(self, sentence_pairs: Sequence[Pair], labels: Labels, name: str = "", note: str = "") -> None:
        super().__init__(name, note)
        check_lengths(sentence_pairs, ("labels", labels))
        self.pairs, self.labels = sentence_pairs, labels

    @classmethod
    def of_rows(cls, rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a pair with the number or the name of its class."""
        places = list(rows)
        pairs = [(check_text(place, "text1"), check_text(place, "text2")) for place in places]
        return {"sentence_pairs": pairs, "labels": [_check_class(place, places[0]) for place in places]}

    def check_model(self, model: Any, labels: int) -> None:
        """ValueError for a label that is no class of the model, which gives so many scores: known before a training."""
        class_numbers(self.labels, model.id2label, max(labels, 2))

    def __call__(self, model: Any) -> Metrics:
        scores = np.asarray(model.predict(self.pairs))
        labels = class_numbers(self.labels, model.id2label, scores.shape[1] if scores.ndim > 1 else 2)
        if scores.ndim > 1:
            found, primary = class_metrics(labels, scores.argmax(1)), "f1_macro"
        else:
            found, primary = threshold_metrics(labels == 1, scores, "average_precision"), "average_precision"
        # to argmax the largest number is nan
        return self.named(dict.fromkeys(found, np.nan) if np.isnan(scores).any() else found, primary)


def _check_class(place: Place, first: Place) -> int | str:
    """The class in a row. Text stays text: a class may be called "2", see class_numbers."""
    cell, is_text = place.row["label"], isinstance(place.row["label"], str)
    number = parse_number(check_text(place, "label")) if is_text else cell
    is_whole = isinstance(number, int | float) and float(number).is_integer()
    if is_text != isinstance(first.row["label"], str) or not (is_whole or (cell and number is None)):
        raise place.error("label", "a class is a whole number or a name, as in the first row")
    return cell if is_text else int(cell)


def class_numbers(labels: Labels, id2label: dict[int, str], classes: int) -> np.ndarray:
    """The class of each label, [N] int64. ValueError for a label that is no class of the model.
    Names that the model knows are its own. Else names that spell numbers, as all cells of a table, are these. What
    other names would mean to a model that has none of its own is no matter for a guess."""
    names = sorted({label for label in labels if isinstance(label, str)})
    numbers: dict[str, float] = {name: number for number, name in id2label.items()}
    if not numbers.keys() >= set(names):
        spelled = {name: number for name in names if (number := parse_number(name)) is not None}
        numbers = spelled if len(spelled) == len(names) else numbers
    what = "a label, a number or a name in the model's id2label,"
    found = np.array([pick(what, label, numbers) if isinstance(label, str) else label for label in labels])
    outside = (found < 0) | (found >= classes) | (found % 1 != 0)
    if outside.any():
        first = labels[int(outside.argmax())]
        raise ValueError(f"the labels have {first!r}, but the model has {classes} classes: 0 to {classes - 1}")
    return found.astype(np.int64)


class CrossEncoderCorrelationEvaluator(Evaluator):
    """Metrics `{name}_pearson`, `{name}_spearman` of a model's scores and human ones; nan if one is constant or nan."""

    columns = EmbeddingSimilarityEvaluator.columns
    of = "one score"

    def __init__(self, sentence_pairs: Sequence[Pair], scores: Sequence[float], name: str = "", note: str = "") -> None:
        super().__init__(name, note)
        check_lengths(sentence_pairs, ("scores", scores))
        self.pairs, self.scores = sentence_pairs, np.asarray(scores, dtype=np.float64)

    @classmethod
    def of_rows(cls, rows: Iterable[Place]) -> dict[str, Any]:
        found = EmbeddingSimilarityEvaluator.of_rows(rows)
        return {"sentence_pairs": list(zip(found.pop("sentences1"), found.pop("sentences2"), strict=True)), **found}

    def __call__(self, model: Any) -> Metrics:
        found = one_score_each(model, self.pairs).astype(np.float64)
        return self.named({kind.__name__: kind(self.scores, found) for kind in (pearson, spearman)}, "spearman")
