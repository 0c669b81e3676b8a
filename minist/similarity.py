"""Similarities of embeddings: of all pairs [N, D], [M, D] -> [N, M], and row by row [N, D], [N, D] -> [N].

Larger is more similar, so distances come out negative. A vector [D] is one row. Half types and integers are computed
in fp32, two types in the wider one, and NaN stays NaN.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from minist.checks import pick

Similarity = Callable[[Tensor, Tensor], Tensor]
SAME = 1e-13  # of the squared length: vectors nearer than 3e-7 of their length are equal, but for rounding in fp32


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()  # int8 products would overflow in int8


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one type, at least fp32."""
    a, b = _wide(a), _wide(b)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def _matrices(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _alike(a, b)
    return torch.atleast_2d(a), torch.atleast_2d(b)


def unit(x: Tensor) -> Tensor:
    """x / |x| of each row; a row of zeros stays one, and its gradient is zero too."""
    x = _wide(x)
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length <= 1e-12, 0.0, x / length.clamp_min(1e-12))  # else the gradient would be 1e12 there


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """a.b / (|a| |b|)"""
    a, b = _alike(a, b)
    return dot(unit(a), unit(b))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a.b"""
    a, b = _matrices(a, b)
    return a @ b.T


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """-|a - b|; exactly 0 for equal vectors, and so is its gradient."""
    a, b = _matrices(a, b)
    x, y = a.double(), b.double()  # the difference below cancels: in fp32 it says that |a - a| is 0.02
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    # |x|^2 + |y|^2 - 2 x.y as one matrix product, many times faster than differences
    squared = torch.cat([x, xx, torch.ones_like(xx)], -1) @ torch.cat([-2 * y, torch.ones_like(yy), yy], -1).T
    same = squared <= SAME * xx
    # 1 before the root, whose gradient at 0 is infinite, and infinity times 0 is NaN
    root = squared.to(a.dtype).masked_fill_(same, 1.0).sqrt()
    return root.masked_fill(same, 0.0).neg_()


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    """-sum |a - b|"""
    return -torch.cdist(*_matrices(a, b), p=1.0)  # sums of differences: nothing cancels here


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    """a.b / (|a| |b|) of each row with its partner"""
    a, b = _alike(a, b)
    return pairwise_dot(unit(a), unit(b))


def pairwise_dot(a: Tensor, b: Tensor) -> Tensor:
    """a.b of each row with its partner"""
    a, b = _alike(a, b)
    return (a * b).sum(-1)


def pairwise_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """-|a - b| of each row with its partner"""
    a, b = _alike(a, b)
    return -(a - b).norm(dim=-1)


def pairwise_manhattan(a: Tensor, b: Tensor) -> Tensor:
    """-sum |a - b| of each row with its partner"""
    a, b = _alike(a, b)
    return -(a - b).abs().sum(-1)


def pairwise_angle(a: Tensor, b: Tensor) -> Tensor:
    """|sum(x y) + sum(im(x) re(y) - re(x) im(y))| of each row with its partner, x = a / |a|, y = b / |b| (AnglE).

    The first half of a vector is its real part, the second half the imaginary one; of an odd width the middle number
    is real. Li and Li 2023, arXiv:2309.12871.
    """
    x, y = map(unit, _alike(a, b))
    n, width = x.shape[-1] // 2, x.shape[-1]  # counted from both ends, which leaves out an odd middle
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
NEAREST = {"cosine": 1.0, "euclidean": 0.0, "manhattan": 0.0}  # the similarity of a vector with itself; dot has none


def similarity(name: str) -> Similarity:
    """The function of all pairs called `name`; ValueError lists those there are."""
    return pick("similarity", name, SIMILARITIES)


def pairwise_similarity(name: str) -> Similarity:
    """The row by row function called `name`; ValueError lists those there are."""
    return pick("similarity", name, PAIRWISE_SIMILARITIES)


def distance(name: str) -> Similarity:
    """The distance of all pairs called `name`: 1 - cosine, |a - b| or sum |a - b|; ValueError lists those there are."""
    return _distance(name, SIMILARITIES)


def pairwise_distance(name: str) -> Similarity:
    """The row by row distance called `name`, as above."""
    return _distance(name, PAIRWISE_SIMILARITIES)


def _distance(name: str, functions: Mapping[str, Similarity]) -> Similarity:
    nearest = pick("distance_metric", name, NEAREST)
    return lambda a, b: nearest - functions[name](a, b)
