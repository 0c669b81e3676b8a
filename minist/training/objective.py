"""What is minimized at one step: the loss of all ranks' embeddings, the same number on every rank."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minist import distributed
from minist.batch import Batch
from minist.data.packed import Packed
from minist.losses.base import total
from minist.models.sentence_transformer import SentenceTransformer


class Objective:
    """A function of this rank's embeddings; remembers what there is to report of them."""

    def __init__(self, loss: nn.Module, batch: Batch, weight: float = 1.0, outputs: Sequence[str] = ()) -> None:
        """`outputs`: what stands beside each embedding, in the same row, because the loss asked for it."""
        self.loss, self.batch, self.weight, self.outputs = loss, batch, weight, outputs
        self.embeddings: list[Tensor] = []  # of all ranks, [N, D] per column
        self.parts: dict[str, Tensor] = {}  # of a loss that has several
        self.value = torch.tensor(0.0)

    def __call__(self, columns: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Per column the embeddings [n, D] of this rank's texts, and the outputs beside them -> scalar."""
        # half types are raised before the exchange, and float64 stays what it is
        raised = [[x if x.dtype == torch.float64 else x.float() for x in column] for column in columns]
        gathered = [[distributed.gather(x) for x in column] for column in raised]
        self.embeddings = [column[0] for column in gathered]
        extra = {name: tuple(column[i] for column in gathered) for i, name in enumerate(self.outputs, 1)}
        self.batch = self.batch._replace(extra=extra)
        with torch.autocast(self.embeddings[0].device.type, enabled=False):
            value = self.loss(self.embeddings, self.batch)
        if isinstance(value, dict):
            self.parts = {name: part.detach() for name, part in value.items()}
        value = total(value) * self.weight
        self.value = value.detach()
        return value


@torch.no_grad()
def embed_in_parts(
    model: SentenceTransformer, columns: Sequence[Packed], roles: Sequence[str | None], outputs: Sequence[str] = ()
) -> list[tuple[Tensor, ...]]:
    """Embeddings [n, D] of each column, and `outputs`, without a graph, in the memory of a few texts."""
    found = []
    for column, role in zip(columns, roles, strict=True):
        parts = column.split(model.default_batch_tokens) or [column]
        pieces = zip(*(model([part], [role], outputs)[0] for part in parts), strict=True)
        found.append(tuple(torch.cat(piece).float() for piece in pieces))
    return found


def check_finite(value: Tensor, norm: Tensor, scaler: torch.amp.GradScaler, where: str) -> None:
    """ValueError if a loss, or the norm of its gradient, is no number. `where` names step and data set.

    In float16 a gradient may be too large: the scaler leaves that step out and scales less, until it cannot.
    """
    if not math.isfinite(value.item()):
        raise ValueError(
            f"the loss is {value.item()} at {where}; the weights are still those before it: "
            "try a lower learning rate or another dtype, and look at that data set's rows and labels"
        )
    if not math.isfinite(norm.item()) and not (scaler.is_enabled() and scaler.get_scale() >= 1):
        raise ValueError(f"the gradient is not finite at {where}, though the loss is: try a lower learning rate")
