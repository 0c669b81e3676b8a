"""What a run adds to the card of its model: results, data sets, settings, the log and its curves, from the run's files.

Each folder that a run saves gets it, <output>/model, best and checkpoint-<step>: with the results of that very step."""

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from minist.files import read_json
from minist.models.hub import hub_name
from minist.models.model_card import LONGEST, Added, code, escaped, quoted, shortened, table, write_card
from minist.training.about import ABOUT
from minist.training.construct import Table
from minist.training.curves import figures, read_metrics, svg, thinned
from minist.training.evaluations import HEADLINES

ROWS, METRICS = 20, 6  # of the log: lines of losses at most, columns of metrics
LIBRARIES = ("minist", "torch", "tokenizers", "safetensors", "numpy")
# settings that are told elsewhere, or say where files lie on this machine
HIDDEN = ("name", "files", "queries", "corpus", "qrels", "output", "path", "columns", "loss", "label", "source", "eval")
Metrics = Mapping[str, float]


def write_run_card(model: Any, folder: Path, step: int) -> None:
    """The card of `model`, which a run saved in `folder`, in its directory, after `step` steps."""
    output = folder.parent
    about, records = read_json(output / ABOUT), read_metrics(output)
    evaluated: dict[int, dict[str, float]] = {}
    for record in records:
        if "learning_rate" not in record:  # which the lines of losses have
            evaluated.setdefault(record["step"], {}).update(headlines(record))
    names = dict.fromkeys(name for metrics in evaluated.values() for name in metrics)
    columns = sorted(names, key=lambda name: name != about["settings"].get("train.best"))[:METRICS]
    lines, results = figures(records), evaluated.get(step, {})
    curves = {"loss": ["loss"], "metrics": columns}
    drawn = {title: {name: lines[name] for name in names if name in lines} for title, names in curves.items()}
    files = {f"{title}.svg": svg(of, title) for title, of in drawn.items() if of}
    sections = [
        results_section(about, results, step),
        data_section(about),
        settings_section(about),
        log_section(dict(lines.get("loss", [])), evaluated, columns, list(files)),
        machine_section(about),
    ]
    data = about["data"]
    losses = dict.fromkeys(name for entry in data for name in loss_names(entry["loss"]))
    added = Added(
        name=f"{output.name if output.is_absolute() else output}/{folder.name}",
        base_model=hub_name(about["model"]["start"]),
        tags=[f"dataset_size:{sum(entry['rows'] for entry in data)}", *(f"loss:{name}" for name in losses)],
        results=list(eval_results(about, results)),
        texts=next(filter(None, map(example_rows, data)), []),
        sections="\n\n".join(filter(None, sections)),
        files=files,
    )
    write_card(model, folder, added)


def headlines(record: Metrics) -> dict[str, float]:
    """The metrics that say most; where none is known to, the first."""
    found = {name: value for name, value in record.items() if name != "step"}
    return {name: value for name, value in found.items() if name.endswith(HEADLINES)} or dict([*found.items()][:ROWS])


def evaluation_of(about: Table, metric: str) -> tuple[str, str, str]:
    """The name of the evaluation that gave a metric, what measures in it, and the metric without that name."""
    names = sorted(about["evaluations"], key=len, reverse=True)  # one may begin as another does
    name = next((name for name in names if metric.removeprefix("eval_").startswith(f"{name}_")), "unknown")
    measure = about["evaluations"].get(name, "Evaluation")  # or path/to/file.py:Name
    return name, measure.rpartition(":")[2], metric.removeprefix("eval_").removeprefix(f"{name}_")


def eval_results(about: Table, metrics: Metrics) -> Iterator[dict[str, Any]]:
    """Fields of huggingface_hub's EvalResult. What is no finite number is no result."""
    for key, value in metrics.items():
        name, measure, metric = evaluation_of(about, key)
        if math.isfinite(value):
            task = words_of(measure.removesuffix("Evaluator"))
            found = {"task_name": task, "task_type": task.lower().replace(" ", "-"), "metric_value": value}
            yield found | {"dataset_type": name, "dataset_name": name, "metric_type": metric, "metric_name": metric}


def words_of(name: str) -> str:
    """InformationRetrieval -> Information Retrieval."""
    letters = [f" {x}" if x.isupper() and before.islower() else x for before, x in zip(" " + name, name, strict=False)]
    return "".join(letters)


