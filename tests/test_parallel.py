"""Encoding in several processes. A start costs seconds, so one call shows much."""

from multiprocessing.process import BaseProcess

import numpy as np
import pytest
from routed import forked
from tiny import sentences, tiny_model

from minist.models import device as devices
from minist.models.device import SHARES, embed_on

TWO = ["cpu", "cpu"]


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.prompts["topic"] = "sort: "
    return model


@pytest.fixture
def no_processes(monkeypatch):
    """Nothing may start one."""

    def fail(*arguments):
        raise AssertionError("a process was started")

    monkeypatch.setattr(BaseProcess, "start", fail)


@pytest.mark.slow
def test_equals_one_process_in_order(model):
    """More texts than shares, not a multiple of them; a pair among them, and every setting that there is."""
    texts = sentences(SHARES * 2 * 3 + 5, seed=1, longest=30)
    texts[7] = ("read file", "sort list")
    settings = {"prompt_name": "topic", "batch_tokens": 40, "normalize_embeddings": True, "truncate_dim": 12}
    model.train()
    found = model.encode(texts, device=TWO, **settings)
    assert model.training
    expected = model.encode(texts, **settings)
    assert found.shape == (len(texts), 12)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert np.abs(found - expected[::-1]).max() > 0.1, "the texts differ, so their order was seen"


@pytest.mark.slow
def test_one_text_for_two_devices(model):
    found = model.encode("read file", device=TWO)
    assert found.shape == (16,)
    np.testing.assert_allclose(found, model.encode("read file"), atol=1e-6, rtol=0)


def test_no_texts(model, no_processes):
    assert model.encode([], device=TWO).shape == (0, 16)


@pytest.mark.slow
def test_an_error_in_a_process_arrives(model):
    with pytest.raises(ValueError, match="the role is 'passage'"):
        embed_on(TWO, forked(), ["read", "write"], "", 0, lambda n: None, "passage")


@pytest.mark.slow
def test_a_process_that_does_not_start(model):
    message = "a process on toaster ended too early: is there memory for 1 models, .* below `if __name__"
    with pytest.raises(ValueError, match=message):
        embed_on(["toaster"], model, ["read"], "", 0, lambda n: None, None)


def test_a_device_that_does_not_exist(model, no_processes):
    with pytest.raises(ValueError, match="device is 'toaster', which cannot be used here"):
        model.encode(["read"], device=["cpu", "toaster"])
    with pytest.raises(AssertionError, match="a process was started"):
        model.encode(["read"], device=TWO)


def test_texts_are_shared_out(model, monkeypatch):
    """In parts of equal size, all of them, in order."""
    jobs = []

    class Pool:
        def __init__(self, count, context, start, arguments):
            jobs.append(count)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def map(self, function, parts):
            jobs.extend(parts)
            return []

    monkeypatch.setattr(devices, "ProcessPoolExecutor", Pool)
    for count in (1, 15, 16, 17, 100):
        jobs.clear()
        embed_on(TWO, model, range(count), "p: ", 9, lambda n: None, "query")
        processes, *parts = jobs
        assert processes == 2
        assert [i for part, *_ in parts for i in part] == list(range(count))
        assert {part[1:] for part in parts} == {("p: ", 9, "query")}
        assert len(parts) <= 2 * SHARES
        sizes = [len(part[0]) for part in parts]
        assert set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0]
