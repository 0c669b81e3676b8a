"""The table of code_table.py counts what it says."""

from code_table import STEP, Counts, Figure, figures, main, measure
from tiny import ROOT

SOURCE = '''"""A file
of two lines."""

import x  # why

# alone
def f(a):  # noqa: X
    """Short."""
    if isinstance(a, int):
        raise ValueError("# no comment")
    return a


class A:
    async def g(self): ...
'''


def test_counts():
    assert measure(SOURCE) == Counts(lines=15, code=7, comments=2, isinstance=1, raises=1, functions=[5, 1])
    assert measure("") == Counts(0, 0, 0, 0, 0, [])


def test_limits():
    most, least, none = Figure("a", 5, 5), Figure("b", 10.0, -10), Figure("c", 9)
    assert most.is_kept and least.is_kept and none.is_kept
    assert not most._replace(value=6).is_kept
    assert not least._replace(value=9.9).is_kept
    assert str(most._replace(value=6)).split() == ["a", "6", "at", "most", "5", "MISSED"]
    assert str(least).split() == ["b", "10.0", "at", "least", "10"]
    assert str(none).split() == ["c", "9"]


def test_the_table_of_this_checkout(capsys):
    assert main(ROOT) == int(not all(figure.is_kept for figure in figures(ROOT)))
    assert len(capsys.readouterr().out.splitlines()) == len(figures(ROOT))
    assert len(set(STEP)) == 16
