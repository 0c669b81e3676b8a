"""For a person to see that the data is what they meant: each column in figures, and rows as the model reads them."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from minist import distributed
from minist.batch import Batch
from minist.data.dataset import text_hashes
from minist.data.packed import ranges
from minist.data.rows import Column
from minist.data.samplers import Keys
from minist.data.text_column import spans
from minist.training.config import DataConfig
from minist.training.run import Run
from minist.training.task import Task

ROWS, TEXTS, NUMBERS = 2, 3, 6  # rows that are shown, texts of a list, numbers of a label
BLOCK = 4096  # rows that are looked at together
HEAD = ("column", "in the file", "role", "mean tokens", "longest", "cut", "empty", "in several rows")


def describe_rows(run: Run, entry: DataConfig, task: Task) -> Iterator[str]:
    """A table of the columns, and some rows. All ranks call it, since a guide embeds texts together."""
    data, loss, model = task.rows.dataset, task.loss, run.trained.model
    yield f"\n{entry.where}: {type(loss).__name__} takes {loss.columns}, in order; labels: {loss.labels}"
    hashes, cut, empty = hashes_of(task, entry), cuts(task), text_hashes(["", " "])
    lines = [HEAD]
    for name, column in zip(data.names, data.columns, strict=True):
        source, lengths = entry.columns[name], np.diff(column.offsets)
        _, times = np.unique(hashes[source], return_counts=True)
        numbers = (f"{lengths.mean():.1f}", f"{lengths.max():,}", f"{cut.get(name, 0) / len(column):.1%}")
        several = (f"{np.isin(hashes[source], empty).sum():,}", f"{times[times > 1].sum():,}")
        lines.append((name, str(source), entry.roles.get(name, "-"), *numbers, *several))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for cells in lines:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
    if "pairs" in cut:
        pairs = sum(map(len, data.columns[1:]))
        yield f"  {pairs:,} pairs of them, {cut['pairs'] / pairs:.1%} are cut at {model.max_length} tokens"
    yield from examples(run, task)


def hashes_of(task: Task, entry: DataConfig) -> dict[Column, np.ndarray]:
    """Hashes of the raw texts, of each column of the file; two of our columns may be the same one."""
    keys, data = task.rows.dataset.keys(), task.rows.dataset
    columns = dict(zip(entry.columns.values(), data.columns, strict=True))
    start, found = torch.from_numpy(keys.offsets[:-1].copy()), {}
    for source, column in columns.items():  # within a row they stand in this order
        counts = torch.ones_like(start) if column.rows is None else torch.from_numpy(np.diff(column.rows))
        found[source] = keys.hashes[ranges(start, counts).numpy()]
        start = start + counts
    return found


def cuts(task: Task) -> dict[str, int]:
    """How many texts are cut, by column, or how many "pairs"."""
    found: dict[str, int] = {}
    for rows in torch.arange(len(task.rows.dataset)).split(BLOCK):
        found = {name: found.get(name, 0) + n for name, n in task.rows.cut(rows).items()}
    return found


def sharing(keys: Keys, rows: Tensor) -> int:
    """How many of these rows have a text in common with another of them: as negatives they would be false ones."""
    starts, counts = spans(keys.offsets, rows)
    owners = np.arange(len(rows), dtype=np.uint64).repeat(counts.numpy())
    texts, owners = np.unique(np.stack([keys.hashes[ranges(starts, counts).numpy()], owners]), axis=1)  # once a row
    _, places, times = np.unique(texts, return_inverse=True, return_counts=True)
    return len(np.unique(owners[times[places] > 1]))


def negatives(task: Task, batch_size: int) -> Iterator[str]:
    """How many texts each row is told apart from in a step, where texts of other rows are negatives."""
    data, most = task.rows.dataset, task.loss.negatives
    if most == 0:
        return
    rows = min(batch_size, len(data))
    per_row = sum(map(len, data.columns[1:])) / len(data) or 1.0  # of one column, the text itself
    others = (rows - 1) * per_row
    own = f", and {per_row - 1:g} negatives of its own" if per_row > 1 else ""
    yield f"       each row meets {others if most is None else min(most, others):,.0f} texts of other rows{own}"


def examples(run: Run, task: Task) -> Iterator[str]:
    model, world = run.trained.model, distributed.world_size()
    rows = torch.arange(min(ROWS * world, len(task.rows.dataset)))
    batch = task.rows.batch(rows, epoch=0, step=0, progress=0.0)
    if distributed.rank() != 0:
        return  # the first rank's share comes first in all that a batch has of all ranks
    names = ["pair"] if model.pairing else task.rows.names
    for row in range(-(-len(rows) // world)):
        yield f"  as the model reads it, row {row + 1}:"
        for c, name in enumerate(names):
            backend = model.tokenizer_for(batch.roles[c]).backend
            texts = texts_of_row(batch, c, row)
            for ids in texts[:TEXTS]:
                read = backend.decode(ids.tolist(), skip_special_tokens=False)
                yield f"    {name}: {json.dumps(read, ensure_ascii=False)}"  # no letter of it moves the cursor
            if len(texts) > TEXTS:
                yield f"    .. and {len(texts) - TEXTS} more"
        if label := label_of(batch, row, len(rows), task.rows.dataset.classes):
            yield f"    label: {label}"


def texts_of_row(batch: Batch, column: int, row: int) -> list[Tensor]:
    packed, counts = batch.columns[column], batch.counts[column] if batch.counts else None
    each = [1] * (row + 1) if counts is None else counts.tolist()
    first, bounds = sum(each[:row]), packed.cu_seqlens.tolist()
    return [packed.input_ids[bounds[i] : bounds[i + 1]] for i in range(first, first + each[row])]


def label_of(batch: Batch, row: int, rows: int, classes: Sequence[str]) -> str:
    if batch.labels is None:
        return ""
    per_row = batch.labels
    if len(per_row) != rows and batch.counts[0] is not None:  # of lists of documents, one after the other
        per_row = per_row.split(batch.counts[0].tolist())
    values = per_row[row].reshape(-1)
    found = [f"{v:g}" if not classes else f"{classes[int(v)]} ({v:g})" for v in values[~values.isnan()].tolist()]
    return ", ".join(found[:NUMBERS]) + (f" .. {len(found)} numbers" if len(found) > NUMBERS else "")
