"""What a config may say, and surely does not mean: each doubt is a line that says what to do."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from minist.data.samplers import Place
from minist.models.device import total_memory
from minist.training.config import DataConfig
from minist.training.data_report import cuts, hashes_of, sharing
from minist.training.measure import local_ranks
from minist.training.optimizer import warmup_steps
from minist.training.run import Run
from minist.training.task import Task

LOOKED_AT = 100  # batches, for texts that come twice in one
MANY = 0.01  # of its rows, that share a text with another
RANGE = re.compile(r"(-?\d+) (?:to|or) (-?\d+)")  # in what a loss says of its labels: "numbers from 0 to 1 [rows]"


def doubts(run: Run, places: Sequence[Place], peak: int) -> Iterator[str]:
    yield from _of_steps(run, places)
    for i, (entry, task) in enumerate(zip(run.config.data, run.tasks, strict=True)):
        yield from _of_texts(entry, task, run.config.train.batch_size)
        yield from _of_labels(entry, task)
        yield from _of_negatives(entry, task, run.config.train.batch_size, [p for p in places if p.dataset == i])
    for evaluation in run.config.eval:
        read = {path.resolve() for path in evaluation.paths()}
        for entry in run.config.data:
            if shared := read & {path.resolve() for path in entry.paths()}:
                what = f"{min(shared).name} is read by {evaluation.where} and trained on by {entry.where}"
                yield f"{what}: the metrics will be too good; hold rows out in a file of their own"
    if peak * local_ranks(run.device) > total_memory(run.device):
        yield "the memory does not suffice: set mini_batch_tokens, or checkpoint_layers = true, or a smaller max_length"


def _of_steps(run: Run, places: Sequence[Place]) -> Iterator[str]:
    settings, total = run.config.train, run.batches.total
    rows = sum(len(task.rows.dataset) for task in run.tasks)
    seen = sum(len(place.rows) for place in places) * total / len(places)
    if settings.max_steps and seen < rows:
        yield f"max_steps is {total:,}, which sees {seen:,.0f} of {rows:,} rows: leave it out, and set epochs"
    if warmup_steps(total, settings.warmup) >= total:
        what = f"warmup is {settings.warmup:g} steps of {total:,}: the learning rate never gets to {settings.lr:g}"
        yield f"{what}; a share of the steps, as 0.1, fits every run"
    if settings.eval_every > total:
        yield f"eval_every is {settings.eval_every:,}, the run has {total:,} steps: it is evaluated at the end only"


def _of_texts(entry: DataConfig, task: Task, batch_size: int) -> Iterator[str]:
    data, where = task.rows.dataset, entry.where
    if batch_size > len(data):
        yield f"batch_size is {batch_size:,}, {where} has {len(data):,} rows: each of its steps sees all of them"
    hashes = list(hashes_of(task, entry).items())
    for i, (one, texts) in enumerate(hashes):
        for other, others in hashes[i + 1 :]:
            same = (texts == others).mean() if len(texts) == len(others) else 0.0
            if same > 0.5:
                yield f"{one} and {other} in {where} are the same text in {same:.0%} of the rows: is columns right?"
    sizes = dict(zip(data.names, map(len, data.columns), strict=True)) | {"pairs": sum(map(len, data.columns[1:]))}
    for name, n in cuts(task).items():
        if n > sizes[name] / 2:
            yield f"{n / sizes[name]:.0%} of {name} in {where} are cut: set max_length in [model] to more, if it can be"


def _of_labels(entry: DataConfig, task: Task) -> Iterator[str]:
    labels, loss = task.rows.dataset.keys().labels, task.loss
    if labels is None:
        return
    if len(np.unique(labels)) == 1:
        yield f"all labels in {entry.where} are {labels[0]:g}: there is nothing to learn from them, look at the column"
    found, what = RANGE.search(loss.labels), f"labels in {entry.where} go from {labels.min():g} to {labels.max():g}"
    if found and not float(found[1]) <= labels.min() <= labels.max() <= float(found[2]):
        yield f"{what}, {type(loss).__name__} takes {loss.labels}: divide them in the file"
    if loss.class_names and (labels % 1 != 0).any():
        yield f"{what}, such as {labels[labels % 1 != 0][0]:g}: {type(loss).__name__} takes classes, are these scores?"


def _of_negatives(entry: DataConfig, task: Task, batch_size: int, places: Sequence[Place]) -> Iterator[str]:
    if task.loss.negatives == 0:
        return
    if batch_size == 1:
        yield f"batch_size is 1, so no row of {entry.where} meets a negative of another row: set it to 32 or more"
    keys, looked = task.rows.dataset.keys(), places[:LOOKED_AT]
    share = sum(sharing(keys, place.rows) for place in looked) / max(1, sum(len(place.rows) for place in looked))
    if share > MANY:
        what = f"{share:.1%} of the rows of {entry.where} have a text that another row of their batch has too"
        yield f'{what}, a false negative: set sampler = "no_duplicates"'
