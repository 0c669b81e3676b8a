"""Metrics of rankings, correlations and classes, from their definitions."""

import numpy as np


def accuracy_at(hits: np.ndarray, k: int) -> float:
    """1 if any of the first k results is relevant. `hits` [k or more] bool, best result first."""
    return float(hits[:k].any())


def precision_at(hits: np.ndarray, k: int) -> float:
    """Share of the first k results that is relevant."""
    return hits[:k].sum() / k  # also where fewer than k were found: what is missing is not relevant


def recall_at(hits: np.ndarray, k: int, relevant: int) -> float:
    """Share of the `relevant` documents that is among the first k results."""
    return hits[:k].sum() / relevant


def mrr_at(hits: np.ndarray, k: int) -> float:
    """1 / rank of the first relevant result, 0 if it is not among the first k."""
    places = np.flatnonzero(hits[:k])  # from 0
    return 1 / (places[0] + 1) if len(places) else 0.0


def ndcg_at(hits: np.ndarray, k: int, relevant: int) -> float:
    """DCG / best possible DCG, with DCG = sum over relevant results of 1 / log2(rank + 1), ranks from 1."""
    discounts = 1 / np.log2(np.arange(2, k + 2))  # rank 1 counts whole, rank 3 half
    found = hits[:k]
    return float((found * discounts[: len(found)]).sum() / discounts[: min(k, relevant)].sum())


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
    """Accuracy and F1 of class numbers [N]. The F1 of a class is 2 hits / (labels + predictions that name it).

    f1_macro     mean over the classes that a label or a prediction names
    f1_micro     of all hits, labels and predictions together; as each pair has one of both, this is the accuracy
    f1_weighted  mean over labels: a class counts as often as it is one
    """
    classes = 1 + max(labels.max(), predicted.max())
    hits, labelled, named = (
        np.bincount(x, minlength=classes) for x in (labels[labels == predicted], labels, predicted)
    )
    f1 = 2 * hits / np.maximum(labelled + named, 1)  # 0 for a class that nothing names
    accuracy = float(hits.sum() / len(labels))
    return {
        "f1_macro": float(f1.sum() / np.count_nonzero(labelled + named)),
        "f1_micro": accuracy,
        "f1_weighted": float((f1 * labelled).sum() / len(labels)),
        "accuracy": accuracy,
    }
