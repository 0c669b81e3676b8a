"""What all losses have in common, and what they ask of their input."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minist.batch import Batch

Tensors = Sequence[Tensor]  # mostly the embeddings [N, D] of each column


class Loss(nn.Module):
    """`forward(embeddings, batch)` takes the embeddings [N, D] of each column, of all ranks' texts, and a Batch, and
    gives a scalar, or a dict of scalars, which are summed and logged one by one. A loss over tokens is of another kind:
    `forward(model, columns, roles)` gives the sum of this rank's tokens' losses, `count(columns)` their number."""

    columns, labels = "any number of columns", "none"  # what it takes, in words, for messages
    class_names = False  # whether labels may be words; they stand for the classes 0, 1, 2 .. in alphabetical order
    label_lists = False  # whether a label is a list, with a number for each text of its row's list
    negatives: int | None = 0  # texts of other rows that a query is paired with in each step; None: all that there are
    guide = ""  # whose embeddings it reads in batch.guide: "guide" or "teacher", as the config's tables are called
    over_tokens, mask_ratio, whole_words = False, 0.0, True  # the share of tokens that are hidden, see MaskedLMLoss
    seed = 0  # of all that it draws; a run sets its own

    def set_seed(self, seed: int) -> None:
        for part in self.modules():
            if isinstance(part, Loss):  # itself, and the losses inside
                part.seed = seed

    def draw(self, name: str, step: int, choices: Sequence[Any], k: int) -> list[Any]:
        """`k` different ones of `choices`: all of them for k = -1, or where there are no more."""
        if not 0 < k < len(choices):
            return list(choices)
        # (seed, step) alone make ranks and a resumed run agree; the name keeps two draws of one step independent
        return random.Random(f"{self.seed} {step} {name}").sample(choices, k)

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """What it wants in batch.extra at this step, beside the embeddings: for instance "layer 3", see stack.py."""
        return ()

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        """Make the weights that take their shape from the model, whose file held the weights `checkpoint`."""

    def num_classes(self, width: int) -> int:
        """How many classes labels may name, of embeddings or logits of that width; 0: any number, or none."""
        return 0

    def count(self, columns: Sequence[Any]) -> int:
        return 0  # of tokens

    @torch.no_grad()
    def check(self, embeddings: Tensors, batch: Batch) -> None:
        """ValueError, in words, if the loss cannot take such columns and labels; called with zeros before the run."""
        self(embeddings, batch)


def total(value: Tensor | dict[str, Tensor]) -> Tensor:
    """The scalar of a loss that may come in named parts."""
    return torch.stack(list(value.values())).sum() if isinstance(value, dict) else value


def check_columns(
    loss: Loss,
    embeddings: Tensors,
    batch: Batch,
    least: int,
    most: int | None,
    label_dims: Sequence[int] = (0,),
    lists_from: int | None = None,
) -> Any:
    """The labels, if `loss` can take these: from `least` to `most` columns (None: any number), labels of so many
    dimensions (0: none, 1: [rows], 2: [rows, k]), and lists of texts from column `lists_from` on; else a ValueError."""
    labels, found = batch.labels, len(embeddings)
    counts = [counts_of(batch, c) for c in range(found)]
    rows = [len(x if count is None else count) for x, count in zip(embeddings, counts, strict=True)]
    lists = [c for c, count in enumerate(counts[:lists_from], 1) if count is not None]  # where none may be
    uneven = [c for c, n in enumerate(rows) if n != rows[0]]
    if not least <= found <= (most or found) or (0 if labels is None else labels.dim()) not in label_dims:
        given = "no labels" if labels is None else f"labels of shape {list(labels.shape)}"
        wrong = f"got {found} column{'s' * (found != 1)} and {given}"
    elif lists:
        wrong = f"one text per cell in column {lists[0]}, not a list"
    elif uneven:
        wrong = f"column {uneven[0] + 1} has {len(embeddings[uneven[0]])} embeddings for {rows[0]} rows"
    elif labels is not None and len(labels) != rows[0]:
        wrong = f"there are {len(labels)} labels for {rows[0]} rows"
    else:
        return labels
    raise ValueError(f"{type(loss).__name__} takes {loss.columns}, labels {loss.labels}; {wrong}")


def counts_of(batch: Batch, column: int) -> Tensor | None:
    """Texts in each row of a column [rows], or None where every cell is one text."""
    return batch.counts[column] if batch.counts else None


def text_rows(column: Tensor, counts: Tensor | None) -> Tensor:
    """The row that each of the N texts of a column belongs to, [N]: 0, 1, 2 .., or 0, 0, 1 .. by `counts` [rows]."""
    rows = torch.arange(len(column) if counts is None else len(counts), device=column.device)
    # without output_size the GPU would be asked
    return rows if counts is None else rows.repeat_interleave(counts.to(column.device), output_size=len(column))
