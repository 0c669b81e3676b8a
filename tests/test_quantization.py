"""Quantized embeddings against recorded codes and slow definitions."""

import json
import math

import numpy as np
import pytest
from models import DATA

from minist.quantization import PRECISIONS, check_ranges, merge_ranges, quantize, quantized_width

RECORDED = json.loads((DATA / "quantization.json").read_text("utf-8"))


def random(seed, *shape):
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_recorded_codes(precision):
    found = quantize(random(4, 5, 16), precision)
    key = f"quant_{precision}_self" if "int8" in precision else f"quant_{precision}"
    assert found.dtype == PRECISIONS[precision]
    assert found.tolist() == RECORDED[key]


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_recorded_codes_with_ranges_of_other_embeddings(precision):
    found = quantize(random(4, 5, 16) * 1.5, precision, merge_ranges([random(5, 200, 16)]))
    assert found.tolist() == RECORDED[f"quant_{precision}_cal"]


def test_values_outside_the_ranges_are_clipped():
    ranges = merge_ranges([np.array([[1, 20, -3], [4, 5, -60]], np.float32)])
    x = np.array([[-1, 15, 1]], np.float32)
    assert quantize(x, "int8", ranges).tolist() == [[-128, 42, 127]]
    assert quantize(x, "uint8", ranges).tolist() == [[0, 170, 255]]


@pytest.mark.parametrize("width", [1, 8, 13])
def test_bits_one_by_one(width):
    x = random(0, 4, width)
    x[0], x[1], x[2, 0] = 1, -1, 0
    found = quantize(x, "ubinary")
    assert found.shape == (4, quantized_width(width, "ubinary")) == (4, math.ceil(width / 8))
    for row, codes in zip(x, found, strict=True):
        bits = "".join(f"{code:08b}" for code in codes)
        assert bits == "".join("1" if value > 0 else "0" for value in row).ljust(len(bits), "0")
    assert np.array_equal(quantize(x, "binary").astype(int), found.astype(int) - 128)


def test_a_dimension_that_never_changes():
    x = np.array([[1, 0], [1, 255]], np.float32)
    assert quantize(x, "uint8").tolist() == [[0, 0], [0, 255]]


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_a_dimension_that_never_changes_in_given_ranges(precision):
    """Whatever is below it, or above it, has the first or the last code; itself the first."""
    ranges = np.array([[2, 0], [2, 255]], np.float32)
    x = np.array([[2, 7], [1, 7], [3.5, 7], [300, 7]], np.float32)
    found = quantize(x, precision, ranges).astype(int) + (128 if precision == "int8" else 0)
    assert found.tolist() == [[0, 7], [0, 7], [1, 7], [255, 7]]


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("row", [0, 1])
def test_ranges_that_are_no_numbers(wrong, row):
    ranges = merge_ranges([random(0, 5, 4)])
    ranges[row, 2] = wrong
    with pytest.raises(ValueError, match=r"the ranges go from .*(inf|nan).* in dimension 2, 1 of 4 are such"):
        check_ranges(ranges, 4)
    with pytest.raises(ValueError, match="in dimension 2"):
        quantize(random(0, 5, 4), "int8", ranges)
    with pytest.raises(ValueError, match="in dimension 2"):  # nor are those of the embeddings
        quantize(np.concatenate([random(0, 5, 4), ranges]), "int8")


def test_ranges_the_wrong_way_round():
    with pytest.raises(ValueError, match="the ranges go from 1 to 0 in dimension 1, 2 of 3 are such"):
        check_ranges(np.array([[0, 1, 2], [0, 0, 1]], np.float32), 3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_rows(precision):
    found = quantize(np.zeros((0, 12), np.float32), precision)
    assert found.shape == (0, quantized_width(12, precision))
    assert found.dtype == PRECISIONS[precision]


def test_what_cannot_be_quantized():
    with pytest.raises(ValueError, match="precision is 'int4', known are float32, int8, uint8, binary, ubinary"):
        quantize(random(0, 2, 4), "int4")
    with pytest.raises(ValueError, match="the embeddings are int8"):
        quantize(quantize(random(0, 2, 4), "int8"), "int8")
    with pytest.raises(ValueError, match="1 embedding cannot tell the range"):
        quantize(random(0, 1, 4), "int8")
    with pytest.raises(ValueError, match=r"the ranges have shape \[2, 3\].* \[2, 4\]"):
        quantize(random(0, 5, 4), "int8", merge_ranges([random(0, 5, 3)]))
