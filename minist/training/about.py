"""What a reader wants to know of a run: its model, its data with some rows, and its settings. <output>/about.json."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from itertools import islice
from typing import Any

import torch

from minist import distributed
from minist.data.rows import read_places
from minist.files import complete_file, read_json, write_json
from minist.training.config import Config, DataConfig, EvalConfig
from minist.training.construct import Table
from minist.training.examples import shorten
from minist.training.run import Run
from minist.training.task import Task

ABOUT = "about.json"
SAMPLES = 3  # rows of each data set
LISTED = 8  # texts of a cell that is a list, and names of classes


def write_about(run: Run) -> None:
    """On rank 0. A run that goes on started when it did, whatever has changed since."""
    file, found = run.output / ABOUT, about(run)
    if file.exists():  # one that starts again has an empty folder
        found["started"] = read_json(file)["started"]
    with complete_file(file) as partial:
        write_json(partial, found)


def about(run: Run) -> Table:
    """All of it, as JSON can hold it."""
    config = run.config
    machine = {"device": run.device.type, "ranks": distributed.world_size(), "threads": torch.get_num_threads()}
    evaluations = {entry.name: (entry.evaluator or entry.loss)["name"] for entry in config.eval}
    return {
        "started": datetime.now().astimezone().isoformat(" ", "seconds"),
        "steps": run.batches.total,
        "model": about_model(run),
        "data": [about_data(entry, task) for entry, task in zip(config.data, run.tasks, strict=True)],
        "evaluations": evaluations,  # name -> what measures
        "settings": given_settings(config),
        "machine": machine | {"torch": torch.__version__},
    }


def about_model(run: Run) -> Table:
    model = run.trained.model
    paths = {route or "": [type(module).__name__ for module in path] for route, path in model.stack.paths.items()}
    return {
        "kind": type(model).__name__,
        "start": run.config.model.path or "random weights",
        "modules": paths,  # by route, of which most models have one without a name
        "parameters": sum(p.numel() for p in model.parameters()),
        "width": model.out_width,
        "max_length": model.max_length,
    }


def about_data(entry: DataConfig, task: Task) -> Table:
    dataset, label = task.rows.dataset, task.rows.dataset.meta["label"]
    columns = {}
    for name, column in zip(dataset.names, dataset.columns, strict=True):
        tokens = len(column.ids) / max(len(column), 1)
        columns[name] = {"source": str(entry.columns[name]), "tokens": tokens, "cut": int(column.was_cut.sum())}
    return {
        "name": entry.name,
        "rows": len(dataset),
        "columns": columns,  # in the loss's order; mean tokens of a text, and how many texts are cut
        "label": {"source": str(entry.label), "kind": label["kind"], "classes": dataset.classes} if label else {},
        "loss": entry.loss,
        "samples": list(sample_rows(entry, bool(label and not label["file"]))),
    }


def sample_rows(entry: DataConfig, with_label: bool) -> Iterator[dict[str, list[str]]]:
    """The first rows: column -> its texts, one or those of a list; the label is one too."""
    columns = {**entry.columns, "label": entry.label} if with_label else entry.columns
    for place in islice(read_places(entry.paths(), columns, entry.format), SAMPLES):
        cells = {name: cell if isinstance(cell, list) else [cell] for name, cell in place.row.items()}
        yield {name: [shorten(str(text)) for text in cell[:LISTED]] for name, cell in cells.items()}


def given_settings(config: Config) -> Table:
    """Those that differ from the defaults: "train.lr" -> 3e-5, "data.nli.sampler" -> "no_duplicates"."""
    default = flat(asdict(Config()))
    for kind, plain in (("data", DataConfig()), ("eval", EvalConfig())):
        default |= flat({kind: [asdict(replace(plain, name=entry.name)) for entry in vars(config)[kind]]})
    return {key: value for key, value in flat(asdict(config)).items() if key not in default or default[key] != value}


def flat(table: Mapping[str, Any], prefix: str = "") -> Table:
    """One level: {"train": {"lr": 1}, "data": [{"name": "nli", ..}]} -> {"train.lr": 1, "data.nli.name": "nli", ..}."""
    found: Table = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                found |= flat(entry, f"{prefix}{key}.{entry['name']}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
