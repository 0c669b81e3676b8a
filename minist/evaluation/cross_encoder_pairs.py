"""Evaluators of scores for pairs: do a cross-encoder's agree with classes, or with human scores?"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minist.checks import listing
from minist.data.rows import Place, check_text, parse_number
from minist.evaluation.binary_metrics import average_precision, best_accuracy, best_f1
from minist.evaluation.embedder import Pair, Scorer, one_score_each
from minist.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from minist.evaluation.metrics import class_metrics, pearson, spearman


class CrossEncoderClassificationEvaluator:
    """Metrics `{name}_..` of a classifier of pairs.

    one score      accuracy, accuracy_threshold, f1, f1_threshold, precision, recall, average_precision: the labels are
                   0 and 1, and a score from the threshold on is a 1. The threshold is the best one for these pairs.
    several        f1_macro, f1_micro, f1_weighted, accuracy: the class with the highest score is the predicted one.

    Scores are as `predict` gives them, thus after the model's activation. All metrics are nan if a score is.
    """

    columns = ("text1", "text2", "label")

    def __init__(
        self, pairs: Sequence[Pair], labels: Sequence[int] | Sequence[str], name: str = "", note: str = ""
    ) -> None:
        """`labels` are numbers of classes, or their names; `note` is what a person should know of the rows."""
        self.pairs, self.labels, self.prefix, self.note = pairs, labels, f"{name}_" if name else "", note
        _check_lengths(pairs, "labels", labels)

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a pair with the number or the name of its class."""
        pairs, labels = [], list[int | str]()
        for place in rows:
            pairs.append((check_text(place, "text1"), check_text(place, "text2")))
            labels.append(_check_label(place))
            if type(labels[-1]) is not type(labels[0]):
                raise place.error("label", f"the labels before are {'names' if type(labels[0]) is str else 'numbers'}")
        return {"pairs": pairs, "labels": labels}

    def __call__(self, model: Scorer) -> dict[str, float]:
        scores = np.asarray(model.predict(self.pairs))
        classes = scores.shape[1] if scores.ndim > 1 else 2
        labels = class_numbers(self.labels, model.id2label, classes)
        found = class_metrics(labels, scores.argmax(1)) if scores.ndim > 1 else _binary_metrics(labels == 1, scores)
        lost = np.isnan(scores).any()  # to argmax the largest number is nan
        return {f"{self.prefix}{metric}": float("nan") if lost else value for metric, value in found.items()}


def _binary_metrics(positive: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    accuracy, threshold = best_accuracy(positive, scores)
    found = {"accuracy": accuracy, "accuracy_threshold": threshold, **best_f1(positive, scores)}
    return found | {"average_precision": average_precision(positive, scores)}


def _check_label(place: Place) -> int | str:
    cell = place.row["label"]
    number = parse_number(cell) if isinstance(cell, str) else cell
    if isinstance(number, int | float) and float(number).is_integer():
        return cell if isinstance(cell, str) else int(number)  # a class may be called "2", see class_numbers
    if isinstance(cell, str) and cell and number is None:
        return check_text(place, "label")
    raise place.error("label", "a class is a whole number or a name")


def class_numbers(labels: Sequence[int] | Sequence[str], id2label: dict[int, str], classes: int) -> np.ndarray:
    """The class of each label, [N] int64. ValueError for a label that is no class of the model."""
    numbers = _number_names(sorted({label for label in labels if isinstance(label, str)}), id2label)
    found = np.array([numbers[label] if isinstance(label, str) else label for label in labels])
    outside = (found < 0) | (found >= classes) | (found % 1 != 0)
    if outside.any():
        first = labels[int(outside.argmax())]
        raise ValueError(f"the labels have {first!r}, but the model has {classes} classes: 0 to {classes - 1}")
    return found.astype(np.int64)


def _number_names(names: Sequence[str], id2label: dict[int, str]) -> Mapping[str, float]:
    """Those that the model knows are its own. Else names that spell numbers, as all cells of a table, are these. Else
    they count in alphabetical order, as in training, if the model has no names that would contradict."""
    known = {name: number for number, name in id2label.items()}
    if known.keys() >= set(names):
        return known
    spelled = {name: number for name in names if (number := parse_number(name)) is not None}
    if len(spelled) == len(names):
        return spelled
    if all(name == f"LABEL_{number}" for name, number in known.items()):  # what transformers writes for want of names
        return {name: i for i, name in enumerate(names)}
    unknown = next(name for name in names if name not in known)
    raise ValueError(f"the labels have {unknown!r}, the classes of the model are {listing(map(repr, known))}")


class CrossEncoderCorrelationEvaluator:
    """Metrics `{name}_pearson` and `{name}_spearman` of a model's scores and human ones; nan where either is constant,
    or a score of the model is nan."""

    columns = ("text1", "text2", "score")

    def __init__(self, pairs: Sequence[Pair], scores: Sequence[float], name: str = "", note: str = "") -> None:
        """`note` is what a person should know of the rows."""
        _check_lengths(pairs, "scores", scores)
        self.pairs, self.scores = pairs, np.asarray(scores, dtype=np.float64)
        self.prefix, self.note = f"{name}_" if name else "", note

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a pair with its score. `note` says how many have none, and are left out."""
        found = EmbeddingSimilarityEvaluator.of_rows(rows)
        pairs = list(zip(found["texts1"], found["texts2"], strict=True))
        return {"pairs": pairs, "scores": found["scores"], "note": found["note"]}

    def __call__(self, model: Scorer) -> dict[str, float]:
        predicted = one_score_each(model, self.pairs).astype(np.float64)
        of = {"pearson": pearson, "spearman": spearman}
        return {f"{self.prefix}{kind}": correlate(self.scores, predicted) for kind, correlate in of.items()}


def _check_lengths(pairs: Sequence[Pair], what: str, values: Sequence[Any]) -> None:
    if not len(pairs) == len(values) > 0:
        raise ValueError(f"{len(pairs)} pairs and {len(values)} {what}: must be equal, and not 0")
