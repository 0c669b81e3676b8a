"""<output>/report.html: one page that says what a run is, how it goes, and what its model finds. It needs no network.

python -m minist report makes it anew, and lays several runs over each other."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minist import distributed
from minist.files import complete_file
from minist.models.reading import read_optional
from minist.training.about import ABOUT
from minist.training.construct import Table
from minist.training.curves import Points, figures, read_metrics, safe, svg
from minist.training.evaluations import HEADLINES
from minist.training.examples import EXAMPLES
from minist.training.run import Run

REPORT = "report.html"
PAGE = Path(__file__).with_name(REPORT)  # with places for the title and the body
WORDS = Path(__file__).with_name("figures.md")  # what each figure means, in a table
Figures = Mapping[str, Points]


def refresh(run: Run) -> None:
    """Write what is new, on rank 0. A full disk stops no training here: what has to be saved says so itself."""
    if distributed.rank() == 0:
        try:
            run.examples.keep(run.output, run.done)
            write_page(run.output / REPORT, *run_page(run.output))
        except OSError as e:
            run.say(f"note   {REPORT} could not be written: {e}")


def write_page(file: Path, title: str, body: str) -> None:
    with complete_file(file) as partial:
        page = PAGE.read_text("utf-8").replace("BODY", body, 1).replace("TITLE", title, 1)  # the title stands first
        partial.write_text(page, "utf-8")


def run_page(folder: Path) -> tuple[str, str]:
    """Title and body, of the files of a run that there are so far."""
    about, examples = read_optional(folder / ABOUT), read_optional(folder / EXAMPLES)
    records = read_metrics(folder)
    title, logged = safe(folder.resolve().name), figures([record for record in records if "loss" in record])
    chosen = about.get("settings", {}).get("train.best", "")  # the metric, if there is one
    parts = [
        f"<h1>{title}</h1>",
        *(introduction(about, records) if about else []),
        "<h2>Evaluations</h2>",
        *evaluations([record for record in records if "loss" not in record], chosen),
        "<h2>Curves</h2>",
        plots(logged) if logged else "<p>No step has been logged yet.</p>",
        "<h2>What some queries find</h2>",
        *searches(examples),
        *(part for entry in about.get("data", []) for part in data(entry)),
        *(settings(about) if about else []),
    ]
    return title, "\n".join(parts)


# What stands in the page, in its order: pieces of HTML, in which every text of a run is `safe`.


def introduction(about: Table, records: Sequence[Table]) -> Iterator[str]:
    model, machine = about["model"], about["machine"]
    ways = [f"{route} " * bool(route) + " &rarr; ".join(map(safe, path)) for route, path in model["modules"].items()]
    losses = dict.fromkeys(entry["loss"]["name"] for entry in about["data"])
    rows = sum(entry["rows"] for entry in about["data"])
    yield f"<p>A <b>{safe(model['kind'])}</b> from <b>{safe(model['start'])}</b>: {'; '.join(ways)}. It has"
    yield f"{model['parameters']:,} parameters, gives {model['width']:,} numbers, and reads {model['max_length']:,}"
    yield f"tokens of a text. It is trained by {safe(', '.join(losses))} on {rows:,} rows.</p>"
    done, threads = max((record["step"] for record in records), default=0), machine["threads"]
    yield f"<p>Step <b>{done:,}</b> of {about['steps']:,}. Started {safe(about['started'])}, on {machine['ranks']} x"
    yield f"{safe(machine['device'])} (threads of each: {threads}; torch {safe(machine['torch'])}).</p>"


def evaluations(records: Sequence[Table], chosen: str) -> Iterator[str]:
    """A table of the metrics that one looks at, by step, and curves of all; `chosen` says which model is kept."""
    found, steps = figures(records), list(dict.fromkeys(record["step"] for record in records))
    if not found:
        yield "<p>Nothing has been evaluated: the run has no evaluations, or has not come to one.</p>"
        return
    if chosen in found:
        yield f"<p>The final model is the one that was best by <code>{safe(chosen)}</code>.</p>"
    columns = []
    for name in headlines(found):
        values, (at, _) = dict(found[name]), best(name, found[name])
        columns.append([measured(values.get(step), step == at) for step in steps])
    yield table(["step", *map(safe, headlines(found))], zip([f"{step:,}" for step in steps], *columns, strict=True))
    yield plots(found)


def measured(value: float | None, is_best: bool) -> str:
    """A cell of a table; empty where there is no number."""
    return "" if value is None else f'<span class="best">{value:.4f}</span>' if is_best else f"{value:.4f}"


def headlines(found: Figures) -> list[str]:
    return [name for name in found if name.endswith(HEADLINES)] or list(found)


def best(name: str, points: Points) -> tuple[int, float]:
    """Step and value; losses should fall, all other metrics rise. Of equal ones the first."""
    return (min if name.endswith("loss") else max)(points, key=lambda point: point[1])


def searches(examples: Table) -> Iterator[str]:
    if not examples:
        yield "<p>No entry of [[eval]] searches documents, or nothing has been searched yet.</p>"
        return
    newest = examples.get("after") or examples["before"]
    given = {moment: {one["query"]: one for one in found["searches"]} for moment, found in examples.items()}
    yield f"<p>The best of some documents of <code>{safe(newest['name'])}</code>; the right ones are marked.</p>"
    for query in given["after" if "after" in given else "before"]:
        yield f'<h3 dir="auto">{safe(query)}</h3><div class="two">'
        for moment, found in examples.items():
            yield f"<div><small>{moment} step {max(1, found['step']):,}</small>"
            yield from hits(given[moment].get(query, {"hits": []})["hits"])
            yield "</div>"
        yield "</div>"


def hits(found: Sequence[Table]) -> Iterator[str]:
    yield "<ol>"
    for hit in found:
        mark, word = (' class="right"', " &#10003; right") if hit["right"] else ("", "")
        yield f'<li{mark} dir="auto"><bdi>{safe(hit["text"])}</bdi> <small>{hit["score"]:.3f}{word}</small></li>'
    yield "</ol>"


def data(entry: Table) -> Iterator[str]:
    """A data set, with some of its rows."""
    label, columns = entry["label"], entry["columns"]
    arguments = ", ".join(f"{key} = {value}" for key, value in entry["loss"].items() if key != "name")
    yield f"<h2>Data: {safe(entry['name'])}</h2>"
    yield f"<p>{entry['rows']:,} rows, for <code>{safe(entry['loss']['name'])}({safe(arguments)})</code>."
    if label:
        few = f": {', '.join(label['classes'][:8])}" if label["classes"] else ""
        yield f"The labels, {safe(label['kind'] + few)}, are <code>{safe(label['source'])}</code> in the files."
    yield "</p>"
    head = ["column", "in the files", "tokens of a text, mean", "texts cut"]
    cells = [(name, own["source"], f"{own['tokens']:.1f}", f"{own['cut']:,}") for name, own in columns.items()]
    yield table(head, [map(safe, row) for row in cells])
    if entry["samples"]:
        names = list(entry["samples"][0])
        rows = [[" &middot; ".join(map(safe, row[name])) for name in names] for row in entry["samples"]]
        yield table(map(safe, names), rows, "text")


def settings(about: Table) -> Iterator[str]:
    yield "<h2>Settings</h2>"
    yield "<p>Those that differ from the defaults; <code>config.toml</code> beside this page has all.</p>"
    pairs = about["settings"].items()
    yield table(["setting", "value"], [[f"<code>{safe(key)}</code>", safe(value)] for key, value in pairs])


def table(head: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """Of cells that are HTML."""
    cell = f'<td class="{kind}" dir="auto">' if kind else "<td>"
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "\n".join(f"<tr>{''.join(f'{cell}{text}</td>' for text in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


# Curves, each with what it means.


class Meaning(NamedTuple):
    """A row of figures.md: of one figure, or of some that are drawn together; `..` in a name stands for any letters."""

    names: tuple[str, ...]
    what: str
    healthy: str = ""
    otherwise: str = ""

    def is_of(self, name: str) -> bool:
        return any(fnmatchcase(name, known.replace("..", "*")) for known in self.names)


PARTS = Meaning((), "parts of the loss, which add up to it; or figures of this model's own")


@cache
def meanings() -> list[Meaning]:
    rows = [line.strip("| \n").split(" |") for line in WORDS.read_text("utf-8").splitlines() if line.startswith("| `")]
    return [Meaning(tuple(re.findall(r"`(.*?)`", names)), *(text.strip() for text in rest)) for names, *rest in rows]


def grouped(found: Iterable[str]) -> dict[Meaning, list[str]]:
    """What a figure means -> those that are drawn together: in the order of figures.md, the loss's parts behind it."""
    names = list(found)
    groups: dict[Meaning, list[str]] = {meaning: [] for meaning in [*meanings()[:1], PARTS, *meanings()[1:]]}
    for name in names:
        fitting = [meaning for meaning in meanings() if meaning.is_of(name)]
        # of two rows the one with most figures that are all there: "accuracy", or "accuracy, confidence"
        fitting.sort(key=lambda meaning: (set(meaning.names) <= set(names), len(meaning.names)))
        groups[fitting[-1] if fitting else PARTS].append(name)
    return {meaning: names for meaning, names in groups.items() if names}


def plots(found: Figures) -> str:
    inside = [plot({name: found[name] for name in names}, meaning) for meaning, names in grouped(found).items()]
    return f'<div class="curves-of">{"".join(inside)}</div>'


def plot(lines: Figures, meaning: Meaning, title: str = "") -> str:
    title = title or (
        next(iter(lines)) if len(lines) == 1 else ", ".join(name.strip("._") for name in meaning.names) or "parts"
    )
    words = [f"<p>{marked(meaning.what[0].upper() + meaning.what[1:])}.</p>"]
    words += [f"<p>Healthy: {marked(meaning.healthy)}.</p>"] * bool(meaning.healthy)
    words += [f"<p>If not: {marked(meaning.otherwise)}.</p>"] * bool(meaning.otherwise)
    return f"<figure>{svg(lines, title)}<figcaption>{''.join(words)}</figcaption></figure>\n"


def marked(words: str) -> str:
    return re.sub(r"`(.*?)`", r"<code>\1</code>", safe(words))
