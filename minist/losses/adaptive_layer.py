"""AdaptiveLayerLoss: a model whose first layers alone give good embeddings too; Matryoshka2dLoss: both ways."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Loss, Tensors
from minist.losses.matryoshka import MatryoshkaLoss
from minist.losses.wrapper import Part, Wrapper

LAYER_WEIGHTING: dict[str, Callable[[int], float]] = {  # c_l of layer l
    "uniform": lambda layer: 1.0,
    "log": lambda layer: 1 / (1 + math.log(1 + layer)),
    "linear": lambda layer: 1 / (1 + layer),
}


class AdaptiveLayerLoss(Wrapper):
    """Another loss L, with its columns and labels, at several depths (Li et al. 2024, arXiv:2402.14776). With e the
    embeddings of the whole model, e_l those where the pooling stands behind layer l, and S the layers that are drawn
    at this step (0 is the output of the token embeddings, the last layer is never drawn):
        loss = w_last * L(e)  +  sum_{l in S}  w_prior * c_l * L(e_l) / |S|
                                             + w_kl * T * KL(softmax(e / T) || softmax(e_l / T))
    c_l is by LAYER_WEIGHTING. KL is summed over dimensions and averaged over texts; its teacher e has no gradient."""

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
        """`n_layers_per_step` -1 takes all layers, `kl_temperature` 0 leaves KL out."""
        super().__init__(loss)
        self.layer_weight = pick("layer_weighting", layer_weighting, LAYER_WEIGHTING)
        if n_layers_per_step != -1:
            number("n_layers_per_step (-1 for all layers)", n_layers_per_step, least=1)
        self.n_layers_per_step, self.kl_div_weight = n_layers_per_step, kl_div_weight
        self.last_layer_weight, self.prior_layers_weight = last_layer_weight, prior_layers_weight
        self.kl_temperature = number("kl_temperature", kl_temperature, least=0)

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        if num_layers < 1:
            raise ValueError("AdaptiveLayerLoss needs an encoder with layers on every route")
        layers = self.draw("layers", step, range(num_layers), self.n_layers_per_step)
        return (*(f"layer {layer}" for layer in layers), *super().outputs(step, num_layers))

    def parts(self, embeddings: Tensors, batch: Batch) -> Iterator[Part]:
        layers = _layers(batch)  # the loss inside sees one depth at a time
        batch = batch._replace(extra={k: x for k, x in batch.extra.items() if not k.startswith("layer ")})
        yield "last_layer", self.last_layer_weight, self.inner[0], embeddings, batch
        for layer, shallow in layers.items():
            weight = self.prior_layers_weight * self.layer_weight(layer) / len(layers)  # however many are drawn
            yield f"layer_{layer}", weight, self.inner[0], shallow, batch

    def forward(self, embeddings: Tensors, batch: Batch) -> dict[str, Tensor]:
        found, t = super().forward(embeddings, batch), self.kl_temperature
        if t > 0:
            teacher = F.softmax(torch.cat(list(embeddings)).detach() / t, dim=-1)  # layers follow it, not it them
            for layer, shallow in _layers(batch).items():
                student = F.log_softmax(torch.cat(list(shallow)) / t, dim=-1)
                divergence = F.kl_div(student, teacher, reduction="batchmean")  # batchmean: a sum over dimensions
                found[f"layer_{layer}_kl"] = self.kl_div_weight * t * divergence
        return found


def _layers(batch: Batch) -> dict[int, tuple[Tensor, ...]]:
    """Layer -> the embeddings that the model would give behind it, of each column."""
    return {int(name.split()[1]): x for name, x in batch.extra.items() if name.startswith("layer ")}


class Matryoshka2dLoss(AdaptiveLayerLoss):
    """AdaptiveLayerLoss(MatryoshkaLoss(L)): several depths and several widths (Li et al. 2024, arXiv:2402.14776)."""

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
        widths = MatryoshkaLoss(loss, matryoshka_dims, matryoshka_weights, n_dims_per_step)
        weights = last_layer_weight, prior_layers_weight, kl_div_weight
        super().__init__(widths, n_layers_per_step, *weights, kl_temperature, layer_weighting)