def loss_names(loss: Any) -> list[str]:
    """Of a loss, a name or a table with arguments, and of the losses in these."""
    table = loss if isinstance(loss, dict) else {"name": loss}
    inside = [name for key, value in table.items() if key == "loss" for name in loss_names(value)]
    return [str(table["name"]).rpartition(":")[2], *inside]


def example_rows(entry: Table) -> list[list[str]]:
    """Two texts of each sample: of the first two columns, or where there is one, of it and the next row. Where the
    second has lists, all of the first sample's."""
    first, second = ([*entry["columns"]] * 2)[:2]
    rows = [(row[first][0], row[second]) for row in entry["samples"] if row[first] and row[second]]
    if rows and len(rows[0][1]) > 1:
        return [[rows[0][0], text] for text in rows[0][1]]
    shift = int(first == second)
    return [[rows[i][0], rows[(i + shift) % len(rows)][1][0]] for i in range(len(rows))]


def results_section(about: Table, metrics: Metrics, step: int) -> str:
    if not metrics:
        return ""
    rows = []
    for key, value in metrics.items():
        name, measure, metric = evaluation_of(about, key)
        rows.append([code(shortened(name)), code(measure), code(metric), figure(value)])
    head = ["evaluation", "measured by", "metric", "value"]
    return f"## Results\n\nAfter {step:,} of {about['steps']:,} steps:\n\n{table(head, rows)}"


def figure(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"


def data_section(about: Table) -> str:
    parts = [
        f"## Training\n\nFrom {code(without_folder(about['model']['start']))}, {about['steps']:,} steps.\n\n### Data"
    ]
    for entry in about["data"]:
        columns = []
        for name, column in entry["columns"].items():
            cut = f", {column['cut']:,} texts cut" if column["cut"] else ""
            columns.append(f"{code(name)} ({column['tokens']:.0f} tokens in the mean{cut})")
        arguments = {name: value for name, value in entry["loss"].items() if name != "name"}
        given = "".join(f", {name} = {shown(value)}" for name, value in arguments.items())
        title = f"**{code(shortened(entry['name']))}**: {entry['rows']:,} rows of {', '.join(columns)}"
        parts.append(f"{title}, for {code(loss_names(entry['loss'])[0])}{given}")
        if samples := entry["samples"]:
            cells = [
                [" / ".join(escaped(shortened(text)) for text in row.get(name, [])) for name in samples[0]]
                for row in samples
            ]
            parts.append(table([code(name) for name in samples[0]], cells))
    return "\n\n".join(parts)


def shown(value: Any) -> str:
    """A setting's value, much as the config has it."""
    return code(quoted(without_folder(value))[:LONGEST])


def without_folder(value: Any) -> Any:
    """What lies elsewhere on this machine, by its name alone: a card is for others."""
    return Path(value).name if str(value).startswith("/") else value


def settings_section(about: Table) -> str:
    rows = [[code(key), shown(value)] for key, value in about["settings"].items() if not {*key.split(".")} & {*HIDDEN}]
    return f"### Settings\n\nThose that are not the defaults:\n\n{table(['setting', 'value'], rows)}" if rows else ""


def log_section(
    losses: Mapping[int, float], evaluated: Mapping[int, Metrics], names: Sequence[str], files: Sequence[str]
) -> str:
    """The curves, and behind a fold their numbers."""
    steps = sorted({step for step, _ in thinned([*losses.items()], ROWS)} | evaluated.keys())
    rows = []
    for step in steps:
        values = [losses.get(step), *(evaluated.get(step, {}).get(name) for name in names)]
        rows.append([f"{step:,}", *("" if value is None else figure(value) for value in values)])
    numbers = table(["step", "loss", *map(code, names)], rows)
    images = " ".join(f"![{Path(file).stem} by step]({file})" for file in files)
    return f"### Log\n\n{images}\n\n<details><summary>Numbers by step</summary>\n\n{numbers}\n\n</details>"


def machine_section(about: Table) -> str:
    took = datetime.now().astimezone() - datetime.fromisoformat(about["started"])
    machine, hours = about["machine"], str(took).partition(".")[0]
    versions = [f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # minist itself may run from a folder
            versions.append(f"{name} {version(name)}")
    return (
        f"### Machine\n\n{hours} (hours, minutes, seconds) from the start at {about['started']} to this step, on "
        f"{machine['ranks']} x {machine['device']}.\n\n{', '.join(versions)}"
    )
