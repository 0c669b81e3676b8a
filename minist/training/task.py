"""A task: the rows of one [[data]] entry, which it makes batches of, and the loss that is to fall on them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from minist import distributed
from minist.batch import Batch
from minist.data.dataset import Dataset
from minist.data.packed import Packed
from minist.data.samplers import balance
from minist.data.transforms import Vocabulary, delete_words, draw_pairs, mask_words
from minist.losses.base import Loss
from minist.models.text_model import TextModel
from minist.training.guide import Guide

PARTNER = "partner"  # what the column is called that draw_pairs adds


class TrainingRows:
    """The rows of a data set, with what is drawn anew each epoch, and what a guide says of them."""

    def __init__(
        self, dataset: Dataset, roles: Mapping[str, str], device: torch.device, *, seed: int = 0, pairs: int = 0
    ) -> None:
        """`pairs` is the ratio of draw_pairs, see transforms.py; 0: draw none."""
        self.dataset, self.device, self.seed, self.pairs = dataset, device, seed, pairs
        self.names = [*dataset.names, PARTNER] if pairs else dataset.names
        # the partner is a text of the one column there is
        self.roles = tuple(({PARTNER: roles.get(dataset.names[0])} | dict(roles)).get(name) for name in self.names)
        self.guide: Guide | None = None
        self.deleted: dict[str, tuple[float, Tensor, Tensor]] = {}  # column -> share of its words, word_starts
        self.masking: tuple[Vocabulary, float, bool] | None = None  # of the one column, see mask_words
        self._drawn = lru_cache(maxsize=1)(lambda epoch: draw_pairs(len(dataset), pairs, seed, epoch))

    def batch(self, rows: Tensor, epoch: int, step: int, progress: float) -> Batch:
        """The Batch of these rows, ordered so that ranks have equal work; its columns are this rank's share."""
        rows = rows[balance(self.dataset.tokens(rows), distributed.world_size())]
        share = rows.tensor_split(distributed.world_size())[distributed.rank()]
        guide = self.guide.embed(rows, share) if self.guide else ()
        counts, labels = self._counts_and_labels(rows, epoch)
        columns = self._texts(share, epoch)
        if self.pairs:
            columns += self._texts(self._drawn(epoch)[0][share], epoch, shift=1)
        return Batch(columns, self.roles, labels, counts, guide, progress=progress, step=step)

    def _texts(self, rows: Tensor, epoch: int, shift: int = 0) -> tuple[Packed, ...]:
        columns = dict(zip(self.dataset.names, self.dataset.take(rows), strict=True))
        for name, (ratio, starts, special) in self.deleted.items():
            place = self.dataset.names.index(name)
            texts = self.dataset.columns[place].texts(rows)  # numbers of texts, not of rows
            seed = self.seed + place + shift  # two columns of one text, or it and its partner, lose other words
            columns[name] = delete_words(columns[name], texts, starts, special, ratio, seed, epoch)
        if self.masking:
            (texts,), numbers = columns.values(), self.dataset.columns[0].texts(rows)
            return mask_words(texts, numbers, *self.masking, self.seed, epoch)  # and what stood there, a second column
        return tuple(columns.values())

    def _counts_and_labels(self, rows: Tensor, epoch: int) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        counts, labels = self.dataset.counts(rows), self.dataset.labels(rows)
        if self.pairs:
            counts, labels = counts * 2, self._drawn(epoch)[1][rows]  # 1 for a text that is paired with itself
        counts = tuple(None if n is None else n.to(self.device) for n in counts)
        return counts, None if labels is None else labels.to(self.device)

    def cut(self, rows: Tensor) -> dict[str, int]:
        return self.dataset.cut(rows)  # by column, how many texts were cut at the maximum length

    def check(self, loss: Loss, model: TextModel, batch_size: int) -> None:
        """ValueError, with what it takes, if a loss cannot take these columns and labels: tried on zeros."""
        self.dataset.check_classes(loss.num_classes(model.width))
        rows = torch.arange(min(batch_size, len(self.dataset)))
        counts, labels = self._counts_and_labels(rows, 0)
        sizes = [len(rows) if n is None else int(n.sum()) for n in counts]  # texts in each column
        zeros = [torch.zeros(size, model.width, device=self.device) for size in sizes]
        width = self.guide.model.width if self.guide else 0
        guide = tuple(torch.zeros(size, width, device=self.device) for size in sizes if self.guide)
        extra = {name: tuple(zeros) for name in loss.outputs(0, model.stack.num_layers)}
        loss.check(zeros, Batch((), self.roles, labels, counts, guide, extra))


class Task(NamedTuple):
    """What a run learns; each batch is of one task."""

    name: str
    weight: float  # of its loss, beside the other tasks
    rows: TrainingRows
    loss: Loss
