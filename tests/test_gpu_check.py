"""The check of a GPU works where there is none: the CPU held against itself, and faults that it must find."""

import sys
from unittest import mock

import pytest
import torch
from tiny import ROOT

sys.path.append(str(ROOT / "tests/benchmarks"))

import gpu_check

CHECKS = [check.__name__.removeprefix("check_") for check in gpu_check.CHECKS]
SLOW = ("attention", "encoders")  # on a CPU: seconds
LONG = ("gradcache", "steps", "sparse")  # a second or two


def run(*arguments):
    return gpu_check.main(["--device", "cpu", "--texts", "0", *arguments])


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in CHECKS if n not in SLOW]
)
def test_a_device_that_computes_right(name, capsys):
    assert run("--only", name) == 0
    assert "0 wrong" in capsys.readouterr().out


def test_attention(monkeypatch):
    monkeypatch.setattr(gpu_check, "LONG", [70, 65, 64, 3])  # instead of 600 tokens
    monkeypatch.setattr(gpu_check, "TYPES", {torch.float32: 2e-5})
    assert run("--only", "attention") == 0


def test_encoders(monkeypatch):
    monkeypatch.setattr(gpu_check, "FAMILIES", ["mpnet"])  # all of them take a while
    monkeypatch.setattr(gpu_check, "AUTOCAST", {torch.float32: 1e-4})
    assert run("--only", "encoders") == 0


def test_a_wrong_value_is_found(monkeypatch, capsys):
    real = gpu_check.Pooling.forward
    calls = []

    def wrong(self, x, packed):
        calls.append(1)
        return real(self, x, packed) * (1.001 if len(calls) == 7 else 1.0)

    monkeypatch.setattr(gpu_check.Pooling, "forward", wrong)
    assert run("--only", "pooling") == 1
    assert capsys.readouterr().out.count("WRONG") == 1


def test_an_error_is_a_wrong_value(capsys):
    with mock.patch.object(gpu_check, "three_phases", side_effect=RuntimeError("CUDA error: x")):
        assert run("--only", "gradcache") == 1
    assert "WRONG RuntimeError after 0 of them: CUDA error: x" in capsys.readouterr().out


def test_size_of_an_error():
    one = torch.ones(2)
    assert gpu_check.error([one], [one]) == 0
    assert gpu_check.error([one * 3], [one]) == 2
    assert gpu_check.error([one * 300], [one * 200]) == 0.5
    assert gpu_check.error([one], [torch.ones(3)]) == float("inf")
    assert gpu_check.error([one / 0 * 0], [one]) == float("inf")
    assert gpu_check.error([one[:0]], [one[:0]]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nothing_to_check(capsys):
    assert gpu_check.main([]) == 0
    assert "nothing to check" in capsys.readouterr().out


def test_no_check_of_that_name():
    assert run("--only", "x") == 1


def test_speed_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "CHECKS", gpu_check.CHECKS[1:2])
    monkeypatch.setattr("gpu_speed.SHAPES", {"MiniLM-L6": {"hidden_size": 16}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert gpu_check.main(["--device", "cpu", "--texts", "4"]) == 0
    said = capsys.readouterr().out
    assert all(f"MiniLM-L6, {what}" in said for what in ("encode", "train, dropout 0.0", "train, dropout 0.1"))
    assert "nothing to compare with" in said
