"""Losses of sparse encoders: prices on the weights, dense losses by sparse defaults, and those of an autoencoder."""
# ruff: noqa: N802 - the functions are called like the classes of sentence-transformers

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number, pick
from minist.files import read_json
from minist.losses.base import Loss, Tensors, check_columns
from minist.losses.contrastive import MultipleNegativesRankingLoss
from minist.losses.distillation import DistillKLDivLoss, MarginMSELoss, MSELoss
from minist.losses.pairs import AnglELoss, CoSENTLoss, CosineSimilarityLoss
from minist.losses.triplets import TripletLoss
from minist.losses.wrapper import Part, Wrapper
from minist.modules.sparse_autoencoder import SparseAutoEncoder
from minist.modules.static_embedding import SparseStaticEmbedding


class FlopsLoss(Loss):
    """Few texts shall use the same word, so that a search reads short lists (Paria et al. 2020, arXiv:2004.05665).
        loss = sum over words j of  ( mean over texts i of |w_ij| )^2
    Columns: any number, whose texts count together; no labels. If word j is in a share p_j of the texts, a query and a
    document share it with probability p_j^2: the loss is a smooth form of what one comparison costs. A text with at
    most `threshold` words counts as zeros, for it is sparse enough (Shen et al. 2025, arXiv:2504.14839)."""

    def __init__(self, threshold: float | None = None) -> None:
        super().__init__()
        self.threshold = -1.0 if threshold is None else number("threshold", threshold, least=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, 1, None, (0,), lists_from=0)
        x = torch.cat(list(embeddings)) if len(embeddings) > 1 else embeddings[0]
        weights = torch.where(x < 0, -x, x)  # |x|, but with slope 1 at 0, and not 0
        return self.cost(weights * (weights.count_nonzero(1) > self.threshold)[:, None])

    def cost(self, weights: Tensor) -> Tensor:
        """Of weights [N, V], none below 0."""
        return weights.mean(0).square().sum()


class L1Loss(FlopsLoss):
    """mean over texts i of  sum_j |w_ij|      which counts all words alike, however many texts use them"""

    def cost(self, weights: Tensor) -> Tensor:
        return weights.sum(1).mean()


class IDFFlopsLoss(FlopsLoss):
    """FlopsLoss to which rare words cost less, after the idea of Geng et al. 2024, arXiv:2411.04403.
        loss = sum over words j of  ( mean over texts i of |w_ij|  /  max(idf_j, 1) )^2
    A word like "the" finds every text, one like "mutex" a few: FLOPS alone holds both down by the same force. idf_j is
    about log(M / m) for a word in m of M texts: those in more than a third of the texts cost what they do by FLOPS."""

    def __init__(self, idf: str | Sequence[float], threshold: float | None = None) -> None:
        """`idf` is a file idf.json, token -> idf, such as a SparseStaticEmbedding is made of; or V numbers."""
        super().__init__(threshold)
        self.file, self.idf = idf, torch.tensor([] if isinstance(idf, str) else idf)

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        if isinstance(self.file, str):  # with the tokenizer of what it is for, which is the last column
            table = read_json(Path(self.file))
            self.idf = SparseStaticEmbedding.from_table(table, model.tokenizer_for(roles[-1])).weight.detach()

    def cost(self, weights: Tensor) -> Tensor:
        if len(self.idf) != weights.shape[1]:
            raise ValueError(f"IDFFlopsLoss has the idf of {len(self.idf)} words, the model has {weights.shape[1]}")
        return super().cost(weights.mean(0, keepdim=True) / self.idf.to(weights).clamp(min=1))


