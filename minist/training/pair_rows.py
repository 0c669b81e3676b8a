"""The rows of a cross-encoder's data set: in a batch they are pairs, each row's query with each of its texts.
    rows       query   documents        labels        pairs                labels  counts
      0        a       b, c             1, 0          (a, b) (a, c)        1, 0    2
      1        d       e                1             (d, e)               1       1
A row's texts are those of all columns but the first, one column after the other, and for a loss with `negatives` also
texts of other rows, which are drawn anew in each step. Every rank knows all rows, and joins the pairs of its share."""

import torch
from torch import Tensor

from minist import distributed
from minist.batch import Batch
from minist.data.dataset import Dataset
from minist.data.packed import Packed
from minist.data.pairing import Pairing, RowPairs, add_negatives, pair_rows
from minist.data.samplers import balance
from minist.losses.base import Loss
from minist.training.task import TrainingRows


class PairRows(TrainingRows):
    """As TrainingRows, but that the one column of its batches holds pairs."""

    def __init__(self, dataset: Dataset, pairing: Pairing, loss: Loss, device: torch.device, seed: int) -> None:
        super().__init__(dataset, {}, device, seed=seed)
        if dataset.columns[0].rows is not None:
            raise ValueError(f"the column {dataset.names[0]} holds lists: the first one has a single query in each row")
        self.pairing, self.negatives, self.label_lists, self.roles = pairing, loss.negatives, loss.label_lists, (None,)
        self.are_single = loss.negatives == 0 and len(dataset.columns) == 2 and dataset.columns[1].rows is None

    def batch(self, rows: Tensor, epoch: int, step: int, progress: float) -> Batch:
        rows = rows[balance(self.dataset.tokens(rows), distributed.world_size())]
        share = torch.arange(len(rows)).tensor_split(distributed.world_size())[distributed.rank()]
        pairs, (queries, *others) = self._pairs(rows, step), self.dataset.take(rows)
        own = torch.isin(pairs.queries, share)
        column = self.pairing.join(queries, Packed.cat(others), pairs.queries[own], pairs.texts[own])
        counts = None if self.are_single else pairs.counts.to(self.device)
        return Batch((column,), self.roles, self._labels(rows), (counts,), progress=progress, step=step)

    def cut(self, rows: Tensor) -> dict[str, int]:
        own = self._pairs(rows, None)
        queries, *others = self.dataset.take(rows)
        lengths = torch.cat([column.lengths for column in others])
        return {"pairs": int(self.pairing.is_cut(queries.lengths[own.queries], lengths[own.texts]).sum())}

    def _pairs(self, rows: Tensor, step: int | None) -> RowPairs:
        """Of all ranks' rows, since a row's negatives are texts of any other; without a step none of them is drawn."""
        pairs = pair_rows([torch.ones_like(rows) if n is None else n for n in self.dataset.counts(rows)[1:]])
        if step is None or self.negatives == 0:
            return pairs
        return add_negatives(pairs, rows, self.negatives, self.seed, step)

    def _counts_and_labels(self, rows: Tensor, step: int) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
        counts = None if self.are_single else self._pairs(rows, step).counts.to(self.device)
        return (counts,), self._labels(rows)

    def _labels(self, rows: Tensor) -> Tensor | None:
        labels = self.dataset.labels(rows)
        if labels is not None and labels.dim() == 2 and self.label_lists:
            labels = labels[~labels.isnan()]  # row by row, as the pairs; NaN only fills up the lists of a table
        return None if labels is None else labels.to(self.device)
