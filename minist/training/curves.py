"""The figures of a run's metrics.jsonl, and curves of them as SVG: in a page, or a file of its own beside a README."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from minist.checks import number
from minist.files import check_file, parse_json
from minist.training.checkpoint import METRICS

Points = Sequence[tuple[int, float]]  # step, value
WIDTH, HEIGHT = 400, 220  # as wide as a telephone shows, so that its letters stay readable there
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 28, 24  # margins around the lines
LEGEND, LONGEST = 17, 50  # height of a line of the legend, and letters that fit into it
AT_MOST = 400  # points of a line: more than there are pixels
LARGEST = 1e300  # beyond it a difference of two may be infinite
# an eye can tell these apart, on white as on black
COLOURS = ("#4477cc", "#ee7733", "#228855", "#cc3355", "#8855bb", "#aa8800", "#00a0b0", "#b05a7a")
STYLE = """.curves text { font: 11px system-ui, sans-serif; fill: #3c4046 } .curves .title { font-weight: 600 }
.curves path { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.curves .grid { stroke: #8885; stroke-width: 1 }
@media (prefers-color-scheme: dark) { .curves text { fill: #d4d2cd } }"""
# what XML and HTML cannot hold: control characters, halves of characters (surrogates), and places that are none
FORBIDDEN = re.compile("[^\t\n\r -~\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0001fffd\U00020000-\U000efffd]")


def safe(text: Any) -> str:
    """Any text, to stand in HTML or XML between tags or in quotes."""
    return escape(FORBIDDEN.sub("\ufffd", str(text)))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines that a run has logged so far. ValueError for those of another program, which may be anything."""
    file = folder / METRICS
    check_file(file)
    records = []
    for i, line in enumerate(
        file.read_bytes().split(b"\n")[:-1], 1
    ):  # behind the last line end is nothing, or half one
        records.append(parse_json(line, f"{file}, line {i}"))
        step = records[-1].get("step") if isinstance(records[-1], dict) else None
        number(f"{file}, line {i}: the step", step, 0, 1e15)
    return records


def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """By name the (step, value) of each figure, without those that are no finite numbers."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and abs(value) < LARGEST:
                found.setdefault(name, []).append((record["step"], value))
    return found


def thinned(points: Points, at_most: int) -> list[tuple[int, float]]:
    """At most so many, 4 or more: of each stretch first, last, lowest and highest, so that no peak is lost."""
    if len(points) <= at_most:
        return list(points)
    length, kept = math.ceil(len(points) / (at_most // 4)), []
    for start in range(0, len(points), length):
        numbers = range(start, min(start + length, len(points)))
        low, high = (choose(numbers, key=lambda i: points[i][1]) for choose in (min, max))
        kept += sorted({numbers[0], low, high, numbers[-1]})
    return [points[i] for i in kept]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, to rounding, about five: 1, 2 or 5 times a power of 10 apart."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis: some room where all values are alike, or nearly."""
    low, high = min(values), max(values)
    room = (abs(low) / 10 or 1) if high - low <= 1e-9 * max(abs(low), abs(high), 1e-200) else 0
    return low - room, high + room


def svg(lines: Mapping[str, Points], title: str) -> str:
    """A picture of lines by name, thinned: axes and, where there are several, a legend. At least one has a point."""
    lines = {name: thinned(points, AT_MOST) for name, points in lines.items()}
    height = HEIGHT + LEGEND * len(lines) * (len(lines) > 1)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" class="curves" {size} role="img">'
    heading = f'<text class="title" x="8" y="16">{safe(title)}</text>'
    return "\n".join([start, f"<title>{safe(title)}</title><style>{STYLE}</style>", heading, *_inside(lines), "</svg>"])


def _inside(lines: Mapping[str, Points]) -> Iterator[str]:
    steps, values = zip(*(point for points in lines.values() for point in points), strict=True)
    (first, last), (low, high) = limits(steps), limits(values)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(step: float) -> str:
        return f"{LEFT + (step - first) / (last - first) * (right - LEFT):.1f}"

    def y(value: float) -> str:
        return f"{bottom - (value - low) / (high - low) * (bottom - TOP):.1f}"

    yield f'<path class="grid" d="M{LEFT},{TOP}V{bottom}H{right}"/>'
    for tick in ticks(low, high):  # labels: 2e-05, 0.25, 15,000, 1e+07
        yield f'<path class="grid" d="M{LEFT},{y(tick)}H{right}"/>'
        yield f'<text class="y" x="{LEFT - 5}" y="{y(tick)}" dy="4" text-anchor="end">{tick:,.7g}</text>'
    for tick in ticks(first, last):
        if tick % 1 == 0:  # there is no half step
            yield f'<text class="x" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:,.7g}</text>'
    for i, (name, points) in enumerate(lines.items()):
        pen = f'stroke="{COLOURS[i % len(COLOURS)]}" stroke-dasharray="{3 * (i // len(COLOURS)) or "none"}"'
        path = " ".join(f"{x(step)},{y(value)}" for step, value in points)
        yield f'<path class="line" {pen} d="M{path}h0"/>'  # h0: one point alone is a dot
        if len(lines) > 1:
            middle = HEIGHT + i * LEGEND + 4
            yield f'<path {pen} d="M{LEFT},{middle}h22"/>'
            shown = name if len(name) <= LONGEST else f"..{name[2 - LONGEST :]}"  # names of runs differ at their ends
            yield f'<text class="name" x="{LEFT + 30}" y="{middle}" dy="4">{safe(shown)}</text>'
