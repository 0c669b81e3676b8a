"""What all losses ask of their input, and say when they do not get it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from minist.batch import Batch


class Declared(Protocol):
    """Every loss says in words what it takes, for its error messages."""

    columns: str  # "anchor, positive, any negatives"
    labels: str  # "none", or what they are and their shape: "numbers [rows]"


def check_columns(
    loss: Declared,
    embeddings: Sequence[Tensor],
    batch: Batch,
    least: int,
    most: int | None,
    label_dims: Sequence[int] = (0,),
    lists_from: int | None = None,
) -> None:
    """ValueError unless `loss` can take these embeddings and labels.

    From `least` to `most` columns (None: any number). `label_dims` are the numbers of dimensions that labels may
    have: (1,) is [rows], (1, 2) is [rows] or [rows, k], and 0 is no labels. A cell may be a list of texts in
    column `lists_from` and those after it (None: in no column).
    """
    name = type(loss).__name__
    dims = 0 if batch.labels is None else batch.labels.dim()
    few, many = len(embeddings) < least, most is not None and len(embeddings) > most
    if few or many or dims not in label_dims:
        columns = f"{len(embeddings)} column{'' if len(embeddings) == 1 else 's'}"
        labels = "no labels" if batch.labels is None else f"labels of shape {list(batch.labels.shape)}"
        raise ValueError(f"{name} takes {loss.columns}, labels {loss.labels}; got {columns} and {labels}")

    counts = [counts_of(batch, c) for c in range(len(embeddings))]
    rows = len(embeddings[0]) if counts[0] is None else len(counts[0])
    for c, (column, count) in enumerate(zip(embeddings, counts, strict=True)):
        if count is not None and (lists_from is None or c < lists_from):
            raise ValueError(f"{name} takes one text per cell in column {c + 1}, not a list: it takes {loss.columns}")
        if len(column if count is None else count) != rows:
            raise ValueError(f"{name}: column {c + 1} has {len(column)} embeddings for {rows} rows")
    if batch.labels is not None and len(batch.labels) != rows:
        raise ValueError(f"{name}: there are {len(batch.labels)} labels for {rows} rows")


def counts_of(batch: Batch, column: int) -> Tensor | None:
    """Texts in each row of a column [rows], or None where every cell is one text."""
    return batch.counts[column] if batch.counts else None


def text_rows(column: Tensor, counts: Tensor | None) -> Tensor:
    """The row that each of the N texts of a column belongs to, [N]: 0, 1, 2 .., or 0, 0, 1 .. by `counts` [rows]."""
    if counts is None:
        return torch.arange(len(column), device=column.device)
    rows = torch.arange(len(counts), device=column.device)
    return torch.repeat_interleave(rows, counts.to(column.device), output_size=len(column))
