"""Exact search among quantized embeddings, which may stay on disk: a block of codes is decoded at a time."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.checks import number, pick, whole
from minist.quantization import PRECISIONS, check_ranges, needs_ranges, quantized_width
from minist.retrieval.search import DOCUMENTS, QUERIES, as_rows, in_order, search_block


def search_codes(
    queries: Any, codes: np.ndarray, precision: str, top_k: int = 10, ranges: np.ndarray | None = None,
    rescore_multiplier: int = 4, embeddings: np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scores [Q, k] and rows [Q, k], best first, of the largest products of float queries [Q, D] with decoded codes.

    codes [N, D], or [N, D / 8] bits, as `minist.quantization` makes them; int8 and uint8 with their `ranges` [2, D].
    Queries are not quantized: products with the signs that they have lost would find fewer of the true neighbours.
    With the float `embeddings` [N, D], memory-mapped, the best `rescore_multiplier` * top_k are scored by them, which
    reads these rows alone. Bits need that: of the ten nearest they keep about seven, and with it all but a few."""
    x, k = as_rows(queries).float().cpu(), whole("top_k", top_k, 1)
    pick("precision", precision, PRECISIONS)
    number("the width of the codes", codes.shape[1], width := quantized_width(x.shape[1], precision), width)
    if needs_ranges(precision) and ranges is None:
        raise ValueError(f"{precision} codes mean nothing without their ranges: give those they were made with")
    limits = check_ranges(ranges, x.shape[1]) if ranges is not None else np.zeros((2, x.shape[1]))
    many = k if embeddings is None else k * whole("rescore_multiplier", rescore_multiplier, 1)
    found = [
        search_block(part, as_rows(codes), many, lambda a, block: a @ decode(block, precision, limits).T, DOCUMENTS)
        for part in x.split(QUERIES)
    ]
    scores, rows = (torch.cat(column) for column in zip(*found, strict=True))
    if embeddings is not None:
        rows = rows.sort(dim=1).values  # a disk reads in order, and of equal scores the lower row comes first
        near = (torch.from_numpy(np.asarray(embeddings[line], np.float32)) for line in rows.numpy())
        scores = torch.stack([candidates @ query for candidates, query in zip(near, x, strict=True)])
        scores, rows = in_order(scores.nan_to_num(-torch.inf, torch.inf, -torch.inf), rows, k)
    return scores, rows


def decode(codes: Tensor, precision: str, ranges: np.ndarray) -> Tensor:
    """[N, D] in float32: the lower end of each step for int8 and uint8, 1 and -1 for bits."""
    if precision in ("binary", "ubinary"):
        flipped = codes.numpy().view(np.uint8) ^ np.uint8(0x80 if precision == "binary" else 0)  # minus 128, modulo 256
        return torch.from_numpy(np.unpackbits(flipped, axis=1, count=ranges.shape[1])).float().mul_(2).sub_(1)
    if precision == "float32":
        return codes.float()
    low, high = torch.from_numpy(ranges).float()
    step = torch.where(high == low, 1, (high - low) / 255)
    return codes.float().add_(128 if precision == "int8" else 0).mul_(step).add_(low)
