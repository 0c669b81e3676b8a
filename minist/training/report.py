"""<output>/report.html: one page that says what a run is, how it goes, and what its model finds. It needs no network.

python -m minist report makes it anew, and lays several runs over each other."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import zip_longest
from os.path import commonpath
from pathlib import Path

from minist import distributed
from minist.files import complete_file
from minist.models.reading import read_optional, reading
from minist.training.about import ABOUT
from minist.training.construct import Table
from minist.training.curves import Points, figures, read_metrics, safe, svg
from minist.training.evaluations import HEADLINES
from minist.training.examples import EXAMPLES, shorten
from minist.training.run import Run
from minist.training.selection import falls
from minist.training.sizes import headline

REPORT = "report.html"
PAGE = Path(__file__).with_name(REPORT)  # with places for the title and the body
MEANINGS = Path(__file__).with_name("figures.md")  # what each figure means, in a table
Lines = Mapping[str, Mapping[str, Points]]  # figure -> run -> its points


def refresh(run: Run) -> None:
    """Write what is new, on rank 0. A full disk stops no training here: what has to be saved says so itself."""
    if distributed.rank() == 0:
        try:
            run.examples.keep(run.output, run.done)
            write_page(run.output / REPORT, [run.output])
        except (OSError, ValueError) as e:
            run.say(f"note   {REPORT} could not be written: {e}")


def write_page(file: Path, folders: Sequence[Path]) -> None:
    """The page of one run or several, of the files that there are so far. ValueError for what cannot be read."""
    places = [folder.resolve() for folder in folders]
    above = commonpath([place.parent for place in places])
    runs = {str(place.relative_to(above)): folder for place, folder in zip(places, folders, strict=True)}
    lines: dict[str, dict[str, Points]] = {}
    facts, pictures, rest = dict[str, Table](), list[str](), list[str]()
    for name, folder in runs.items():
        for figure, points in figures(read_metrics(folder)).items():
            lines.setdefault(figure, {})[name] = points
        about, examples = read_optional(folder / ABOUT), read_optional(folder / EXAMPLES)
        with reading(folder / f"{ABOUT} or {EXAMPLES}"):  # whatever they hold
            facts[name] = facts_of(about) if about else {}
            own = {figure: of[name] for figure, of in lines.items() if name in of}
            pictures += [part for sizes in about.get("sizes", {}).values() for part in by_size(name, sizes, own)]
            rest += searches(name, examples)
            rest += [part for entry in about.get("data", []) for part in data(name, entry)]
    title = safe(" and ".join(runs) if len(runs) <= 2 else f"{len(runs)} runs")
    parts = [f"<h1>{title}</h1>", "<h2>Best and last</h2>", results(lines, list(runs))]
    parts += ["<h2>Settings</h2>", settings(facts), "<h2>Curves</h2>"]
    body = "\n".join([*parts, '<div class="curves-of">', *pictures, *plots(lines, len(runs) == 1), "</div>", *rest])
    with complete_file(file) as partial:
        page = PAGE.read_text("utf-8").replace("BODY", body, 1).replace("TITLE", title, 1)  # the title stands first
        partial.write_text(page, "utf-8")


# What stands in the page: pieces of HTML, in which every text of a run is `safe`.


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    top = "".join(f'<th scope="col">{safe(name)}</th>' for name in head)
    cells = ["".join(f'<td dir="auto">{safe(text)}</td>' for text in row) for row in rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    found = f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    return found if cells else "<p>None.</p>"


def results(lines: Lines, runs: Sequence[str]) -> str:
    """The loss, and the metrics that one looks at: of each run the best and the last."""
    rows = []
    for figure, of in lines.items():
        if figure == "loss" or figure.endswith(HEADLINES):
            best = min if figure == "loss" or falls(figure) else max  # of equal ones the first
            pairs = [(best(of[run], key=lambda point: point[1]), of[run][-1]) if run in of else () for run in runs]
            cells = [[f"{value:.4g} (step {step:,})" for step, value in pair] or ["", ""] for pair in pairs]
            rows.append([figure, *(cell for pair in cells for cell in pair)])
    return table(["figure", *(f"{run}, {which}" for run in runs for which in ("best", "last"))], rows)


def facts_of(about: Table) -> Table:
    return {key: about[key] for key in ("started", "steps")} | about["model"] | about["machine"] | about["settings"]


def settings(facts: Mapping[str, Table]) -> str:
    """Of one run all but the defaults, of several what differs; of a run without about.json nothing is known."""
    rows = []
    for key in dict.fromkeys(key for own in facts.values() for key in own):
        values = [str(own.get(key, "default" if own else "unknown")) for own in facts.values()]
        if len(values) == 1 or len(set(values)) > 1:
            rows.append([key, *map(shorten, values)])
    return table(["setting", *facts], rows)


def plots(lines: Lines, together: bool) -> Iterator[str]:
    """Each figure with what it means, in the order of figures.md; all of a row of it `together`, or one by one."""
    left = list(lines)
    for row in MEANINGS.read_text("utf-8").partition("|---|---|---|---|\n")[2].splitlines():
        known, what, healthy, otherwise = (cell.strip() for cell in row.strip("|").split("|"))
        patterns = [pattern.replace("..", "*") for pattern in re.findall("`(.*?)`", known) or [".."]]
        names = [name for name in left if any(fnmatchcase(name, pattern) for pattern in patterns)]
        left = [name for name in left if name not in names]
        words = [what, f"healthy: {healthy}" * bool(healthy), f"if not: {otherwise}" * bool(otherwise)]
        texts = [f"<p>{text[0].upper()}{safe(text[1:])}.</p>" for text in words if text]
        caption = re.sub("`(.*?)`", r"<code>\1</code>", "".join(texts))
        pictures: Lines = {name: lines[name] for name in names}
        if together and len(names) > 1:
            pictures = {known.replace("`", ""): {name: next(iter(lines[name].values())) for name in names}}
        for title, of in pictures.items():
            yield f"<figure>{svg(of, title)}<figcaption>{caption}</figcaption></figure>\n"


def by_size(run: str, sizes: Mapping[str, tuple[int, int]], found: Mapping[str, Points]) -> Iterator[str]:
    """A picture of an evaluation at several sizes of the model, see sizes.py: when it was first measured, and last."""
    metric, lines = headline(sizes, found), dict[str, list[tuple[int, float]]]()
    for prefix, (layers, dimensions) in sizes.items():
        measured = found.get(prefix + metric, [])
        for step, value in [*measured[:1], *measured[1:][-1:]]:
            of = f"{layers} layers, " if layers and dimensions else ""
            lines.setdefault(f"{of}step {step:,}", []).append((dimensions or layers, value))
    if lines:
        title = f"{run}: {metric} by {'dimensions' if any(size[1] for size in sizes.values()) else 'layers'}"
        yield f"<figure>{svg({name: sorted(points) for name, points in lines.items()}, title)}</figure>\n"


def searches(run: str, examples: Table) -> Iterator[str]:
    """Of some queries the best documents, before and after; the right ones are marked."""
    queries: dict[str, dict[str, list[str]]] = {}
    for moment, found in examples.items():
        for one in found["searches"]:  # the score first: a text may turn what follows it from right to left
            hits = [f"{hit['score']:.3f} {'✓' * hit['right']} {hit['text']}" for hit in one["hits"]]
            queries.setdefault(one["query"], {})[f"{moment}, step {found['step']:,}"] = hits
    if queries:
        yield f"<h2>What some queries find: {safe(run)}</h2>"
        yield "<p>Among the right documents, marked ✓, and up to 1,000 others.</p>"
    for query, moments in queries.items():
        yield f'<h3 dir="auto">{safe(query)}</h3>'
        yield table(moments, zip_longest(*moments.values(), fillvalue=""))


def data(run: str, entry: Table) -> Iterator[str]:
    """A data set, with some of its rows."""
    loss = ", ".join(f"{key} = {value}" for key, value in entry["loss"].items())
    yield f"<h2>Data: {safe(run)}, {safe(entry['name'])}</h2>"
    yield f"<p>{entry['rows']:,} rows, for the loss {safe(loss)}.</p>"
    head = ["column", "in the files", "tokens of a text, mean", "texts cut"]
    columns = entry["columns"].items()
    yield table(head, [[name, own["source"], f"{own['tokens']:.1f}", f"{own['cut']:,}"] for name, own in columns])
    samples = [(i, *cell) for i, sample in enumerate(entry["samples"], 1) for cell in sample.items()]
    yield table(["row", "column", "text"], [[i, name, " · ".join(texts)] for i, name, texts in samples])
