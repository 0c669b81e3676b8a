"""What a run adds to the card of its model: results, data sets, settings, the log and its curves, from the run's files.

Each folder that a run saves gets it, <output>/model, best and checkpoint-<step>: with the results of that very step."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minist.files import read_json
from minist.models.hub import hub_name
from minist.models.model_card import LONGEST, Added, code, escaped, quoted, shortened, table, write_card
from minist.models.reading import reading
from minist.training.about import ABOUT
from minist.training.construct import Table
from minist.training.curves import Points, figures, read_metrics, svg, thinned
from minist.training.evaluations import HEADLINES

ROWS, METRICS = 20, 6  # of the log: lines of losses at most, columns of metrics
SHOWN = 3  # pairs of texts in the snippet
# settings that are told elsewhere, or say where files lie on this machine
HIDDEN = ("name", "files", "queries", "corpus", "qrels", "output", "path", "columns", "loss", "label", "source", "eval")
Metrics = Mapping[str, float]


def write_run_card(model: Any, folder: Path, step: int) -> None:
    """The card of `model`, which a run saved in `folder`, in its directory, after `step` steps."""
    write_card(model, folder, lambda: run_part(folder.parent, folder.name, step))


def run_part(output: Path, name: str, step: int) -> Added:
    """Of the card of the model that was saved as `name` in a run's directory."""
    with reading(output / ABOUT):  # whatever it holds
        return _run_part(read_json(output / ABOUT), read_metrics(output), output, name, step)


def _run_part(about: Table, records: Sequence[Mapping[str, Any]], output: Path, name: str, step: int) -> Added:
    evaluated: dict[int, dict[str, float]] = {}
    for record in records:
        if "learning_rate" not in record:  # which the lines of losses have
            evaluated.setdefault(record["step"], {}).update(headlines(record))
    names = dict.fromkeys(name for metrics in evaluated.values() for name in metrics)
    columns = sorted(names, key=lambda name: name != about["settings"].get("train.best"))[:METRICS]
    results = [(*evaluation_of(about, key), value) for key, value in evaluated.get(step, {}).items()]
    lines, files = figures(records), {}
    for title, of in {"loss": ["loss"], "metrics": columns}.items():
        if drawn := {name: lines[name] for name in of if name in lines}:
            files[f"{title}.svg"] = svg(drawn, title)
    sections = [
        results_section(about, results, step),
        data_section(about),
        settings_section(about),
        log_section(lines.get("loss", []), evaluated, columns, files),
    ]
    losses = dict.fromkeys(name for entry in about["data"] for name in loss_names(entry["loss"]))
    size = sum(entry["rows"] for entry in about["data"])
    return Added(
        name=f"{output.name if output.is_absolute() else output}/{name}",
        base_model=hub_name(about["model"]["start"], about["settings"].get("model.revision")),
        tags=[f"dataset_size:{size}", *(f"loss:{name}" for name in losses)],
        results=[eval_result(*result) for result in results if math.isfinite(result[-1])],
        texts=next(filter(None, map(example_rows, about["data"])), []),
        sections="\n\n".join(filter(None, sections)),
        files=files,
    )


def headlines(record: Metrics) -> dict[str, float]:
    """The metrics that say most; where none is known to, the first."""
    found = {name: value for name, value in record.items() if name != "step"}
    return {name: value for name, value in found.items() if name.endswith(HEADLINES)} or dict([*found.items()][:ROWS])


def evaluation_of(about: Table, metric: str) -> tuple[str, str, str]:
    """The name of the evaluation that gave a metric, what measures in it, and the metric without that name."""
    names = about["evaluations"]  # of a loss "eval_dev_loss", else "dev_cosine_ndcg@10", by the longest that fits
    fits = [name for name in names if metric == f"eval_{name}_loss"] or [n for n in names if metric.startswith(f"{n}_")]
    name = max(fits, key=len, default="unknown")
    measure = about["evaluations"].get(name, "Evaluation")  # or path/to/file.py:Name
    return name, measure.rpartition(":")[2], metric.partition(f"{name}_")[2] or metric


