"""For a person to see that the data is what they meant: each column in figures, rows as the model reads them, and
warnings of what is allowed and surely not meant."""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from minist.data.dataset import text_hashes
from minist.data.packed import ranges
from minist.data.samplers import Keys
from minist.data.text_column import spans
from minist.training.config import DataConfig
from minist.training.run import Run
from minist.training.task import Task

ROWS, TEXTS, LETTERS, NUMBERS = 2, 3, 500, 6  # rows that are shown, texts of a list, letters of each, numbers of label
BLOCK = 4096  # rows that are looked at together
HEAD = ("column", "in the file", "role", "mean tokens", "shortest", "longest", "cut")
BATCHES, MANY = 100, 0.01  # batches that are searched for texts that come twice, and the share of rows that is too many
RANGE = re.compile(r"(-?\d+) (to|or) (-?\d+)")  # in what a loss says of its labels: "numbers from 0 to 1 [rows]"


def describe_rows(run: Run, entry: DataConfig, task: Task, batches: Sequence[Tensor]) -> Iterator[str]:
    """Of a [[data]] entry and some of its batches. All ranks call it, since a guide embeds texts together."""
    data, loss, cut = task.rows.dataset, task.loss, cuts(task)
    label = "" if entry.label == "" else f", in the file {entry.label}"
    yield f"\n{entry.where}: {type(loss).__name__} takes {loss.columns}, in order; labels: {loss.labels}{label}"
    lines = [HEAD]
    for name, column in zip(data.names, data.columns, strict=True):
        lengths = np.diff(column.offsets) if len(column) else np.zeros(1)  # lists may all be empty
        share = f"{cut[name]:.1%}" if name in cut else "-"  # of a cross-encoder pairs are cut, and not their texts
        figures = (f"{lengths.mean():.1f}", f"{lengths.min():,.0f}", f"{lengths.max():,.0f}", share)
        lines.append((name, str(entry.columns[name]), entry.roles.get(name, "-"), *figures))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for cells in lines:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
    if "pairs" in cut:
        yield f"  {cut['pairs']:.1%} of the pairs are cut"
    yield from examples(run, task)
    yield from negatives(task, run.config.train.batch_size, batches)
    for name, part in cut.items():
        if part > 0.5:
            yield f"warning: {part:.0%} of {name} are cut: set max_length in [model] to more, if it can be"
    yield from doubts_of_texts(entry, task)
    yield from doubts_of_labels(task)


def cuts(task: Task) -> dict[str, float]:
    """The share of texts that are cut, by column, or of "pairs"."""
    data, found = task.rows.dataset, dict[str, int]()
    texts = dict(zip(data.names, map(len, data.columns), strict=True)) | {"pairs": sum(map(len, data.columns[1:]))}
    for rows in torch.arange(len(data)).split(BLOCK):
        found = {name: found.get(name, 0) + n for name, n in task.rows.cut(rows).items()}
    return {name: n / max(1, texts[name]) for name, n in found.items()}


def examples(run: Run, task: Task) -> Iterator[str]:
    """The first rows, each as a batch of its own, whose texts are all on the first rank."""
    model = run.trained.model
    names = ["pair"] if model.pairing else task.rows.names
    for row in range(min(ROWS, len(task.rows.dataset))):
        batch = task.rows.batch(torch.tensor([row]), epoch=0, step=0, progress=0.0)
        yield f"  as the model reads it, row {row + 1}:"
        # not strict: behind a text with hidden words comes what stood there
        for name, role, texts in zip(names, batch.roles, batch.columns, strict=False):
            backend = model.tokenizer_for(role).backend
            for ids in texts.input_ids.split(texts.lengths.tolist())[:TEXTS]:
                read = backend.decode(ids.tolist(), skip_special_tokens=False)
                # repr: no letter of it moves the cursor
                yield f"    {name}: {read[:LETTERS]!r}{' ..' if len(read) > LETTERS else ''}"
            if texts.n > TEXTS:
                yield f"    .. and {texts.n - TEXTS} more"
        if batch.labels is not None:
            classes, values = task.rows.dataset.classes, batch.labels[~batch.labels.isnan()].tolist()
            read = ", ".join(f"{classes[int(v)]} ({v:g})" if classes else f"{v:g}" for v in values[:NUMBERS])
            yield f"    label: {read}" + (f" .. {len(values)} numbers" if len(values) > NUMBERS else "")


def negatives(task: Task, batch_size: int, batches: Sequence[Tensor]) -> Iterator[str]:
    """How many texts each row is told apart from in a step, and whether they are none or false, if the loss has any."""
    data, most = task.rows.dataset, task.loss.negatives
    if most == 0:
        return
    per_row = sum(map(len, data.columns[1:])) / len(data) or 1.0  # of one column, the text itself
    others = (min(batch_size, len(data)) - 1) * per_row
    own = f", and {per_row - 1:g} negatives of its own" if per_row > 1 else ""
    yield f"  each row meets {others if most is None else min(most, others):,.0f} texts of other rows{own}"
    if batch_size == 1:
        yield "warning: batch_size is 1, so no row meets a negative of another row: set it to 32 or more"
    keys, looked = data.keys(), batches[:BATCHES]
    share = sum(sharing(keys, rows) for rows in looked) / max(1, sum(map(len, looked)))
    if share > MANY:
        what = f"{share:.1%} of the rows have a text that another row of their batch has too, a false negative"
        yield f'warning: {what}: set sampler = "no_duplicates"'


def sharing(keys: Keys, rows: Tensor) -> int:
    """How many of these rows have a text in common with another of them: as negatives they would be false ones."""
    starts, counts = spans(keys.offsets, rows)
    owners = np.arange(len(rows), dtype=np.uint64).repeat(counts.numpy())
    texts, owners = np.unique(np.stack([keys.hashes[ranges(starts, counts).numpy()], owners]), axis=1)  # once a row
    _, places, times = np.unique(texts, return_inverse=True, return_counts=True)
    return len(np.unique(owners[times[places] > 1]))


def doubts_of_texts(entry: DataConfig, task: Task) -> Iterator[str]:
    data, hashes = task.rows.dataset, task.rows.dataset.keys().hashes
    if empty := int(np.isin(hashes, text_hashes(["", " "])).sum()):
        yield f"warning: {empty:,} texts are empty: leave their rows out"
    if any(column.rows is not None for column in data.columns):
        return  # else a row has a text of each of these, and two of our columns may be the same one:
    sources = list(dict.fromkeys(entry.columns.values()))
    table = hashes.reshape(-1, len(sources))
    for (i, one), (j, other) in combinations(enumerate(sources), 2):
        if (same := (table[:, i] == table[:, j]).mean()) > 0.5:
            yield f"warning: {one} and {other} are the same text in {same:.0%} of the rows: is columns right?"


def doubts_of_labels(task: Task) -> Iterator[str]:
    labels, loss = task.rows.dataset.keys().labels, task.loss
    if labels is None:
        return
    if (labels == labels[0]).all():
        yield f"warning: all labels are {labels[0]:g}: there is nothing to learn from them, look at the column"
    if found := RANGE.search(loss.labels):
        low, high = float(found[1]), float(found[3])
        known = np.isin(labels, (low, high)) if found[2] == "or" else (labels >= low) & (labels <= high)
        if not known.all():
            what = f"labels go from {labels.min():g} to {labels.max():g}, such as {labels[~known][0]:g}"
            yield f"warning: {what}; {type(loss).__name__} takes {loss.labels}: change them in the file"
