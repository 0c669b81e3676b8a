"""The gradient of an objective that is a sum over tokens, not a function of all embeddings.

    loss = sum over the rows of all ranks of their tokens' losses  /  number of tokens of all ranks

Each row adds its own part, so nothing is gathered and nothing is computed twice: a mini-batch goes forward and
backward at once, and is forgotten. Only the number of tokens must be known before, on all ranks; then neither
mini-batches nor ranks change the result.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from minist import distributed
from minist.batch import Batch
from minist.data.packed import Packed, split_points
from minist.encoders.encoder import Encoder
from minist.encoders.weights import modernize
from minist.losses.autoencoder import DenoisingAutoEncoderLoss, count_written
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.weight_files import read_weights
from minist.modules.decoder import HEADS
from minist.training.objective import Objective

MEASURED_TOKENS = 4096  # at once, where no gradient is wanted: each written one has a score for every word


def token_step(
    model: SentenceTransformer,
    objective: Objective,
    max_tokens: int,
    autocast: torch.dtype | None,
    scaler: torch.amp.GradScaler,
) -> None:
    """Adds the gradient to all parameters, averaged over ranks, and the loss to the objective.

    A mini-batch has at most `max_tokens` tokens, those of both columns together, or one row; 0: one pass. Gradients are
    averaged here, since the tied layers are used outside of the model's forward, where DDP does not see them.
    """
    loss, batch, device = objective.loss, objective.batch, model.device
    encoder = reader(model, batch.roles[0])
    written = torch.tensor([count_written(batch.columns[1])], device=device)
    written = distributed.gather(written).sum().clamp(min=1)  # of all ranks
    total = torch.zeros((), dtype=model.dtype, device=device)
    for damaged, original in mini_batches(batch.columns, max_tokens):
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            ((embeddings,),) = model([damaged], batch.roles[:1])
            value = objective.weight * loss(encoder, embeddings, original) / written
        # the average over ranks divides by their number
        scaler.scale(value * distributed.world_size()).backward()
        total = total + value.detach()
    distributed.average_gradients([*model.parameters(), *loss.parameters()])
    objective.value = distributed.gather(total[None]).sum()


@torch.no_grad()
def token_loss(model: SentenceTransformer, loss: DenoisingAutoEncoderLoss, batch: Batch) -> Tensor:
    """The loss of a batch without a gradient: the mean over the tokens of all ranks."""
    encoder = reader(model, batch.roles[0])
    found = torch.zeros(2, dtype=model.dtype, device=model.device)  # sum, and number of tokens
    for damaged, original in mini_batches(batch.columns, MEASURED_TOKENS):
        ((embeddings,),) = model([damaged], batch.roles[:1])
        found[0] += loss(encoder, embeddings, original)
        found[1] += count_written(original)
    total, written = distributed.gather(found[None]).sum(0)
    return total / written.clamp(min=1)


def mini_batches(columns: Sequence[Packed], max_tokens: int) -> Iterator[tuple[Packed, ...]]:
    """Consecutive rows of all columns, at most `max_tokens` tokens or one row at a time; 0: all rows at once."""
    lengths = torch.stack([column.lengths for column in columns]).sum(0).tolist()
    for a, b in pairwise(split_points(lengths, max_tokens or sum(lengths))):
        yield tuple(column.slice(a, b) for column in columns)


def reader(model: SentenceTransformer, role: str | None) -> nn.Module:
    """The module that reads the tokens of texts of that role."""
    return model.stack.paths[model.stack.route(role)][0]


def attach_decoder(
    loss: DenoisingAutoEncoderLoss, model: SentenceTransformer, roles: Sequence[str | None], folder: Path | None
) -> None:
    """Make the decoder of the encoder that reads the first column. `roles` are those of the columns; `folder` is where
    the model was read, None for random weights: a checkpoint of a masked language model holds a head for the decoder.

    ValueError for an encoder that cannot be made a decoder, and for columns that are not of one vocabulary.
    """
    if len({id(model.tokenizer_for(role)) for role in roles}) > 1:
        raise ValueError("config: DenoisingAutoEncoderLoss takes two columns of one route: give both the same role")
    encoder = reader(model, roles[0])
    loss.attach(encoder, model.width)
    loss.to(model.device)
    if folder is None or (folder / "modules.json").exists():  # saved as a model of embeddings: that has no head
        return
    assert loss.decoder is not None and isinstance(encoder, Encoder)
    state = modernize(read_weights(folder), "")
    if f"{HEADS[encoder.model_type][0]}.weight" in state:
        loss.decoder.load_head(state, encoder.model_type)
