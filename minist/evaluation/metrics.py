"""Metrics of rankings, correlations, classes and scores, from their definitions. One rule holds for all evaluators:

thresholds  one is halfway between two neighbouring scores, so equal scores are on the same side of it; where all are
            taken it is the lowest score, where none is, just above the highest. Of several best ones the strictest.
            Distances are similarities below 0 in all this; a threshold of theirs is shown as a distance.
ties        in a search of a collection the lower document id comes first. In a list of candidates MAP takes equal
            scores at once, nDCG is the mean over their orders, and MRR has the later candidate first: relevant ones are
            given first, and equal scores for all must not look good.
constants   a correlation with what is constant is nan.
nan         a metric of scores one of which is nan is nan; but in a search a nan is last, and wins nowhere."""

from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np


def mrr_at(hits: np.ndarray, k: int) -> float:
    """1 / rank of the first relevant result, 0 if it is not among the first k. `hits` [k or more], best first."""
    places = np.flatnonzero(hits[:k])  # from 0
    return 1 / (places[0] + 1) if len(places) else 0.0


def ndcg_at(gains: np.ndarray, k: int, best: np.ndarray) -> float:
    """DCG / best possible DCG, with DCG = sum over results of gain / log2(rank + 1), ranks from 1. A gain is 0 for what
    is not relevant; `best` are those of all relevant documents, largest first."""
    discounts = 1 / np.log2(np.arange(2, k + 2))  # rank 1 counts whole, rank 3 half
    found, possible = (float((x[:k] * discounts[: len(x)]).sum()) for x in (gains, best))
    return found / possible


def map_at(hits: np.ndarray, k: int, relevant: int) -> float:
    """Mean of the precision at each relevant result, over min(k, relevant)."""
    places = np.flatnonzero(hits[:k])
    return float(((np.arange(len(places)) + 1) / (places + 1)).sum() / min(k, relevant))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Linear correlation; nan where x or y is constant, or holds nan."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # x - x.mean() may be 1e-17 in place of 0, which correlates with anything
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the ranks; equal values share the mean of their ranks."""
    return pearson(ranks(x), ranks(y))


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value from 1, averaged over ties; nan where there is no order, as one value is nan."""
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()  # the rank of the last of the equal ones
    return (last - (counts - 1) / 2)[places]


