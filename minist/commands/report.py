"""Lay runs over each other: every figure of all in one plot, their best and last metrics, settings that differ.

python -m minist report --output compare.html runs/a runs/b
python -m minist report --output report.html runs/a

A run is a folder that train.py has written, or is writing. The page is one file and needs no network. Of one run it is
that run's own report, as of now."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from minist.checks import number
from minist.files import check_file
from minist.training.about import flat
from minist.training.checkpoint import MARKER, METRICS
from minist.training.construct import Table, read_table
from minist.training.curves import figures, read_metrics, safe
from minist.training.report import Figures, best, grouped, headlines, plot, run_page, table, write_page

HELP = "draw the curves of runs in a web page"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="run folders, the `output` of their configs")
    add("--output", type=Path, default=Path("compare.html"), help="the page to write (compare.html)")


def run(args: argparse.Namespace) -> None:
    runs = list(dict.fromkeys(args.runs))
    for folder in runs:
        check_file(folder / METRICS)
        number(
            f"the number of lines in {folder / METRICS}, which a run writes as it goes,", len(read_metrics(folder)), 1
        )
    write_page(args.output, *(compared(runs) if len(runs) > 1 else run_page(runs[0])))
    print(f"{len(runs)} {'runs' if len(runs) > 1 else 'run'} in {args.output}: open it in a browser")


def compared(folders: list[Path]) -> tuple[str, str]:
    """Title and body of the page."""
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    runs = {name: figures(read_metrics(folder)) for name, folder in zip(names, folders, strict=True)}
    tables = {name: settings_of(folder) for name, folder in zip(names, folders, strict=True)}
    title = safe(" and ".join(names) if len(names) == 2 else f"{len(names)} runs")
    parts = [f"<h1>{title}</h1>", "<h2>Best and last</h2>", results(runs)]
    parts += ["<h2>Settings that differ</h2>", differences(tables), "<h2>Curves</h2>"]
    return title, "\n".join([*parts, '<div class="curves-of">', *plots(runs), "</div>"])


def settings_of(folder: Path) -> Table:
    """All that config.toml has, where there is one."""
    return flat(read_table(folder / MARKER, [])) if (folder / MARKER).exists() else {}


def results(runs: Mapping[str, Figures]) -> str:
    """The loss, and the metrics that one looks at: of each run the best with its step, and the last."""
    everything = {name: points for found in runs.values() for name, points in found.items()}
    rows = []
    for metric in dict.fromkeys(["loss", *headlines(everything)]):
        cells = [f"<code>{safe(metric)}</code>"]
        for found in runs.values():
            points = found.get(metric, [])
            cells.append("{1:.4f} <small>step {0:,}</small>".format(*best(metric, points)) if points else "")
            cells.append(f"{points[-1][1]:.4f}" if points else "")
        rows.append(cells)
    return table(["figure", *(f"{safe(name)}, {which}" for name in runs for which in ("best", "last"))], rows)


def differences(tables: Mapping[str, Table]) -> str:
    rows = []
    for key in dict.fromkeys(key for own in tables.values() for key in own if key != "output"):
        values = [str(own.get(key, "")) for own in tables.values()]
        if len(set(values)) > 1:
            rows.append([f"<code>{safe(key)}</code>", *map(safe, values)])
    return table(["setting", *map(safe, tables)], rows) if rows else "<p>None.</p>"


def plots(runs: Mapping[str, Figures]) -> Iterator[str]:
    """Of each figure all runs that have it."""
    for meaning, names in grouped({name for found in runs.values() for name in found}).items():
        for name in sorted(names):
            yield plot({run: found[name] for run, found in runs.items() if name in found}, meaning, name)