def eval_result(name: str, measure: str, metric: str, value: float) -> dict[str, Any]:
    """Fields of huggingface_hub's EvalResult; what measured is the task: Information Retrieval."""
    task = re.sub("(?<=[a-z])(?=[A-Z])", " ", measure.removesuffix("Evaluator"))
    about = {"task_name": task, "task_type": task.lower().replace(" ", "-"), "dataset_name": name, "dataset_type": name}
    return about | {"metric_name": metric, "metric_type": metric, "metric_value": value}


def loss_names(loss: Any) -> list[str]:
    """Of a loss, a name or a table with arguments, and of the losses in these."""
    table = loss if isinstance(loss, dict) else {"name": loss}
    inside = loss_names(table["loss"]) if "loss" in table else []
    return [str(table["name"]).rpartition(":")[2], *inside]


def example_rows(entry: Table) -> list[list[str]]:
    """Pairs of the texts of the first two columns, some of which hold lists; a single column is both."""
    first, second = ([*entry["columns"]] * 2)[:2]
    return [[row[first][0], text] for row in entry["samples"] if row[first] for text in row[second]][:SHOWN]


def results_section(about: Table, results: Sequence[tuple[str, str, str, float]], step: int) -> str:
    head = ["evaluation", "measured by", "metric", "value"]
    rows = [[code(shortened(name)), code(measure), code(metric), f"{x:.4g}"] for name, measure, metric, x in results]
    return f"## Results\n\nAfter {step:,} of {about['steps']:,} steps:\n\n{table(head, rows)}" if rows else ""


def data_section(about: Table) -> str:
    start, machine = shown(about["model"]["start"]), "{ranks} x {device} with torch {torch}".format(**about["machine"])
    parts = [f"## Training\n\nFrom {start}, {about['steps']:,} steps on {machine}.\n\n### Data"]
    for entry in about["data"]:
        columns = []
        for name, column in entry["columns"].items():
            cut = f", {column['cut']:,} texts cut" if column["cut"] else ""
            columns.append(f"{code(name)} ({column['tokens']:.0f} tokens in the mean{cut})")
        given = [f", {name} = {shown(value)}" for name, value in entry["loss"].items() if name != "name"]
        title = f"**{code(shortened(entry['name']))}**: {entry['rows']:,} rows of {', '.join(columns)}"
        parts.append(f"{title}, for {code(loss_names(entry['loss'])[0])}{''.join(given)}")
        if names := [*dict.fromkeys(name for row in entry["samples"] for name in row)]:
            cells = [[row.get(name, []) for name in names] for row in entry["samples"]]
            rows = [[" / ".join(escaped(shortened(text)) for text in cell) for cell in row] for row in cells]
            parts.append(table([code(name) for name in names], rows))
    return "\n\n".join(parts)


def shown(value: Any) -> str:
    """A setting's value, much as the config has it; what lies elsewhere on this machine by its name alone."""
    return code(re.sub('"/([^"]*/)?', '"', quoted(value))[:LONGEST])


def settings_section(about: Table) -> str:
    rows = [[code(key), shown(value)] for key, value in about["settings"].items() if not {*key.split(".")} & {*HIDDEN}]
    return f"### Settings\n\nThose that are not the defaults:\n\n{table(['setting', 'value'], rows)}" if rows else ""


def log_section(losses: Points, evaluated: Mapping[int, Metrics], names: Sequence[str], files: Iterable[str]) -> str:
    """The curves, and behind a fold their numbers."""
    rows, by_step = [], dict(losses)
    for step in sorted({step for step, _ in thinned(losses, ROWS)} | evaluated.keys()):
        values = [by_step.get(step), *(evaluated.get(step, {}).get(name) for name in names)]
        rows.append([f"{step:,}", *("" if value is None else f"{value:.4g}" for value in values)])
    numbers = table(["step", "loss", *map(code, names)], rows)
    images = " ".join(f"![{Path(file).stem} by step]({file})" for file in files)
    return f"### Log\n\n{images}\n\n<details><summary>Numbers by step</summary>\n\n{numbers}\n\n</details>"
