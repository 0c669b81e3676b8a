"""Which model is the best, and when to stop."""

import pytest

from minist.training.selection import Selection, missed


def test_a_metric_that_should_rise():
    selection = Selection("held_ndcg@10", 2)
    found = [selection.update({"held_ndcg@10": value}, step) for step, value in enumerate([0.2, 0.3, 0.3, 0.1, 0.4])]
    assert found == [True, True, False, False, True]
    assert (selection.best, selection.step, selection.waited) == (0.4, 4, 0)


def test_a_loss_should_fall():
    selection = Selection("eval_held_loss", 0)
    assert [selection.update({"eval_held_loss": value}, 0) for value in (2.0, 3.0, 1.0)] == [True, False, True]


def test_what_is_missed():
    """A limit that is just reached is none; a loss has to stay below its limit, all others above."""
    metrics = {"m": 0.5, "eval_held_loss": 2.0, "x": float("nan"), "x_loss": float("nan")}
    assert list(missed(metrics, {"m": 0.5, "eval_held_loss": 2.0})) == []
    words = ["m = 0.5000, expected at least 0.51", "eval_held_loss = 2.0000, expected at most 1.9"]
    assert list(missed(metrics, {"m": 0.51, "eval_held_loss": 1.9})) == words
    assert len(list(missed(metrics, {"x": -1e9, "x_loss": 1e9}))) == 2
    with pytest.raises(ValueError, match=r"a metric in .expect. is 'other', known are m, eval_held_loss"):
        list(missed(metrics, {"other": 0}))


def test_patience():
    selection = Selection("m", 2)
    stopped = []
    for step, value in enumerate([1.0, 0.5, 2.0, 1.5, 1.0, 9.0]):
        selection.update({"m": value}, step)
        stopped.append(selection.stop)
    assert stopped == [False, False, False, False, True, False]
    never = Selection("m", 0)
    for step in range(5):
        never.update({"m": 0.0}, step)
        assert not never.stop


def test_it_goes_on_from_a_checkpoint():
    before, after = Selection("m", 2), Selection("m", 2)
    before.update({"m": 1.0, "other": 3.0}, 5)
    before.update({"m": 0.5}, 6)
    after.load(before.state())
    assert vars(after) == vars(before)
    assert after.metrics == {"m": 1.0, "other": 3.0}


def test_no_metric_chooses_nothing():
    selection = Selection("", 0)
    selection.check({})
    assert not selection.update({}, 1)
    assert not selection.stop


def test_a_metric_that_no_evaluation_gives():
    with pytest.raises(ValueError, match=r"best in .train. is 'ndcg', known are held_ndcg@10, held_mrr@10"):
        Selection("ndcg", 0).check({"held_ndcg@10": 1.0, "held_mrr@10": 1.0})
