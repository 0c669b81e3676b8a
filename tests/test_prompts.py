"""The four forms of prompts."""

import pytest

from minist.data.text_column import resolve_prompts

NAMES, COLUMNS = ["nli", "qa"], ["anchor", "positive"]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ("q: ", {"anchor": "q: ", "positive": "q: "}),
        ("", {"anchor": "", "positive": ""}),
        ({}, {"anchor": "", "positive": ""}),
        ({"anchor": "q: "}, {"anchor": "q: ", "positive": ""}),
        ({"positive": "d: ", "anchor": "q: "}, {"anchor": "q: ", "positive": "d: "}),
        ({"nli": "q: "}, {"anchor": "q: ", "positive": "q: "}),
        ({"qa": "q: "}, {"anchor": "", "positive": ""}),
        ({"nli": {"positive": "d: "}, "qa": "q: "}, {"anchor": "", "positive": "d: "}),
        ({"qa": {"elsewhere": "d: "}}, {"anchor": "", "positive": ""}),  # columns of another data set
        ({"nli": "q: ", "anchor": "a: "}, {"anchor": "q: ", "positive": "q: "}),
        ({"qa": "q: ", "anchor": "a: "}, {"anchor": "a: ", "positive": ""}),
    ],
)
def test_forms(prompts, expected):
    found = resolve_prompts(prompts, "nli", NAMES, COLUMNS)
    assert found == expected
    assert list(found) == COLUMNS


def test_a_name_that_is_both_means_the_data_set():
    both = {"anchor": "q: "}
    assert resolve_prompts(both, "anchor", ["anchor", "qa"], COLUMNS) == {"anchor": "q: ", "positive": "q: "}
    assert resolve_prompts(both, "qa", ["anchor", "qa"], COLUMNS) == {"anchor": "", "positive": ""}


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"q": "x"}, "a column or a data set, is 'q', known are anchor, positive, nli, qa"),
        ({"nli": {"q": "x"}}, "a column in the prompts of 'nli' is 'q', known are anchor, positive"),
        ({"nli": {"qa": "x"}}, "a column in the prompts of 'nli' is 'qa', known are anchor, positive"),
        ({"nli": 3}, "prompts of 'nli' are 3: give a text, or a text for each column"),
        ({"anchor": {"positive": "x"}}, "prompts of 'nli' are {'anchor': {'positive': 'x'}}: give a text"),
        ({"nli": {"anchor": ["x"]}}, r"prompts of 'nli' are {'anchor': \['x'\]}: give a text"),
    ],
)
def test_errors(prompts, message):
    with pytest.raises(ValueError, match=message):
        resolve_prompts(prompts, "nli", NAMES, COLUMNS)
