"""One [[data]] entry, ready to train on: rows in, a Batch out."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from minist import distributed
from minist.batch import Batch
from minist.data.dataset import ColumnSpec, Dataset, dataset_folder, prepare_dataset
from minist.data.packed import Packed
from minist.data.transforms import delete_words, draw_pairs, word_starts
from minist.losses.autoencoder import DenoisingAutoEncoderLoss
from minist.losses.base import Loss
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.config import PARTNER
from minist.training.guide import Guide


def open_dataset(
    files: Sequence[Path],
    columns: Mapping[str, str],
    label: str,
    model: SentenceTransformer,
    roles: Mapping[str, str],
    prompts: Mapping[str, str],
    cache: Path,
) -> Dataset:
    """Tokenize for `model`, on the first rank of each machine, unless that was done before; open it on all ranks.

    `columns` is our name -> the file's, `roles` and `prompts` go by our names.
    """
    specs = {
        name: ColumnSpec(source, model.tokenizer_for(roles.get(name)), prompts.get(name, ""))
        for name, source in columns.items()
    }
    folder = dataset_folder(files, specs, label, cache)
    distributed.prepare_once(folder / "meta.json", lambda: prepare_dataset(files, specs, label, cache))
    return Dataset(folder)


def check_roles(model: SentenceTransformer, roles: Mapping[str, str], columns: Sequence[str], where: str) -> None:
    """ValueError if a model with routes is not told which one each column takes, or a role is no route."""
    unknown = [role for role in roles.values() if model.routes and role not in model.routes]
    if unknown:
        raise ValueError(f"config: roles in {where} name {unknown[0]!r}, the model has {', '.join(model.routes)}")
    if model.routes and not roles:
        example = ", ".join(f'{name} = "{model.routes[min(i, 1)]}"' for i, name in enumerate(columns))
        raise ValueError(f"config: the model has routes, so {where} must say who takes which: roles = {{ {example} }}")


def balance(tokens: Tensor, world: int) -> Tensor:
    """An order of n rows whose `world` shares, as tensor_split makes them, have about equally many tokens: [n] -> [n].

    Ranks wait for one another in every step, and random shares of mixed texts differ by a tenth or two. From the
    longest on, each row goes to the rank with the fewest tokens so far. With one rank nothing changes.
    """
    if world == 1:
        return torch.arange(len(tokens))
    room = [len(share) for share in tokens.tensor_split(world)]
    shares: list[list[int]] = [[] for _ in room]
    totals = [0] * world
    for row in tokens.argsort(descending=True, stable=True).tolist():
        rank = min((r for r in range(world) if len(shares[r]) < room[r]), key=lambda r: totals[r])
        shares[rank].append(row)
        totals[rank] += int(tokens[row])
    return torch.tensor([row for share in shares for row in sorted(share)], dtype=torch.long)


class TrainingSet:
    """The rows of one data set, with what is drawn anew each epoch, and what a guide says of them."""

    def __init__(
        self, dataset: Dataset, roles: Mapping[str, str], device: torch.device, *, seed: int = 0, pairs: int = 0
    ) -> None:
        """Labels and counts come to `device`. `pairs` is the ratio of draw_pairs, see transforms.py; 0: draw none."""
        self.dataset, self.device, self.seed, self.pairs = dataset, device, seed, pairs
        self.names = [*dataset.names, PARTNER] if pairs else dataset.names
        known = {PARTNER: roles.get(dataset.names[0])} | dict(roles)  # the partner is a text of the same column
        self.roles = tuple(known.get(name) for name in self.names)
        self.guide: Guide | None = None
        self.deleted: dict[str, tuple[float, Tensor, Tensor]] = {}
        self._drawn = lru_cache(maxsize=1)(lambda epoch: draw_pairs(len(dataset), pairs, seed, epoch))

    def delete_words(self, column: str, ratio: float, model: SentenceTransformer) -> None:
        """From now on delete this share of the column's words, others in every epoch."""
        role = self.roles[self.names.index(column)]
        self.deleted[column] = (ratio, *word_starts(model.tokenizer_for(role)))

    def batch(self, rows: Tensor, epoch: int, step: int, progress: float) -> Batch:
        """The Batch of these rows, ordered so that ranks have equal work; its columns are this rank's share."""
        rows = rows[balance(self.dataset.tokens(rows), distributed.world_size())]
        share = rows.tensor_split(distributed.world_size())[distributed.rank()]
        columns, counts, labels = self._columns(share, epoch), self.dataset.counts(rows), self.dataset.labels(rows)
        if self.pairs:
            partner, label = self._drawn(epoch)
            columns, counts, labels = columns + self._columns(partner[share], epoch), counts * 2, label[rows]
        guide = self.guide.embed(rows, share) if self.guide else ()
        labels = None if labels is None else labels.to(self.device)
        counts = tuple(None if n is None else n.to(self.device) for n in counts)
        return Batch(columns, self.roles, labels, counts, guide, progress=progress, step=step)

    def _columns(self, rows: Tensor, epoch: int) -> tuple[Packed, ...]:
        columns = dict(zip(self.dataset.names, self.dataset.take(rows), strict=True))
        for name, (ratio, starts, special) in self.deleted.items():
            columns[name] = delete_words(columns[name], rows, starts, special, ratio, self.seed, epoch)
        return tuple(columns.values())

    def check(self, loss: Loss, model: SentenceTransformer, batch_size: int, where: str) -> None:
        """ValueError, with what it takes, if a loss cannot take these columns and labels: tried on zeros."""
        rows = torch.arange(min(batch_size, len(self.dataset)))
        counts, labels = self.dataset.counts(rows), self.dataset.labels(rows)
        if self.pairs:
            counts, labels = counts * 2, torch.ones(len(rows))
        zeros = [torch.zeros(len(rows) if n is None else int(n.sum()), model.width) for n in counts]
        guide = tuple(torch.zeros(len(x), self.guide.model.width) for x in zeros) if self.guide else ()
        batch = Batch((), self.roles, labels, counts, guide)
        try:
            if isinstance(loss, DenoisingAutoEncoderLoss):  # which would want tokens too
                return loss.check(zeros, batch)
            extra = {name: tuple(zeros) for name in loss.outputs(0, model.num_layers)}
            with torch.no_grad():
                loss.cpu()(zeros, batch._replace(extra=extra))
        except ValueError as e:
            raise ValueError(f"config: {where}: {e}") from None
        loss.to(self.device)