class SpladeLoss(Wrapper):
    """Another loss, and a price on the weights (Formal et al. 2021, arXiv:2107.05720; 2022, arXiv:2205.04733).
        loss = base_loss  +  c w_d R_d(documents)  +  c w_q R_q(queries)        c = min(1, progress / warmup_ratio)^2
    Columns and labels are those of the other loss; column 0 is the query, unless `use_document_regularizer_only`. c
    rises ("linear": without the square), since a price from the start makes all weights 0, which have no gradient."""

    def __init__(
        self,
        loss: Loss,
        document_regularizer_weight: float,
        query_regularizer_weight: float | None = None,
        document_regularizer: str | Loss = "flops",
        query_regularizer: str | Loss = "flops",
        document_regularizer_threshold: float | None = None,
        query_regularizer_threshold: float | None = None,
        use_document_regularizer_only: bool = False,
        scheduler: str = "quadratic",
        warmup_ratio: float = 1 / 3,
    ) -> None:
        """A regularizer is "flops" or "l1", with its threshold, or a loss of one column without labels."""
        given = (document_regularizer, document_regularizer_threshold), (query_regularizer, query_regularizer_threshold)
        known = {"flops": FlopsLoss, "l1": L1Loss}
        regularizers = [x if isinstance(x, Loss) else pick("regularizer", x, known)(t) for x, t in given]
        super().__init__(loss, *regularizers)
        self.class_names, self.documents_only = loss.class_names, use_document_regularizer_only
        if self.documents_only and query_regularizer_weight is not None:
            raise ValueError("use_document_regularizer_only leaves no queries: give no query_regularizer_weight")
        self.document_weight = number("document_regularizer_weight", document_regularizer_weight, least=0)
        self.query_weight = query_regularizer_weight and number("query_regularizer_weight", query_regularizer_weight, 0)
        self.power = pick("scheduler", scheduler, {"quadratic": 2, "linear": 1})
        self.warmup_ratio = number("warmup_ratio", warmup_ratio, 0, 1)

    def parts(self, embeddings: Tensors, batch: Batch) -> Iterator[Part]:
        ramp = 1.0 if batch.progress >= self.warmup_ratio else (batch.progress / self.warmup_ratio) ** self.power
        texts = batch._replace(labels=None, counts=(), guide=())  # a text is in no row now
        yield "base_loss", 1.0, self.inner[0], embeddings, batch
        found = torch.cat(list(embeddings if self.documents_only else embeddings[1:]))
        yield "document_regularizer_loss", ramp * self.document_weight, self.inner[1], [found], texts
        if self.query_weight is not None:
            yield "query_regularizer_loss", ramp * self.query_weight, self.inner[2], embeddings[:1], texts


SparseAnglELoss, SparseCoSENTLoss, SparseCosineSimilarityLoss = AnglELoss, CoSENTLoss, CosineSimilarityLoss  # as dense
SparseMarginMSELoss, SparseMSELoss, SparseTripletLoss = MarginMSELoss, MSELoss, TripletLoss


def SparseMultipleNegativesRankingLoss(
    scale: float = 1.0,  # dot products of sparse embeddings are large enough
    similarity_fct: str = "dot",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    hardness_mode: str | None = None,
    hardness_strength: float = 0.0,
) -> Loss:
    options = directions, partition_mode, hardness_mode, hardness_strength
    return MultipleNegativesRankingLoss(scale, similarity_fct, *options)


def SparseDistillKLDivLoss(
    similarity_fct: str = "dot",
    temperature: float = 2.0,
    student_temperature: float | None = None,
    teacher_temperature: float | None = None,
) -> Loss:
    return DistillKLDivLoss(similarity_fct, temperature, student_temperature, teacher_temperature)


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

    def forward(self, embeddings: Tensors, batch: Batch) -> dict[str, Tensor]:
        check_columns(self, embeddings, batch, 1, None, (0,), lists_from=0)
        x, x_k, x_4k, left_over, x_dead = (batch.extra[name] for name in SparseAutoEncoder.offers)  # of each column
        from_k, from_4k = (torch.stack(list(map(F.mse_loss, found, x))).mean() for found in (x_k, x_4k))
        from_dead = torch.stack(list(map(share_missed, x_dead, left_over))).mean()
        main = {"reconstruction_loss_k": from_k, "reconstruction_loss_4k": from_4k / 8}
        return main | {"reconstruction_loss_aux": self.beta * from_dead}


def share_missed(guess: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of [N, D]; the mean over texts, as a guess for each of them, would have 1."""
    spread = F.mse_loss(wanted.mean(0).expand_as(wanted), wanted)
    alike = (wanted == wanted[:1]).all() | (spread == 0)  # one text, or equal ones: then the plain error
    return F.mse_loss(guess, wanted) / torch.where(alike, 1.0, spread)


class CSRLoss(Wrapper):
    """CSRReconstructionLoss(beta) + gamma * another loss of the sparse embeddings, and of its columns and labels, by
    default a SparseMultipleNegativesRankingLoss (Wen et al. 2025, arXiv:2503.01776)."""

    def __init__(self, loss: Loss | None = None, beta: float = 0.1, gamma: float = 1.0) -> None:
        other = SparseMultipleNegativesRankingLoss() if loss is None else loss
        super().__init__(other, CSRReconstructionLoss(beta))
        self.gamma, self.class_names = number("gamma", gamma, least=0), other.class_names

    def parts(self, embeddings: Tensors, batch: Batch) -> Iterator[Part]:
        yield "base_loss", self.gamma, self.inner[0], embeddings, batch

    def forward(self, embeddings: Tensors, batch: Batch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.inner[1](embeddings, batch._replace(labels=None))
        return parts | super().forward(embeddings, batch)
