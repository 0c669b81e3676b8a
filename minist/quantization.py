"""Embeddings in fewer bits: one byte per dimension, or one bit.

int8, uint8    each dimension's range from its minimum to its maximum is cut into 255 steps:
               code = clip(floor((x - min) / step), 0, 255), step = (max - min) / 255; int8 is that minus 128
ubinary        bit = x > 0, eight dimensions to a byte, the first in the highest bit
binary         the same byte minus 128, as int8

Source: the definitions of sentence-transformers 6 (`quantize_embeddings`)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from minist.checks import pick

TYPES = {"float32": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}
PRECISIONS: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in TYPES.items()}


def needs_ranges(precision: str) -> bool:
    return precision in ("int8", "uint8")


def quantized_width(width: int, precision: str) -> int:
    """Numbers per embedding of `width` dimensions."""
    return -(-width // 8) if precision in ("binary", "ubinary") else width


def merge_ranges(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """Minimum and maximum of each dimension over the rows of all arrays [n, D], [2, D]."""
    found = [(len(chunk), chunk.min(0), chunk.max(0)) for chunk in chunks]
    rows = sum(n for n, _, _ in found)
    if rows < 2:  # the range of one row is empty, and all others would be clipped to it
        raise ValueError(f"{rows} embedding cannot tell the range of a dimension: give ranges found on more texts")
    return np.stack([np.min([low for _, low, _ in found], 0), np.max([high for _, _, high in found], 0)])


def check_ranges(ranges: np.ndarray, width: int) -> np.ndarray:
    """`ranges`, if it holds a finite minimum and maximum for each of `width` dimensions."""
    if ranges.shape != (2, width):
        raise ValueError(f"the ranges have shape {list(ranges.shape)}: wanted are minimum and maximum, [2, {width}]")
    wrong = ~(np.isfinite(ranges).all(0) & (ranges[0] <= ranges[1]))
    if wrong.any():
        low, high = ranges[:, wrong.argmax()]
        where = f"in dimension {wrong.argmax()}, {wrong.sum()} of {width} are such"
        raise ValueError(f"the ranges go from {low:g} to {high:g} {where}: give finite numbers, the minimum first")
    return ranges


def quantize(embeddings: np.ndarray, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """[N, D] floats -> [N, quantized_width(D)] of the type PRECISIONS[precision]. `ranges` [2, D], for int8 and uint8,
    should come from many texts, and be the same for queries and documents; None takes those of `embeddings`."""
    dtype = pick("precision", precision, PRECISIONS)
    if embeddings.dtype.kind != "f":
        raise ValueError(f"the embeddings are {embeddings.dtype}: only floating point numbers can be quantized")
    if precision in ("binary", "ubinary"):
        bits = np.packbits(embeddings > 0, axis=-1)
        codes = bits.astype(np.int16) - 128  # int16: a byte holds no negative number and an int8 no 255
        return bits if precision == "ubinary" else codes.astype(np.int8)
    if precision == "float32" or not len(embeddings):
        return embeddings.astype(dtype)
    ranges = check_ranges(merge_ranges([embeddings]) if ranges is None else ranges, embeddings.shape[1])
    low, high = ranges.astype(np.float32)
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)  # a dimension that never changes has code 0, as 0 / 0 has none
    codes = np.clip(np.floor((embeddings - low) / step), 0, 255)  # clipped: ranges of other texts may be too narrow
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)
