"""Which of a query's candidates become its negatives: limits of the score, then ranks, then the top or a draw."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import index
from typing import Self

import torch
from torch import Tensor

from minist.checks import number, pick
from minist.retrieval.candidates import Block, Pairs
from minist.retrieval.mined_rows import Found


@dataclass(frozen=True)
class Limits:
    """A candidate is left out where its score is

    > max_score,  < min_score,  > p - absolute_margin,  > p - |p| relative_margin

    with p the score of the query's least similar positive. None: no such limit. |p|, since p may be negative."""

    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                number(name, value, least=0 if "margin" in name else -torch.inf)  # a margin is how far below
        if self.max_score is not None and self.min_score is not None:
            number("min_score", self.min_score, most=self.max_score)

    @property
    def reject_the_best(self) -> bool:
        """Whether the nearest candidates may be left out; min_score alone cuts off the far end."""
        return any(value is not None for value in (self.max_score, self.absolute_margin, self.relative_margin))

    def broken(self, scores: Tensor, positive: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Why, and which of `scores` [q, K] are left out, beside each query's `positive` score [q, 1]."""
        if self.absolute_margin is not None:
            yield "within absolute_margin", scores + self.absolute_margin > positive
        if self.relative_margin is not None:
            yield "within relative_margin", scores > positive - positive.abs() * self.relative_margin
        if self.max_score is not None:
            yield "above max_score", scores > self.max_score
        if self.min_score is not None:
            yield "below min_score", scores < self.min_score


@dataclass(frozen=True)
class Ranks:
    """Of what the limits leave, the ranks from `range_min` on, the best is 0, and before `range_max`, may be chosen:
    the "top" `num_negatives` of them, or "random" ones. `range_max` None is num_negatives more than `range_min`, ten
    times as many where limits or a cross-encoder may change the order, and the most positives that a query has."""

    num_negatives: int
    range_min: int
    range_max: int | None
    sampling_strategy: str

    def __post_init__(self) -> None:
        index(number("num_negatives", self.num_negatives, 1)), index(number("range_min", self.range_min, 0))
        pick("sampling_strategy", self.sampling_strategy, SAMPLING)
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            least = f"it must be at least range_min + num_negatives, {self.range_min + self.num_negatives}"
            raise ValueError(f"range_max is {self.range_max}: {least}")

    def with_end(self, most_positives: int, is_limited: bool) -> Self:
        """With a number for `range_max`, the one that sentence-transformers takes."""
        spare = self.num_negatives * (10 if is_limited else 1) + most_positives
        return replace(self, range_max=self.range_min + spare if self.range_max is None else self.range_max)

    @property
    def end(self) -> int:
        assert self.range_max is not None
        return self.range_max


class Choice:
    """Chooses; `left_out` counts what was not chosen, by reason. Draws depend on `seed` and the order of queries."""

    def __init__(self, limits: Limits, ranks: Ranks, include_positives: bool, seed: int) -> None:
        self.limits, self.ranks, self.include_positives = limits, ranks, include_positives
        self.draw, self.left_out = random.Random(seed), Counter[str]()

    def found(self, block: Block, pairs: Pairs) -> Iterator[Found]:
        """What was chosen for each query of the block, as texts."""
        chosen = self.choose(block)
        own = _grouped(pairs, block, block.owners, block.positives, block.positive_scores)
        others = _grouped(pairs, block, chosen.nonzero()[:, 0], block.rows[chosen], block.scores[chosen])
        for i, (positives, negatives) in enumerate(zip(own, others, strict=True), block.first):
            yield Found(pairs.queries[i], *positives, *negatives)

    def choose(self, block: Block) -> Tensor:
        """Bool [q, K], at most num_negatives in each row."""
        left, start, end = torch.ones_like(block.rows, dtype=torch.bool), self.ranks.range_min, self.ranks.end
        for reason, wrong in self._wrong(block):
            left = self._leave_out(left, wrong, reason)
        rank = left.cumsum(1) - 1  # among those that are left, which stand in order
        left = self._leave_out(left, rank < start, "before range_min")
        left = self._leave_out(left, rank >= end, "after range_max")
        chosen = SAMPLING[self.ranks.sampling_strategy](left, self.ranks.num_negatives, self.draw)
        self._leave_out(left, ~chosen, "not needed")
        return chosen

    def _wrong(self, block: Block) -> Iterator[tuple[str, Tensor]]:
        if not self.include_positives:
            yield "positives of the query", block.is_positive()
        yield "without a score", block.scores == -torch.inf  # of a text whose embedding is NaN
        yield from self.limits.broken(block.scores, block.lowest_positive())

    def _leave_out(self, left: Tensor, wrong: Tensor, reason: str) -> Tensor:
        self.left_out[reason] += int((left & wrong).sum())
        return left & ~wrong


def _top(left: Tensor, count: int, draw: random.Random) -> Tensor:
    return left & (left.cumsum(1) <= count)


def _random(left: Tensor, count: int, draw: random.Random) -> Tensor:
    chosen = torch.zeros_like(left)
    for row, options in enumerate(left):
        columns = options.nonzero()[:, 0].tolist()
        chosen[row, draw.sample(columns, min(count, len(columns)))] = True
    return chosen


SAMPLING: dict[str, Callable[[Tensor, int, random.Random], Tensor]] = {"top": _top, "random": _random}


def _grouped(
    pairs: Pairs, block: Block, owners: Tensor, rows: Tensor, scores: Tensor
) -> list[tuple[list[str], list[float]]]:
    """For each query of the block its documents, and their scores, from the owner, row and score of each [n]."""
    groups: list[tuple[list[str], list[float]]] = [([], []) for _ in block.rows]
    for owner, row, score in zip(owners.tolist(), rows.tolist(), scores.tolist(), strict=True):
        groups[owner][0].append(pairs.documents[row])
        groups[owner][1].append(score)
    return groups