def class_metrics(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy and F1 of class numbers [N]. The F1 of a class is 2 hits / (labels + predictions that name it);
    f1_macro is its mean over the classes that either names, f1_weighted over labels; f1_micro is the accuracy."""
    count = 1 + max(labels.max(), predicted.max())  # of classes
    hits, labelled, named = (np.bincount(x, minlength=count) for x in (labels[labels == predicted], labels, predicted))
    f1 = 2 * hits / np.maximum(labelled + named, 1)  # 0 for a class that nothing names
    macro, weighted = f1.sum() / np.count_nonzero(labelled + named), (f1 * labelled).sum() / len(labels)
    accuracy = float(hits.sum() / len(labels))
    return {"f1_macro": float(macro), "f1_micro": accuracy, "f1_weighted": float(weighted), "accuracy": accuracy}


def cuts(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ways to take the best of N scores, fewest first: a threshold, how many are taken, how many of them are
    positive, [C] each. Equal scores are on the same side of a threshold. With a nan all metrics of cuts are nan."""
    if np.isnan(scores).any():  # nothing is above or below it
        positive, scores = np.full((2, len(scores)), np.nan)
    lowest, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    lowest = -lowest  # of those taken, best first; with all taken it is the threshold, else this is halfway to the next
    halfway = (lowest[:-1] + lowest[1:]) / 2
    halfway = np.where(halfway == lowest[1:], lowest[:-1], halfway)  # no float is between: not the next one itself
    return np.append(halfway, lowest[-1:]), sizes.cumsum(), np.bincount(group, weights=positive).cumsum()


def average_precision(positive: np.ndarray, scores: np.ndarray, total: int | None = None) -> float:
    """Sum over cuts of precision * the recall that the cut adds; 0 where nothing is positive. `total` positives there
    are if some have no score."""
    _, taken, found = cuts(positive, scores)
    return float((found / taken * np.diff(found, prepend=0)).sum() / max(total or found[-1], 1))


def best_accuracy(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Largest share that is on its side of a threshold, and that threshold: the highest one of several."""
    thresholds, taken, found = cuts(positive, scores)
    above_all = np.nextafter(scores.max(), np.inf, dtype=scores.dtype)  # takes nothing: all count as negative
    right = np.append(0, found - (taken - found)) + np.count_nonzero(~positive)
    best = right.argmax()
    return float(right[best] / len(positive)), float(np.append(above_all, thresholds)[best])


def best_f1(positive: np.ndarray, scores: np.ndarray, total: int | None = None) -> dict[str, float]:
    """Largest F1 = 2 precision recall / (precision + recall) over cuts, and what belongs to it; 0 without positives."""
    thresholds, taken, found = cuts(positive, scores)
    precision, recall = found / taken, found / max(total or found[-1], 1)
    f1 = 2 * precision * recall / np.where(found == 0, 1, precision + recall)  # without any found 0, not 0 / 0
    at = {"f1": f1, "f1_threshold": np.where(found[-1] == 0, 0, thresholds), "precision": precision, "recall": recall}
    return {name: float(values[f1.argmax()]) for name, values in at.items()}


def threshold_metrics(positive: np.ndarray, scores: np.ndarray, ap: str) -> dict[str, float]:
    """All metrics of telling [N] positives by a threshold; average precision is called `ap`."""
    accuracy, threshold = best_accuracy(positive, scores)
    found = {"accuracy": accuracy, "accuracy_threshold": threshold, **best_f1(positive, scores)}
    return found | {ap: average_precision(positive, scores)}


def matthews(positive: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    """Correlation of being positive and at the threshold or above (Matthews 1975); 0 where one of them is constant."""
    found = pearson(positive.astype(np.float64), (scores >= threshold).astype(np.float64))
    return found if np.isnan(threshold) else float(np.nan_to_num(found))


def ndcg_of_scores(positive: np.ndarray, scores: np.ndarray, k: int) -> float:
    """nDCG@k, averaged over all orders of equal scores (McSherry and Najork 2008); 0 where nothing is positive."""
    _, taken, found = cuts(positive, scores)
    sizes = np.diff(taken, prepend=0)  # of equal scores each may stand at any of their ranks
    shares = np.repeat(np.diff(found, prepend=0) / sizes, sizes)  # how often a positive is at rank 1, 2 ..
    return ndcg_at(shares, k, np.ones(np.count_nonzero(positive))) if positive.any() else 0.0


def rank_means(prefix: str, lists: Iterable[tuple[list[bool], np.ndarray]], k: int) -> dict[str, float]:
    """Metrics of lists of documents: which are relevant, and their scores. Nothing where there are no lists."""
    given = [(np.array(hits), scores) for hits, scores in lists]
    found = {
        "map": [average_precision(hits, scores) for hits, scores in given],
        f"mrr@{k}": [mrr_at(hits[scores.argsort(kind="stable")[::-1]], k) for hits, scores in given],  # later first
        f"ndcg@{k}": [ndcg_of_scores(hits, scores, k) for hits, scores in given],
    }
    lost = any(np.isnan(scores).any() for _, scores in given)  # to argsort the largest number is nan
    return {f"{prefix}{metric}": np.nan if lost else fmean(values) for metric, values in found.items() if values}


def found_by(documents: Sequence[object], positive: Sequence[object]) -> list[bool]:
    """Which documents of a first stage are relevant; positives that it missed are at the end, if it found any."""
    known = set(positive)
    relevant = [document in known for document in documents]
    return relevant + [True] * (len(positive) - sum(relevant) if any(relevant) else 0)
