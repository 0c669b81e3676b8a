"""CSRLoss: what a SparseAutoEncoder behind an embedding model learns from (Wen et al. 2025, arXiv:2503.01776)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number
from minist.losses.base import Loss, check_columns
from minist.losses.sparse import SparseMultipleNegativesRankingLoss
from minist.losses.wrapper import Part, Wrapper
from minist.modules.sparse_autoencoder import SparseAutoEncoder


class CSRReconstructionLoss(Loss):
    """A few latents shall say what the embedding says, and the dead ones what those few leave over.

    With x the embeddings, x_k and x_4k what their k and 4k largest latents give, r = x - x_k + the decoder's bias what
    is left over, and r' what the dead latents give of it, all [N, D]; mse is a mean over texts and dimensions:
        reconstruction_loss_k     mse(x_k, x)
        reconstruction_loss_4k    mse(x_4k, x) / 8
        reconstruction_loss_aux   beta * mse(r', r) / mse(mean of r over texts, r)      x_k in r is held fixed

    Each is the mean over columns, of any number, without labels. The model must end in a SparseAutoEncoder. While no
    latent is dead r' is the bias, and the last part says how much of the embedding the k latents miss."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = number("beta", beta, least=0)

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        return SparseAutoEncoder.offers

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        for last in (model.stack.paths[model.stack.route(role)][-1] for role in roles):
            if last.offers != SparseAutoEncoder.offers:
                raise ValueError(f"CSRLoss needs a model that ends in a SparseAutoEncoder, this one has a {last.name}")

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        check_columns(self, embeddings, batch, 1, None, (0,), lists_from=0)
        x, x_k, x_4k, left_over, x_dead = (batch.extra[name] for name in SparseAutoEncoder.offers)  # of each column
        from_k, from_4k = (torch.stack(list(map(F.mse_loss, found, x))).mean() for found in (x_k, x_4k))
        from_dead = torch.stack(list(map(share_missed, x_dead, left_over))).mean()
        return {
            "reconstruction_loss_k": from_k,
            "reconstruction_loss_4k": from_4k / 8,
            "reconstruction_loss_aux": self.beta * from_dead,
        }


def share_missed(guess: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of [N, D]; the mean over texts, as a guess for each of them, would have 1."""
    spread = F.mse_loss(wanted.mean(0).expand_as(wanted), wanted)
    alike = (wanted == wanted[:1]).all() | (spread == 0)  # one text, or equal ones: then the plain error
    return F.mse_loss(guess, wanted) / torch.where(alike, 1.0, spread)


class CSRLoss(Wrapper):
    """CSRReconstructionLoss(beta) + gamma * another loss of the sparse embeddings, by default a
    SparseMultipleNegativesRankingLoss (Wen et al. 2025, arXiv:2503.01776).

    Columns and labels are those of the other loss, which is logged as base_loss."""

    def __init__(self, loss: Loss | None = None, beta: float = 0.1, gamma: float = 1.0) -> None:
        other = SparseMultipleNegativesRankingLoss() if loss is None else loss
        super().__init__(other, CSRReconstructionLoss(beta))
        self.gamma, self.class_names = number("gamma", gamma, least=0), other.class_names

    def parts(self, embeddings: Sequence[Tensor], batch: Batch) -> Iterator[Part]:
        yield Part("base_loss", self.gamma, self.inner[0], embeddings, batch)

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.inner[1](embeddings, batch._replace(labels=None))
        return parts | super().forward(embeddings, batch)
