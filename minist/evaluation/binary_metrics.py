"""Metrics of scores, where each of N things is positive or not: of the order, and of the best threshold.

All of them cut the order between different scores only, so equal scores are on the same side. They take
`positive` [N] bool and `scores` [N], and are nan where a score is nan, as nothing is above or below it.
"""

from typing import NamedTuple

import numpy as np


class Cuts(NamedTuple):
    """The ways to take the best scores, fewest first: one for each of the C different scores."""

    scores: np.ndarray  # the least that is taken
    taken: np.ndarray  # how many are
    found: np.ndarray  # how many of them are positive


def cut(positive: np.ndarray, scores: np.ndarray) -> Cuts:
    if np.isnan(scores).any():
        return Cuts(*np.full((3, 1), np.nan))  # which all that is computed from it will be
    order = np.argsort(-scores, kind="stable")
    ordered, found = scores[order], positive[order].cumsum()
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of those that are equal
    return Cuts(ordered[last], last + 1.0, found[last])


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Sum over cuts of precision * the recall that the cut adds; 0 where nothing is positive."""
    _, taken, found = cut(positive, scores)
    return float((found / taken * np.diff(found, prepend=0)).sum() / max(found[-1], 1))


def best_accuracy(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Largest share that is on its side of a threshold, and that threshold: the highest one of several."""
    at, taken, found = cut(positive, scores)
    negative = len(positive) - positive.sum()
    right = np.append(negative, found + negative - (taken - found))  # the first takes nothing: all are negative
    best = int(right.argmax())
    above_all = np.nextafter(at[0], np.inf, dtype=at.dtype)
    return float(right[best] / len(positive)), float(above_all if best == 0 else _threshold(at, best - 1))


def best_f1(positive: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Largest F1 = 2 precision recall / (precision + recall) over cuts, with its threshold, precision and recall; all
    are 0 where nothing is positive."""
    at, taken, found = cut(positive, scores)
    if found[-1] == 0:
        return {"f1": 0.0, "f1_threshold": 0.0, "precision": 0.0, "recall": 0.0}
    precision, recall = found / taken, found / found[-1]
    f1 = 2 * precision * recall / np.where(found == 0, 1, precision + recall)  # without any found 0, not 0 / 0
    best = int(f1.argmax())
    found_there = {"precision": float(precision[best]), "recall": float(recall[best])}
    return {"f1": float(f1[best]), "f1_threshold": float(_threshold(at, best)), **found_there}


def _threshold(at: np.ndarray, i: int) -> np.number:
    """Halfway from a cut's score to the next lower one; the last cut, which takes all, has its own score."""
    if i == len(at) - 1:
        return at[i]
    middle = (at[i] + at[i + 1]) / 2
    return at[i] if middle == at[i + 1] else middle  # of neighbouring floats it may be rounded down to the lower one


def ndcg_of_scores(positive: np.ndarray, scores: np.ndarray, k: int) -> float:
    """nDCG@k, averaged over all orders of equal scores (McSherry and Najork 2008); 0 where nothing is positive."""
    _, taken, found = cut(positive, scores)
    discounts = 1 / np.log2(np.arange(2, len(scores) + 2))
    discounts[k:] = 0
    total = np.append(0, discounts.cumsum())  # of so many first ranks
    shares = np.diff(found, prepend=0) / np.diff(taken, prepend=0)  # of equal scores, each rank may be any of them
    ideal = total[positive.sum()]
    ranks = np.nan_to_num(taken).astype(int)  # a nan is one in `shares` too
    return float((shares * np.diff(total[ranks], prepend=0)).sum() / ideal) if ideal else 0.0
