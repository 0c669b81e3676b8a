"""break_losses.py knows every loss, and its breaks fit the code. It takes minutes, so it is not run here."""

import pytest
from break_losses import BREAKS, ROOT, broken

from minist import losses
from minist.losses import cross_encoder


@pytest.mark.parametrize("package", [losses, cross_encoder])
def test_every_loss_is_broken(package):
    folder = ROOT.joinpath(*package.__name__.split("."))
    places = {
        change.place.removeprefix("class ").removeprefix("def ")
        for change in BREAKS
        if (ROOT / change.file).parent == folder
    }
    assert {vars(package)[name].__name__ for name in package.__all__} - places == set()  # some have two names


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: f"{change.place}: {change.old}")
def test_breaks_fit(change):
    source = (ROOT / change.file).read_text("utf-8")
    compile(broken(source, change), change.file, "exec")
    assert broken(source, change) != source
