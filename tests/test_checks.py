"""Checks of given values, and what they say."""

import math

import pytest

from minist.checks import listing, number, pick

TABLE = {"cosine": 1, "dot": 2, "euclidean": 3}


def test_pick():
    assert pick("similarity", "dot", TABLE) == 2
    for wrong in ("cos", None, 1, ["dot"]):
        with pytest.raises(ValueError, match=r"^similarity is .*, known are cosine, dot, euclidean$"):
            pick("similarity", wrong, TABLE)


def test_listing():
    assert listing([]) == "none"
    assert listing(TABLE) == "cosine, dot, euclidean"
    many = listing((f"column {i}" for i in range(3000)), near="column 2999")
    assert many.startswith("column 2999, ")
    assert many.endswith(" and 2,970 more")
    assert len(many) < 1000


def test_number():
    assert number("lr", 0.5, 0, 1) == 0.5
    assert number("lr", 3) == 3
    for wrong in (True, "1", None, -1, 2, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^lr is .*: use a number at least 0 and at most 1$"):
            number("lr", wrong, 0, 1)
    with pytest.raises(ValueError, match=r"^lr is 0: use a number above 0$"):
        number("lr", 0, above=0)
