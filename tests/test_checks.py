"""Values that a person gave: what passes, and what the message says of what does not."""

import math

import pytest

from minist.checks import SHOWN, listing, number, pick, whole

TABLE = {"cosine": 1, "dot": 2}


def test_pick():
    assert pick("similarity", "dot", TABLE) == 2
    for name in ("cos", None, 3, ["dot"], {}):
        with pytest.raises(ValueError, match=r"^similarity is .*, known are cosine, dot$") as e:
            pick("similarity", name, TABLE)
        assert repr(name) in str(e.value)
    with pytest.raises(ValueError, match="known are none"):
        pick("similarity", "dot", {})


def test_a_message_never_lists_thousands():
    names = [f"name{i}" for i in range(3000)]
    text = listing(names, near="name2999x")
    assert text.startswith("name2999, ") and text.endswith(f" and {3000 - SHOWN:,} more") and len(text) < 400
    assert listing(names[:SHOWN]) == ", ".join(names[:SHOWN])  # in their own order
    assert listing([1.0, None]) == "1.0, None"
    assert listing([]) == "none"


@pytest.mark.parametrize(("value", "limits"), [(3, {}), (0, {"least": 0}), (1.0, {"most": 1}), (1e-9, {"above": 0})])
def test_numbers(value, limits):
    assert number("x", value, **limits) is value


@pytest.mark.parametrize("value", ["1", None, True, [1], math.nan, math.inf, -math.inf])
def test_what_is_no_number(value):
    for check in (number, whole):
        with pytest.raises(ValueError, match=r"^x is .*: use a number$"):
            check("x", value)


def test_whole_numbers():
    assert [whole("x", 3, 1), whole("x", 2.0)] == [3, 2] and type(whole("x", 2.0)) is int
    with pytest.raises(ValueError, match=r"^x is 2.5: use a whole number$"):
        whole("x", 2.5, 1, 3)
    with pytest.raises(ValueError, match="x is 4: use a number at least 1 and at most 3"):
        whole("x", 4, 1, 3)


@pytest.mark.parametrize(
    ("value", "limits", "says"),
    [
        (-1, {"least": 0}, "x is -1: use a number at least 0"),
        (2.5, {"least": 0, "most": 1}, "x is 2.5: use a number at least 0 and at most 1"),
        (0, {"above": 0}, "x is 0: use a number above 0"),
        (math.nan, {"above": 0, "most": 1}, "x is nan: use a number at most 1 and above 0"),
        (10**400, {"most": 1}, "use a number at most 1"),
    ],
)
def test_numbers_out_of_their_limits(value, limits, says):
    with pytest.raises(ValueError, match=says):
        number("x", value, **limits)
