"""WeightedSumLoss: several objectives on the same batch."""

from collections.abc import Sequence

from torch import Tensor, nn

from minist.batch import Batch
from minist.losses.base import Loss, total


class WeightedSumLoss(Loss):
    """loss = sum_k  w_k * L_k

    Every loss gets the same columns and labels. `weights` None is 1 for each.
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        """ValueError unless there are as many weights as losses, and if they need different guides."""
        super().__init__()
        weights = list(weights or [1.0] * len(losses))
        if not losses or len(weights) != len(losses):
            raise ValueError(f"there are {len(losses)} losses and {len(weights)} weights: give as many")
        guides = {loss.guide for loss in losses} - {""}
        if len(guides) > 1:
            raise ValueError("one of the losses wants a guide, another a teacher: a batch has one of them")
        self.losses, self.weights, self.guide = nn.ModuleList(losses), weights, "".join(guides)

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """What any of the losses wants."""
        wanted = [name for loss, _ in self._weighted() for name in loss.outputs(step, num_layers)]
        return tuple(dict.fromkeys(wanted))

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Embeddings [N, D] of each column -> one part per loss, called by its class and number."""
        parts = {}
        for i, (loss, weight) in enumerate(self._weighted()):
            parts[f"{type(loss).__name__}_{i}"] = weight * total(loss(embeddings, batch))
        return parts

    def _weighted(self) -> list[tuple[Loss, float]]:
        return [(loss, w) for loss, w in zip(self.losses, self.weights, strict=True) if isinstance(loss, Loss)]
