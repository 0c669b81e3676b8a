"""One training step: from a batch to the gradient of its loss in all parameters, averaged over ranks.
    plain_step         all texts at once: embed, loss, backward
    mini_batched_step  the same gradient in the memory of a few texts, see gradcache.py
    token_step         for a loss that is a sum over tokens, and no function of all embeddings
Each rank embeds its share of the batch, and computes the loss of the whole batch, see collectives.py."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minist import collectives, distributed
from minist.batch import Batch
from minist.data.packed import Packed, split_points
from minist.losses.base import Loss, total
from minist.models.text_model import TextModel
from minist.training.gradcache import gradcache


class Setup(NamedTuple):
    """With what gradients are computed."""

    model: TextModel
    wrapped: nn.Module  # the same, whose backward averages gradients over ranks; not in mini-batches
    scaler: torch.amp.GradScaler  # in float16 the loss is scaled up, else small gradients become 0
    autocast: torch.dtype | None  # the half type of forward and backward, if there is one
    max_tokens: int  # of a mini-batch; 0: no mini-batches
    fsdp: bool = False  # each rank holds a share of the weights, see sharding.py

    def passes(self, n: int) -> int:
        """Of `n` mini-batches of this rank: how many it makes. Weights in shares are gathered in each pass, so ranks
        make as many as the one that has the most; those beyond their own have no texts, and a gradient of zero."""
        return int(collectives.gather(torch.tensor([n], device=self.model.device)).max()) if self.fsdp else n

    def to_average(self, loss: Loss) -> list[nn.Parameter]:
        """The parameters whose gradients nobody averages while backward makes them."""
        return [*(() if self.fsdp else self.model.parameters()), *loss.parameters()]

    def half(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, self.autocast, enabled=self.autocast is not None)


class Objective:
    """The loss as a function of this rank's embeddings. It remembers what there is to report of them."""

    def __init__(self, loss: Loss, batch: Batch, weight: float = 1.0, outputs: Sequence[str] = ()) -> None:
        self.loss, self.batch, self.weight = loss, batch, weight
        self.outputs = outputs  # what stands beside each embedding, because the loss asked for it
        self.embeddings: list[Tensor] = []  # of all ranks, [N, D] per column
        self.parts: dict[str, Tensor] = {}  # of a loss that has several: they add up to the value
        self.value = torch.tensor(0.0)

    def __call__(self, columns: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Per column the embeddings [n, D] of this rank's texts, and the outputs beside them -> scalar."""
        # half types are raised before the exchange: sums over a large batch need the digits
        raised = [[x if x.dtype == torch.float64 else x.float() for x in column] for column in columns]
        gathered = [[collectives.gather(x) for x in column] for column in raised]
        self.embeddings = [column[0] for column in gathered]
        extra = {name: tuple(column[i] for column in gathered) for i, name in enumerate(self.outputs, 1)}
        with torch.autocast(self.embeddings[0].device.type, enabled=False):  # the loss itself is always exact
            value = self.loss(self.embeddings, self.batch._replace(extra=extra))
        if isinstance(value, dict):
            self.parts = {name: (part * self.weight).detach() for name, part in value.items()}
        value = total(value) * self.weight
        self.value = value.detach()
        return value


def plain_step(setup: Setup, objective: Objective, seed: int) -> None:
    """All activations are kept for backward. `seed` is that of the dropout."""
    torch.manual_seed(seed)
    with setup.half():
        embeddings = setup.wrapped(objective.batch.columns, objective.batch.roles, objective.outputs)
    setup.scaler.scale(objective(embeddings)).backward()  # DDP exchanges the model's gradients as they are made
    collectives.average_gradients(objective.loss.parameters())


def mini_batched_step(setup: Setup, objective: Objective, seed: int) -> None:
    """Embedded twice, mini-batch by mini-batch, and only the embeddings are kept in between."""
    columns, roles, *_ = objective.batch

    def embed(texts: Packed, column: int) -> tuple[Tensor, ...]:
        with setup.half():
            return setup.model([texts], [roles[column]], objective.outputs)[0]

    def scaled(embeddings: list[tuple[Tensor, ...]]) -> Tensor:
        return setup.scaler.scale(objective(embeddings))

    gradcache(embed, columns, scaled, setup.max_tokens, seed, setup.passes)
    # once, behind the last mini-batch: a rank with fewer of them, or with none, then waits for nobody before
    collectives.average_gradients(setup.to_average(objective.loss))


def token_step(setup: Setup, objective: Objective, seed: int) -> None:
    """loss = sum over the rows of all ranks of their tokens' losses  /  number of tokens of all ranks
    Each row adds its own part, so nothing is gathered or computed twice: a mini-batch goes forward and backward at
    once, and is forgotten. Only the number of tokens must be known before."""
    (columns, roles, *_), loss, model = objective.batch, objective.loss, setup.model
    count = collectives.gather(torch.tensor([loss.count(columns)], device=model.device)).sum().clamp(min=1)
    value = torch.zeros((), dtype=model.dtype, device=model.device)
    torch.manual_seed(seed)
    parts = list(mini_batches(columns, setup.max_tokens))
    parts += [tuple(column.slice(0, 0) for column in columns)] * (setup.passes(len(parts)) - len(parts))
    for part in parts:
        with setup.half():
            mean = objective.weight * model.stack.within(partial(loss, model, part, roles)) / count
        # times W: each rank adds its own rows only, and the average over ranks would divide their sum by W
        setup.scaler.scale(mean * distributed.world_size()).backward()
        value += mean.detach()
    objective.value = collectives.gather(value[None]).sum()
    collectives.average_gradients(setup.to_average(loss))


def mini_batches(columns: Sequence[Packed], max_tokens: int) -> Iterator[tuple[Packed, ...]]:
    """Consecutive rows of all columns, at most `max_tokens` tokens or one row at a time; 0: all rows at once."""
    lengths = torch.stack([column.lengths for column in columns]).sum(0).tolist()
    for a, b in pairwise(split_points(lengths, max_tokens or sum(lengths))):
        yield tuple(column.slice(a, b) for column in columns)
