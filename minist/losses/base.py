"""What all losses have in common."""

import torch
from torch import Tensor, nn


class Loss(nn.Module):
    """`forward(embeddings, batch)` takes the embeddings [N, D] of each column, of all ranks' texts, and a Batch.

    It returns a scalar, or a dict of named scalars, which are summed and logged one by one.
    """

    guide = ""  # whose embeddings it reads in batch.guide: "guide" or "teacher", as the config's tables are called

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """What it wants in batch.extra at this step, beside the embeddings: for instance "layer 3", see stack.py."""
        return ()


def total(value: Tensor | dict[str, Tensor]) -> Tensor:
    """The scalar of a loss that may come in named parts."""
    return torch.stack(list(value.values())).sum() if isinstance(value, dict) else value
