"""AdaptiveLayerLoss: a model whose first layers alone give good embeddings too; Matryoshka2dLoss: both ways."""

import math
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.losses.base import Loss, total
from minist.losses.matryoshka import MatryoshkaLoss

LAYER_WEIGHTING = ("uniform", "log", "linear")


class AdaptiveLayerLoss(Loss):
    """Another loss at several depths (Li et al. 2024, arXiv:2402.14776).

    With e the embeddings of the whole model, e_l those where the pooling stands behind layer l, and S the layers
    that are drawn at this step (0 is the output of the token embeddings, the last layer is never drawn):

        loss = w_last * L(e)  +  sum_{l in S}  w_prior * c_l * L(e_l) / |S|
                                             + w_kl * T * KL(softmax(e / T) || softmax(e_l / T))

    c_l is 1 ("uniform"), 1 / (1 + ln(1 + l)) ("log") or 1 / (1 + l) ("linear"). KL is summed over dimensions and
    averaged over texts; its teacher e has no gradient. Columns and labels are those of the loss L.
    """

    def __init__(
        self,
        loss: Loss,
        n_layers_per_step: int = 1,
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_div_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: str = "uniform",
    ) -> None:
        """`n_layers_per_step` -1 takes all layers, `kl_temperature` 0 leaves KL out. ValueError for anything else."""
        super().__init__()
        if layer_weighting not in LAYER_WEIGHTING:
            raise ValueError(f"layer_weighting is {layer_weighting!r}, known are {', '.join(LAYER_WEIGHTING)}")
        if n_layers_per_step < 1 and n_layers_per_step != -1:
            raise ValueError(f"n_layers_per_step is {n_layers_per_step}: use 1 or more, or -1 for all layers")
        self.loss, self.n_layers_per_step, self.layer_weighting = loss, n_layers_per_step, layer_weighting
        self.last_layer_weight, self.prior_layers_weight = last_layer_weight, prior_layers_weight
        self.kl_div_weight, self.kl_temperature, self.guide = kl_div_weight, kl_temperature, loss.guide

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        """The layers that are drawn, and what the loss inside wants. ValueError for a model without layers."""
        if num_layers < 1:
            raise ValueError("AdaptiveLayerLoss needs an encoder with layers on every route")
        layers = list(range(num_layers))
        if 0 < self.n_layers_per_step < num_layers:
            layers = random.Random(step).sample(layers, self.n_layers_per_step)
        return (*(f"layer {layer}" for layer in layers), *self.loss.outputs(step, num_layers))

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        """Embeddings [N, D] of each column, those of layers in batch.extra -> parts: the last layer, the others, KL."""
        layers = {int(name.split()[1]): x for name, x in batch.extra.items() if name.startswith("layer ")}
        parts = {"last_layer": self.last_layer_weight * total(self.loss(embeddings, batch))}
        for layer, shallow in layers.items():
            weight = self.prior_layers_weight * self._layer_weight(layer) / len(layers)
            parts[f"layer_{layer}"] = weight * total(self.loss(shallow, batch))
            if self.kl_temperature > 0:
                parts[f"layer_{layer}_kl"] = self.kl_div_weight * self._divergence(embeddings, shallow)
        return parts

    def _layer_weight(self, layer: int) -> float:
        return {"uniform": 1.0, "log": 1 / (1 + math.log(1 + layer)), "linear": 1 / (1 + layer)}[self.layer_weighting]

    def _divergence(self, embeddings: Sequence[Tensor], shallow: Sequence[Tensor]) -> Tensor:
        t = self.kl_temperature
        teacher = F.softmax(torch.cat(list(embeddings)).detach() / t, dim=-1)
        student = F.log_softmax(torch.cat(list(shallow)) / t, dim=-1)
        return t * F.kl_div(student, teacher, reduction="batchmean")


class Matryoshka2dLoss(AdaptiveLayerLoss):
    """AdaptiveLayerLoss(MatryoshkaLoss(L)): several depths and several widths (Li et al. 2024, arXiv:2402.14776).

    One layer and one dimension are drawn at each step, unless `n_layers_per_step` and `n_dims_per_step` say more.
    """

    def __init__(
        self,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_layers_per_step: int = 1,
        n_dims_per_step: int = 1,
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_div_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: str = "uniform",
    ) -> None:
        """See both losses for the arguments."""
        super().__init__(
            MatryoshkaLoss(loss, matryoshka_dims, matryoshka_weights, n_dims_per_step),
            n_layers_per_step,
            last_layer_weight,
            prior_layers_weight,
            kl_div_weight,
            kl_temperature,
            layer_weighting,
        )
