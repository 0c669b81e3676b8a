"""The batches of a run: which rows make up each of an epoch, whose turn it is, and which rank gets which of their rows.

A sampler is a function of (keys, batch size, seed, epoch, drop_last). It depends on nothing else, so all ranks agree
and a resumed run sees the same batches. Epoch e is shuffled by `randperm(n)` seeded with seed + e."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minist.checks import pick
from minist.data.packed import ranges
from minist.data.text_column import spans

Draw = Callable[[int], Sequence[Tensor]]  # epoch -> its batches, row numbers; a sampler with its keys
TextsOf = Callable[[int, int], list[int]]  # hashes of the rows from one place in an order to another
RUN = 16  # rows that are checked together before they are checked one by one


class Keys(NamedTuple):
    """What of a data set decides about its batches. A row may have any number of texts: a cell may be a list."""

    hashes: np.ndarray  # uint64 [all texts], of the raw texts, row after row
    offsets: np.ndarray  # int64 [rows + 1]: the hashes of row i are hashes[offsets[i]:offsets[i + 1]]
    labels: np.ndarray | None = None  # [rows], of a set with one number or class per row

    @property
    def rows(self) -> int:
        return len(self.offsets) - 1


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))


class Shuffled(Sequence[Tensor]):
    """Batches in random order, the last may be short unless `drop_last`. To count them, no order is drawn."""

    def __init__(self, keys: Keys, batch_size: int, seed: int, epoch: int, drop_last: bool) -> None:
        self.size, self.order = batch_size, cache(partial(permutation, keys.rows, seed, epoch))
        self.starts = range(0, keys.rows - keys.rows % batch_size if drop_last else keys.rows, batch_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Tensor:  # type: ignore[override]  # no slices of slices
        start = self.starts[i]  # an IndexError behind the last ends a loop over it
        return self.order()[start : start + self.size]


def no_duplicates(keys: Keys, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[Tensor]:
    """As `Shuffled`, but no text comes twice in a batch, where it would be a false negative.
    A row that shares any text with the batch waits for a later one. Batches may be short where all rows left conflict;
    `drop_last` leaves those out. Of a single row, which has nothing to compare it with, only the last may be."""
    order = permutation(keys.rows, seed, epoch)
    texts = _texts_in_order(keys, order)
    waiting: dict[int, list[int]] = {}  # see _fill
    batches, start = [], 0
    while start < keys.rows or waiting:
        places, start = _fill(batch_size, start, keys.rows, texts, waiting)
        if len(places) == batch_size or not drop_last:
            batches.append(order[places])
    return [batch for batch in batches[:-1] if len(batch) > 1 or batch_size == 1] + batches[-1:]


def _texts_in_order(keys: Keys, order: Tensor) -> TextsOf:
    starts, lengths = spans(keys.offsets, order)
    hashes = memoryview(keys.hashes[ranges(starts, lengths).numpy()])
    places = [0, *lengths.cumsum(0).tolist()]  # where the texts of each row start
    return lambda start, end: hashes[places[start] : places[end]].tolist()


def _fill(size: int, start: int, n: int, texts_of: TextsOf, waiting: dict[int, list[int]]) -> tuple[list[int], int]:
    """One batch: rows that wait, then those from place `start` of `n` on. Returns its places and the new `start`.
    `waiting` holds, for a text that kept rows out of a batch, a heap of those rows. Once the text is in this batch too,
    none of them can enter: only the first of each heap is looked at, not every row that shares a text, each time."""
    batch: list[int] = []
    seen: set[int] = set()

    def enter_or_wait(place: int) -> None:
        texts = texts_of(place, place + 1)
        if seen.isdisjoint(texts):
            batch.append(place)
            seen.update(texts)
        else:
            blocker = next(text for text in texts if text in seen)  # one of them is enough to keep it out
            heappush(waiting.setdefault(blocker, []), place)

    firsts = [(places[0], text) for text, places in waiting.items()]
    heapify(firsts)
    while firsts and len(batch) < size:
        _, text = heappop(firsts)  # whose row comes first in the order of the epoch
        if text in seen:
            continue  # the whole heap waits on
        enter_or_wait(heappop(waiting[text]))
        if waiting[text]:  # the next one, which the text that has just entered may keep out
            heappush(firsts, (waiting[text][0], text))
        else:
            del waiting[text]
    while start < n and len(batch) < size:
        end = min(start + RUN, start + size - len(batch), n)
        texts = texts_of(start, end)
        if len(set(texts)) == len(texts) and seen.isdisjoint(texts):  # mostly so, and faster than row by row
            batch.extend(range(start, end))
            seen.update(texts)
        else:
            for place in range(start, end):
                enter_or_wait(place)
        start = end
    return batch, start


def group_by_label(keys: Keys, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[Tensor]:
    """Batches in which every row has another of its label and others of another, as triplet losses need them.
    Labels take turns, in an order that is drawn anew for each round, and each gives two of its rows. The epoch ends
    when only one label has rows left; rows without a partner, and those of the last label, are left out. The last
    batch may be short, of 4 rows at least, unless `drop_last`. ValueError where labels or `batch_size` do not fit."""
    source = torch.Generator().manual_seed(seed + epoch)
    left = []  # of each label: its rows in random order, an even number of them
    for rows in _groups(keys.labels, batch_size):
        order = torch.randperm(len(rows), generator=source).tolist()
        left.append([rows[i] for i in order[: len(rows) // 2 * 2]][::-1])  # backwards: pop() takes from the end
    stream: list[int] = []
    turns, last = list(range(len(left))), -1
    while len(turns) > 1:
        turns = [turns[i] for i in torch.randperm(len(turns), generator=source).tolist()]
        if turns[0] == last and len(stream) % batch_size:  # else four rows of one label would be neighbours in a batch
            turns[:2] = turns[1::-1]
        for label in turns:
            stream += (left[label].pop(), left[label].pop())
        last = turns[-1]
        turns = [label for label in turns if left[label]]
    batches = list(torch.tensor(stream).split(batch_size))
    return batches[:-1] if len(batches[-1]) < (batch_size if drop_last else 4) else batches


def _groups(labels: np.ndarray | None, batch_size: int) -> list[list[int]]:
    """The rows of each label that has two or more, in the order in which labels first occur."""
    if labels is None:
        raise ValueError("group_by_label: the data has no class per row: name the column that holds it")
    if batch_size < 4 or batch_size % 2:
        raise ValueError(f"group_by_label: batch_size is {batch_size}, it must be even and 4 or more")
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rows, ends = inverse.argsort(kind="stable").tolist(), counts.cumsum().tolist()
    groups = [rows[ends[i] - counts[i] : ends[i]] for i in first.argsort().tolist() if counts[i] > 1]
    if len(groups) < 2:
        found = f"of {len(counts)} labels {len(groups)} have two rows or more, it takes two such labels"
        raise ValueError(f"group_by_label: {found}: use labels that are classes, or another sampler")
    return groups


SAMPLERS = {"shuffled": Shuffled, "no_duplicates": no_duplicates, "group_by_label": group_by_label}


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
