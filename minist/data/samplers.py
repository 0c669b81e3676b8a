"""Which rows make up each batch of an epoch.

A sampler is a function of (number of rows or their hashes, batch size, seed, epoch). It depends on
nothing else, so all ranks agree and a resumed run sees the same batches. Epoch e is shuffled by
`randperm(n)` seeded with seed + e.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor


def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch, [n]."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))


def shuffled(hashes: np.ndarray, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[Tensor]:
    """Batches of row numbers in random order; the last may be short unless `drop_last`."""
    batches = list(permutation(len(hashes), seed, epoch).split(batch_size))
    return batches[:-1] if drop_last and len(batches[-1]) < batch_size else batches


def no_duplicates(hashes: np.ndarray, batch_size: int, seed: int, epoch: int, drop_last: bool) -> list[Tensor]:
    """As `shuffled`, but no text comes twice in a batch, where it would be a false negative.

    `hashes` [n, columns] of the raw texts. A row that shares any text with the batch waits for a
    later one; a row never conflicts with itself. Batches may be short where all rows left conflict.
    """
    texts = [set(row) for row in hashes.tolist()]
    waiting = deque(permutation(len(hashes), seed, epoch).tolist())
    batches = []
    while waiting:
        batch: list[int] = []
        seen: set[int] = set()
        deferred = []
        while waiting and len(batch) < batch_size:
            row = waiting.popleft()
            if seen.isdisjoint(texts[row]):
                batch.append(row)
                seen |= texts[row]
            else:
                deferred.append(row)
        waiting.extendleft(reversed(deferred))
        if len(batch) == batch_size or not drop_last:
            batches.append(torch.tensor(batch))
    return batches


SAMPLERS = {"shuffled": shuffled, "no_duplicates": no_duplicates}


class Batches:
    """The batches of all epochs, numbered by step."""

    def __init__(self, epoch: Callable[[int], list[Tensor]], epochs: int, max_steps: int) -> None:
        """`epoch` gives the batches of epoch 0, 1, ..; `max_steps` > 0 counts instead of `epochs`."""
        self.epoch = epoch
        if not epoch(0):
            raise ValueError("config: no batch is full: batch_size is larger than the data, and drop_last is set")
        self.total = max_steps or sum(len(epoch(e)) for e in range(epochs))

    def start_at(self, first: int) -> Iterator[tuple[int, Tensor]]:
        """(step, rows of that step) for the steps first, first + 1, .. total - 1."""
        step = 0
        for epoch in count():
            for rows in self.epoch(epoch):
                if step == self.total:
                    return
                if step >= first:
                    yield step, rows
                step += 1
