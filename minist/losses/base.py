"""What all losses have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minist.batch import Batch


class Loss(nn.Module):
    """`forward(embeddings, batch)` takes the embeddings [N, D] of each column, of all ranks' texts, and a Batch.

    It returns a scalar, or a dict of named scalars, which are summed and logged one by one.

    A loss over tokens is of another kind: `forward(model, columns, roles)` takes this rank's texts and gives the sum
    of its tokens' losses, `count(columns)` says of how many tokens; see training/step.py.
    """

    columns = "any number of columns"  # what it takes, in words, for messages
    labels = "none"
    guide = ""  # whose embeddings it reads in batch.guide: "guide" or "teacher", as the config's tables are called
    over_tokens = False
    class_names = True  # whether labels may be names of classes; else they are numbers

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """What it wants in batch.extra at this step, beside the embeddings: for instance "layer 3", see stack.py."""
        return ()

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        """Called once, when the model is there: for a loss with weights that take their shape from it.

        `roles` are those of the columns; `checkpoint` holds the weights of the file that the model was read from.
        """

    def count(self, columns: Sequence[Any]) -> int:
        """Of a loss over tokens: how many."""
        raise NotImplementedError

    @torch.no_grad()
    def check(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        """ValueError, in words, if the loss cannot take such columns and labels; called with zeros before the run."""
        self(embeddings, batch)


def total(value: Tensor | dict[str, Tensor]) -> Tensor:
    """The scalar of a loss that may come in named parts."""
    return torch.stack(list(value.values())).sum() if isinstance(value, dict) else value
