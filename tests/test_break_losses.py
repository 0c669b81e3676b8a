"""break_losses.py knows every loss, and its breaks fit the code. It takes minutes, so it is not run here."""

import pytest
from break_losses import BREAKS, ROOT, broken

from minist import losses


def test_every_loss_is_broken():
    places = {change.place.removeprefix("class ") for change in BREAKS}
    assert set(losses.__all__) - places == set()


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: f"{change.place}: {change.old}")
def test_breaks_fit(change):
    source = (ROOT / change.file).read_text("utf-8")
    compile(broken(source, change), change.file, "exec")
    assert broken(source, change) != source
