"""python -m minist: one screen lists the commands, and the help of each has an example."""

import pytest
from tiny import run_script

from minist.__main__ import COMMANDS


def test_one_screen():
    code, printed, _ = run_script("minist/__main__.py", "--help")
    assert code == 0 and len(printed.splitlines()) <= 24
    assert all(f"\n    {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_an_example(name):
    code, printed, _ = run_script("minist/__main__.py", name, "--help")
    assert code == 0 and f"\npython -m minist {name} --" in printed
