"""Curves of a run's figures: what is read, what is kept of many points, and whether a line is where its numbers are."""

import json
import math
import re
from xml.etree import ElementTree

import pytest

from minist.training.curves import AT_MOST, figures, limits, read_metrics, safe, svg, thinned, ticks

WAVE = [(step, 3 * math.sin(step / 37) + step / 500) for step in range(0, 10_000, 7)]


def of_class(picture, name):
    return [part for part in ElementTree.fromstring(picture).iter() if part.get("class") == name]


def scale(picture, axis):
    """Pixel -> number, by the first and the last of the axis's own labels."""
    marks = [(float(mark.get(axis)), float(mark.text.replace(",", ""))) for mark in of_class(picture, axis)]
    (a, low), (b, high) = marks[0], marks[-1]
    return lambda pixel: low + (pixel - a) * (high - low) / (b - a)


def read_lines(picture):
    """The numbers of each line, read from its path as a person reads them from the axes."""
    x, y = scale(picture, "x"), scale(picture, "y")
    paths = [re.findall(r"([\d.]+),([\d.]+)", path.get("d")) for path in of_class(picture, "line")]
    return [[(x(float(a)), y(float(b))) for a, b in path] for path in paths]


def test_lines_are_where_their_numbers_are():
    other = [(step, 1e-5 * step) for step in range(100, 500, 100)]
    found = read_lines(svg({"wave": WAVE, "other": other}, "two"))
    assert len(found) == 2 and len(found[0]) > 200
    for line, points in zip(found, [thinned(WAVE, AT_MOST), other], strict=True):
        assert [step for step, _ in line] == pytest.approx([step for step, _ in points], abs=3)  # 0.1 of 336 pixels
        assert [value for _, value in line] == pytest.approx([value for _, value in points], abs=0.03)


def test_names_and_a_point_alone():
    picture = svg({"a <b>": WAVE, '"c" & \x00\ud800 \u05d0': WAVE}, "</title> & more")
    assert [name.text for name in of_class(picture, "name")] == ["a <b>", '"c" & \ufffd\ufffd \u05d0']
    long = svg({"a" * 50: WAVE, "b" * 49 + "xy": WAVE}, "long")
    assert [name.text for name in of_class(long, "name")] == ["a" * 50, ".." + "b" * 46 + "xy"]
    assert of_class(picture, "title")[0].text == "</title> & more"
    assert of_class(svg({"one": WAVE}, "t"), "name") == []  # the title says what it is
    dot = of_class(svg({"one": [(5, 0.0)]}, "t"), "line")[0].get("d")  # a line of no length, with round ends
    assert re.fullmatch(r"M[\d.]+,[\d.]+h0", dot)


def test_thinned_keeps_what_stands_out():
    points = [(step, 1.0) for step in range(10_000)]
    points[1234], points[8765] = (1234, 9.0), (8765, -9.0)
    found = thinned(points, 100)
    assert len(found) <= 100 and {points[0], points[1234], points[8765], points[-1]} <= set(found)
    assert found == sorted(found)
    assert thinned(points[:100], 100) == points[:100]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.31, 1.02, [0.4, 0.6, 0.8, 1.0]),
        (-3e-5, 2e-5, [-3e-5, -2e-5, -1e-5, 0, 1e-5, 2e-5]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [[0], [7, 7], [1, 1 + 2e-16], [5e-324, 0], [-1e299, 1e299], [-2e-8, 1e9]])
def test_limits_of_any_numbers(values):
    low, high = limits(values)
    assert low <= min(values) <= max(values) <= high and low < high
    assert 2 <= len(ticks(low, high)) <= 11


def test_labels():
    picture = svg({"one": [(10_000, 2e-5), (30_000, 6e-5)]}, "t")
    assert [mark.text for mark in of_class(picture, "x")] == ["10,000", "15,000", "20,000", "25,000", "30,000"]
    assert [mark.text for mark in of_class(picture, "y")] == ["2e-05", "3e-05", "4e-05", "5e-05", "6e-05"]


def test_safe():
    assert (
        safe("<&\"'>\n\x07\ufffe\U0001ffff\U0001f600\u05d0")
        == "&lt;&amp;&quot;&#x27;&gt;\n\ufffd\ufffd\ufffd\U0001f600\u05d0"
    )


def test_what_is_read(tmp_path):
    records = [
        {"step": 1, "loss": 2.0, "data": "a"},
        {"step": 2, "loss": math.nan, "cut": 3},
        {"step": 2, "ndcg": math.inf},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 3, "lo')
    assert len(read_metrics(tmp_path)) == 3
    assert figures(read_metrics(tmp_path)) == {"loss": [(1, 2.0)], "cut": [(2, 3)]}
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"loss", "line 2 is not JSON"),
        (b"", "line 2 is not JSON"),
        (b'{"step": "\xff"}', "line 2 is not JSON"),
        (b'{"step": "7", "loss": 1.0}', "line 2: the step is '7': use a number at least 0"),
        (b'{"step": -1}', "line 2: the step is -1: use a number at least 0"),
        (b'{"step": NaN}', "line 2: the step is nan"),
        (b'{"step": 1' + b"0" * 400 + b"}", "line 2: the step is 1000"),
        (b'{"global_step": 7}', "line 2: the step is None"),
        (b"[7]", "line 2: the step is None"),
    ],
)
def test_lines_of_another_program(line, message, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\r\n' + line + b"\n")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/metrics.jsonl, {message}')}"):
        read_metrics(tmp_path)
