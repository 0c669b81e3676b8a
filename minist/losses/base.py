"""What all losses have in common, and what they ask of their input."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from minist.batch import Batch

T = TypeVar("T")


class Loss(nn.Module):
    """`forward(embeddings, batch)` takes the embeddings [N, D] of each column, of all ranks' texts, and a Batch.

    It returns a scalar, or a dict of named scalars, which are summed and logged one by one.

    A loss over tokens is of another kind: `forward(model, columns, roles)` takes this rank's texts and gives the sum
    of its tokens' losses, `count(columns)` says of how many tokens; see training/step.py.
    """

    columns = "any number of columns"  # what it takes, in words, for messages
    labels = "none"  # likewise, with an example
    class_names = False  # whether labels may be words; they stand for the classes 0, 1, 2 .. in alphabetical order
    guide = ""  # whose embeddings it reads in batch.guide: "guide" or "teacher", as the config's tables are called
    over_tokens = False
    seed = 0  # of all that it draws; a run sets its own

    def set_seed(self, seed: int) -> None:
        """Draw from this seed from now on."""
        self.seed = seed

    def draw(self, name: str, step: int, choices: Sequence[T], k: int) -> list[T]:
        """`k` different ones of `choices`: all of them for k = -1, or where there are no more."""
        if not 0 < k < len(choices):
            return list(choices)
        # (seed, step) alone make ranks and a resumed run agree; the name keeps two draws of one step independent
        return random.Random(f"{self.seed} {step} {name}").sample(choices, k)

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """What it wants in batch.extra at this step, beside the embeddings: for instance "layer 3", see stack.py."""
        return ()

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        """Called once, when the model is there: for a loss with weights that take their shape from it.

        `roles` are those of the columns; `checkpoint` holds the weights of the file that the model was read from.
        """

    def count(self, columns: Sequence[Any]) -> int:
        """Of a loss over tokens: how many token losses `forward` adds up for these texts."""
        return 0

    @torch.no_grad()
    def check(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        """ValueError, in words, if the loss cannot take such columns and labels; called with zeros before the run."""
        self(embeddings, batch)


def total(value: Tensor | dict[str, Tensor]) -> Tensor:
    """The scalar of a loss that may come in named parts."""
    return torch.stack(list(value.values())).sum() if isinstance(value, dict) else value


def check_columns(
    loss: Loss,
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
    labels, found, dims = batch.labels, len(embeddings), 0 if batch.labels is None else batch.labels.dim()
    counts = [counts_of(batch, c) for c in range(found)]
    sizes = [len(x) if count is None else len(count) for x, count in zip(embeddings, counts, strict=True)]
    is_list = [count is not None for count in counts[:lists_from]]  # of the columns that must not be
    wrong = ""
    if found < least or (most is not None and found > most) or dims not in label_dims:
        given = "no labels" if labels is None else f"labels of shape {list(labels.shape)}"
        wrong = f"got {found} column{'s' * (found != 1)} and {given}"
    elif any(is_list):
        wrong = f"one text per cell in column {is_list.index(True) + 1}, not a list"
    elif odd := [c for c, size in enumerate(sizes) if size != sizes[0]]:
        wrong = f"column {odd[0] + 1} has {len(embeddings[odd[0]])} embeddings for {sizes[0]} rows"
    elif labels is not None and len(labels) != sizes[0]:
        wrong = f"there are {len(labels)} labels for {sizes[0]} rows"
    if wrong:
        raise ValueError(f"{type(loss).__name__} takes {loss.columns}, labels {loss.labels}; {wrong}")


def counts_of(batch: Batch, column: int) -> Tensor | None:
    """Texts in each row of a column [rows], or None where every cell is one text."""
    return batch.counts[column] if batch.counts else None


def text_rows(column: Tensor, counts: Tensor | None) -> Tensor:
    """The row that each of the N texts of a column belongs to, [N]: 0, 1, 2 .., or 0, 0, 1 .. by `counts` [rows]."""
    if counts is None:
        return torch.arange(len(column), device=column.device)
    rows = torch.arange(len(counts), device=column.device)
    return torch.repeat_interleave(rows, counts.to(column.device), output_size=len(column))
