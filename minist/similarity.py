"""Similarities of embeddings: of all pairs [N, D], [M, D] -> [N, M], and row by row [N, D], [N, D] -> [N].

Larger is more similar, so distances come out negative. Half types are computed in fp32.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Similarity = Callable[[Tensor, Tensor], Tensor]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor) -> Tensor:
    """x / |x| of each row; a row of zeros stays one, and its gradient is zero too."""
    x = _wide(x)
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-12, x / length.clamp_min(1e-12), 0.0)  # else the gradient would be 1e12 there


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """a.b / (|a| |b|)"""
    return unit(a) @ unit(b).T


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a.b"""
    return _wide(a) @ _wide(b).T


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """-|a - b|"""
    return -torch.cdist(_wide(a), _wide(b), p=2.0)


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    """-sum |a - b|"""
    return -torch.cdist(_wide(a), _wide(b), p=1.0)


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    """a.b / (|a| |b|) of each row with its partner"""
    return (unit(a) * unit(b)).sum(-1)


def pairwise_dot(a: Tensor, b: Tensor) -> Tensor:
    """a.b of each row with its partner"""
    return (_wide(a) * _wide(b)).sum(-1)


def pairwise_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """-|a - b| of each row with its partner"""
    return -(_wide(a) - _wide(b)).norm(dim=-1)


def pairwise_manhattan(a: Tensor, b: Tensor) -> Tensor:
    """-sum |a - b| of each row with its partner"""
    return -(_wide(a) - _wide(b)).abs().sum(-1)


def pairwise_angle(a: Tensor, b: Tensor) -> Tensor:
    """|sum(x y) + sum(im(x) re(y) - re(x) im(y))| of each row with its partner, x = a / |a|, y = b / |b| (AnglE).

    The first half of a vector is its real part, the second half the imaginary one; of an odd width the middle number
    is real. Li and Li 2023, arXiv:2309.12871.
    """
    x, y = unit(a), unit(b)
    n, width = x.shape[-1] // 2, x.shape[-1]
    real_x, imaginary_x, real_y, imaginary_y = x[..., :n], x[..., width - n :], y[..., :n], y[..., width - n :]
    return ((x * y).sum(-1) + (imaginary_x * real_y - real_x * imaginary_y).sum(-1)).abs()


SIMILARITIES: dict[str, Similarity] = {
    "cosine": cosine,
    "dot": dot,
    "euclidean": euclidean,
    "manhattan": manhattan,
}
PAIRWISE_SIMILARITIES: dict[str, Similarity] = {
    "cosine": pairwise_cosine,
    "dot": pairwise_dot,
    "euclidean": pairwise_euclidean,
    "manhattan": pairwise_manhattan,
}
DISTANCES = ("cosine", "euclidean", "manhattan")


def similarity(name: str) -> Similarity:
    """The function of all pairs called `name`; ValueError lists those there are."""
    return _find(name, SIMILARITIES)


def pairwise_similarity(name: str) -> Similarity:
    """The row by row function called `name`; ValueError lists those there are."""
    return _find(name, PAIRWISE_SIMILARITIES)


def distance(name: str) -> Similarity:
    """The distance of all pairs called `name`: 1 - cosine, |a - b| or sum |a - b|; ValueError lists those there are."""
    return _distance(name, SIMILARITIES)


def pairwise_distance(name: str) -> Similarity:
    """The row by row distance called `name`, as above."""
    return _distance(name, PAIRWISE_SIMILARITIES)


def _distance(name: str, functions: dict[str, Similarity]) -> Similarity:
    if name not in DISTANCES:
        raise ValueError(f"distance_metric is {name!r}, known are {', '.join(DISTANCES)}")
    return partial(_less, 1.0 if name == "cosine" else 0.0, functions[name])


def _less(most: float, function: Similarity, a: Tensor, b: Tensor) -> Tensor:
    return most - function(a, b)


def _find(name: str, functions: dict[str, Similarity]) -> Similarity:
    if name not in functions:
        raise ValueError(f"similarity is {name!r}, known are {', '.join(functions)}")
    return functions[name]
