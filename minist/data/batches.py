"""The batches of a run: those of each data set, whose turn it is, and which rank gets which of their rows."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from minist.checks import pick
from minist.data.samplers import permutation

Draw = Callable[[int], Sequence[Tensor]]  # epoch -> its batches, row numbers; a sampler of samplers.py with its keys


def proportional(lengths: Sequence[int], seed: int, epoch: int) -> list[int]:
    """All batches of all sets, in random order: a large set has its turn more often. `lengths`: batches of each."""
    sets = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))  # 0 0 0 1 1 for lengths 3, 2
    return sets[permutation(len(sets), seed, epoch)].tolist()


def round_robin(lengths: Sequence[int], seed: int, epoch: int) -> list[int]:
    """Sets take turns, until the first one has no batch left: all are seen equally often."""
    return list(range(len(lengths))) * min(lengths)  # no draw: samplers have put the rows in random order


MIXINGS = {"proportional": proportional, "round_robin": round_robin}


class Place(NamedTuple):
    """A batch and where it stands in the run."""

    step: int
    epoch: int
    dataset: int  # the number of its data set
    rows: Tensor  # [batch_size] or fewer, row numbers of that set


class Batches:
    """The batches of all epochs, numbered by step. None mixes data sets; only those of one epoch are held."""

    def __init__(
        self, samplers: Sequence[Draw], mixing: str, seed: int, epochs: int, max_steps: int, names: Sequence[str] = ()
    ) -> None:
        """A sampler and a name for each set; `max_steps` > 0 replaces `epochs`. ValueError for a set without batch."""
        self.samplers, self.mixing, self.seed = samplers, pick("mixing", mixing, MIXINGS), seed
        self.drawn: tuple[int, list[Sequence[Tensor]]] = (-1, [])  # an epoch and the batches of each set in it
        self._length = cache(lambda epoch: len(self._turns(epoch)))  # kept for resumed runs: epochs may differ
        for epoch in reversed(range(1 if max_steps else epochs)):  # epoch 0 last: it stays drawn, and is used first
            self._length(epoch)
        for name, batches in zip(names or range(len(samplers)), self._draw(0), strict=True):
            if not batches:
                why = "batch_size is larger than the data, or than its rows without duplicates, and drop_last is set"
                raise ValueError(f"data set {name}: no batch is full: {why}: use a smaller batch_size")
        self.total = max_steps or sum(map(self._length, range(epochs)))

    def start_at(self, first: int) -> Iterator[Place]:
        """The batches of the steps first, first + 1, .. total - 1."""
        step = epoch = 0
        while step < self.total:
            if step + self._length(epoch) > first:  # else nothing of this epoch is wanted, and it need not be drawn
                used = [0] * len(self.samplers)  # batches that each set has given in this epoch
                for s, dataset in enumerate(self._turns(epoch)[: self.total - step], step):
                    if s >= first:
                        yield Place(s, epoch, dataset, self._draw(epoch)[dataset][used[dataset]])
                    used[dataset] += 1  # those before `first` count too: a resumed run sees the same batches
            step, epoch = step + self._length(epoch), epoch + 1

    def rows(self, dataset: int) -> int:
        """How many rows of a set an epoch holds, the first one: no_duplicates, group_by_label, drop_last leave out."""
        return sum(len(batch) for batch in self._draw(0)[dataset])

    def _turns(self, epoch: int) -> list[int]:
        return self.mixing([len(batches) for batches in self._draw(epoch)], self.seed, epoch)

    def _draw(self, epoch: int) -> list[Sequence[Tensor]]:
        if self.drawn[0] != epoch:
            self.drawn = (-1, [])  # let go of the old ones first: of a large set they are the most that a run holds
            self.drawn = (epoch, [sampler(epoch) for sampler in self.samplers])
        return self.drawn[1]


def balance(tokens: Tensor, world: int) -> Tensor:
    """An order of n rows whose `world` shares, as tensor_split makes them, have about equally many tokens: [n] -> [n].
    Ranks wait for one another in every step, and random shares of mixed texts differ by a tenth or two."""
    if world == 1:
        return torch.arange(len(tokens))
    room = [len(share) for share in tokens.tensor_split(world)]
    shares: list[list[int]] = [[] for _ in room]
    totals = [0] * world
    for row in tokens.argsort(descending=True, stable=True).tolist():  # the longest first, to the emptiest rank
        rank = min((r for r in range(world) if len(shares[r]) < room[r]), key=lambda r: totals[r])
        shares[rank].append(row)
        totals[rank] += int(tokens[row])
    return torch.tensor([row for share in shares for row in sorted(share)], dtype=torch.long)
