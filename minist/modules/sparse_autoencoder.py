"""SparseAutoEncoder: an embedding [N, D] as a few of many latents [N, H], of which it can be put together again.

    z = (x - b) W^T + c       f = relu(the k largest of z, 0 elsewhere)       reconstruction of f:  f W + b

It makes a good embedding model a sparse one (CSR: Wen et al. 2025, arXiv:2503.01776). A latent that no text chooses
has no gradient and would never be chosen again: one that none chose for `dead_threshold` steps is dead, and learns
from what the k latents leave over (Gao et al. 2024, arXiv:2406.04093), see losses/sparse.py."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.checks import pick, whole
from minist.module import Module

TIED, OURS = "decoder.linear.weight", "encoder.weight"  # one matrix; a file has it under either name, we write TIED
COUNTS = "stats_last_nonzero"


class SparseAutoEncoder(Module):
    """Embeddings [N, D] -> [N, H], at most k of a row above 0; all of them where there are fewer than k."""

    gives, package = "sparse", "sentence_transformers.sparse_encoder.models"
    config_keys = tuple((key, key) for key in ("input_dim", "hidden_dim", "k", "k_aux", "normalize", "dead_threshold"))
    offers = ("input", "from k", "from 4k", "left over", "from dead")

    def __init__(
        self, input_dim: int, hidden_dim: int, k: int, k_aux: int, normalize: bool = False, dead_threshold: int = 30
    ) -> None:
        """At most `k_aux` dead latents learn from a text. `normalize`: of an embedding with mean 0 and deviation 1."""
        super().__init__()
        self.input_dim, self.hidden_dim = whole("input_dim", input_dim, 1), whole("hidden_dim", hidden_dim, 1)
        self.k, self.k_aux = whole("k", k, 1), whole("k_aux", k_aux, 0)
        self.normalize = pick("normalize", str(normalize), {"True": True, "False": False})
        self.dead_threshold = whole("dead_threshold", dead_threshold, 0)
        self.in_width, self.out_width = self.input_dim, self.hidden_dim
        self.encoder = nn.Linear(self.input_dim, self.hidden_dim, bias=False)
        self.latent_bias, self.pre_bias = nn.Parameter(torch.zeros(hidden_dim)), nn.Parameter(torch.zeros(input_dim))
        self.stats_last_nonzero: Tensor  # of each latent [H]: training steps since a text chose it
        self.register_buffer(COUNTS, torch.zeros(hidden_dim, dtype=torch.long), persistent=False)  # see to_folder

    def forward(self, x: Tensor) -> Tensor:
        return largest(self._latents(x)[0], self.k)

    def beside(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What forward gives, and what CSRLoss wants to see with it, [N, D] each, by the names in `offers`."""
        (z, mean, scale), b = self._latents(x), self.pre_bias
        chosen = largest(z, self.k)
        from_k, from_4k = ((f @ self.encoder.weight + b) * scale + mean for f in (chosen, largest(z, 4 * self.k)))
        left_over = x - (from_k - b * scale).detach()  # the dead follow the others, not they the dead
        dead = largest(z * (self.stats_last_nonzero > self.dead_threshold), self.k_aux)
        from_dead = (dead @ self.encoder.weight + b) * scale if self.k_aux else left_over  # which then costs 0
        return chosen, dict(zip(self.offers, (x, from_k, from_4k, left_over, from_dead), strict=True))

    def after_step(self, given: Sequence[Tensor]) -> None:
        chosen = torch.stack([(f > 1e-5).any(0) for f in given]).any(0)
        self.stats_last_nonzero.mul_(~chosen).add_(1)  # 1 for one that was chosen just now

    def _latents(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """z, and the mean and deviation that were taken from x."""
        mean, scale = (x.mean(1, keepdim=True), x.std(1, keepdim=True)) if self.normalize else (0.0, 1.0)
        y = (x - mean) / (scale + 1e-5) if self.normalize else x
        return F.linear(y - self.pre_bias, self.encoder.weight, self.latent_bias), mean, scale

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config, weights = super().to_folder()
        return config, weights | {TIED: weights.pop(OURS), COUNTS: self.stats_last_nonzero.cpu()}

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Module:
        weights = {OURS if name == TIED else name: weight for name, weight in weights.items()}
        counts = weights.pop(COUNTS).long()
        module = super().from_folder(config, weights)
        module.register_buffer(COUNTS, counts, persistent=False)
        return module


def largest(z: Tensor, k: int) -> Tensor:
    """relu of the k largest of each row [N, H], and 0 elsewhere."""
    top = z.topk(min(k, z.shape[1]))
    return torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
