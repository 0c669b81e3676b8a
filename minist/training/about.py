"""What a reader wants to know of a run: its model, its data with some rows, and its settings. <output>/about.json."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from itertools import islice

import torch

from minist import distributed
from minist.data.rows import read_places
from minist.files import complete_file, read_json, write_json
from minist.training.config import Config, DataConfig, EvalConfig
from minist.training.construct import Table
from minist.training.examples import shorten
from minist.training.run import Run
from minist.training.sizes import sizes_of
from minist.training.task import Task

ABOUT = "about.json"
SAMPLES, LISTED = 3, 8  # rows of each data set, and texts of a cell that is a list


def write_about(run: Run) -> None:
    """On rank 0. A run that goes on started when it did, whatever has changed since."""
    config, file, started = run.config, run.output / ABOUT, datetime.now()
    with suppress(OSError, ValueError, TypeError, LookupError):  # there is none, or it is damaged
        started = datetime.fromisoformat(read_json(file)["started"])
    machine = {"device": run.device.type, "ranks": distributed.world_size(), "threads": torch.get_num_threads()}
    found = {
        "started": started.astimezone().isoformat(" ", "seconds"),
        "steps": run.batches.total,
        "model": about_model(run),
        "data": [about_data(entry, task) for entry, task in zip(config.data, run.tasks, strict=True)],
        "evaluations": {entry.name: (entry.evaluator or entry.loss)["name"] for entry in config.eval},
        "sizes": {entry.name: sizes for entry in config.eval if (sizes := sizes_of(entry))},
        "settings": given_settings(config),
        "machine": machine | {"torch": torch.__version__},
    }
    with complete_file(file) as partial:
        write_json(partial, found)


def about_model(run: Run) -> Table:
    model = run.trained.model
    paths = {route or "": [type(module).__name__ for module in path] for route, path in model.stack.paths.items()}
    return {
        "kind": type(model).__name__,
        "start": run.config.model.path or "random weights",
        "modules": "; ".join(f"{route} {' > '.join(path)}".strip() for route, path in paths.items()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "width": model.out_width,
        "max_length": model.max_length,
    }


def about_data(entry: DataConfig, task: Task) -> Table:
    dataset, label = task.rows.dataset, task.rows.dataset.meta["label"]
    columns, samples = {}, []
    for name, column in zip(dataset.names, dataset.columns, strict=True):
        tokens = len(column.ids) / max(len(column), 1)
        columns[name] = {"source": str(entry.columns[name]), "tokens": tokens, "cut": int(column.was_cut.sum())}
    shown = entry.columns | ({"label": entry.label} if label and not label["file"] else {})
    for place in islice(read_places(entry.paths(), shown, entry.format), SAMPLES):
        cells = {name: cell if isinstance(cell, list) else [cell] for name, cell in place.row.items()}
        samples.append({name: [shorten(str(text)) for text in cell[:LISTED]] for name, cell in cells.items()})
    return {
        "name": entry.name,
        "rows": len(dataset),
        "columns": columns,  # in the loss's order; mean tokens of a text, and how many texts are cut
        "loss": entry.loss,
        "samples": samples,  # column -> its texts, one or those of a list; the label is one too
    }


def given_settings(config: Config) -> Table:
    """Those that differ from the defaults: "train.lr" -> 3e-5, "data.nli.sampler" -> "no_duplicates"."""
    own, default = asdict(config), asdict(Config())
    for kind, plain in (("data", DataConfig()), ("eval", EvalConfig())):  # lists of entries become tables, by name
        own[kind] = {entry["name"]: entry for entry in own[kind]}
        default[kind] = {name: asdict(plain) | {"name": name} for name in own[kind]}
    return dict(differing(own, default))


def differing(own: Table, default: Table, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in own.items():
        plain = default.get(key, {})  # prompts, say, may be a text or a table
        if isinstance(value, dict) and isinstance(plain, dict):
            yield from differing(value, plain, f"{prefix}{key}.")
        elif value != plain:
            yield prefix + key, value
