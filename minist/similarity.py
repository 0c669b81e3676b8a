"""Similarities of embeddings: of all pairs [N, D], [M, D] -> [N, M], and row by row [N, D], [N, D] -> [N].

Larger is more similar, so distances come out negative. A vector [D] is one row. Half types and integers are computed
in fp32, two types in the wider one, and NaN stays NaN."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from minist.checks import pick

Similarity = Callable[[Tensor, Tensor], Tensor]
ROWS = 256  # of sparse embeddings that are dense at a time
NEAR, SAME = 0.1, 3e-7  # distances in lengths: below NEAR, fp32 has few digits of them; below SAME, not even fp64 has


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    common = torch.promote_types(a.dtype, b.dtype)  # matrix products take one type only
    dtype = torch.promote_types(common, torch.float32)  # int8 products would overflow in int8
    return a.to(dtype), b.to(dtype)


def unit(x: Tensor) -> Tensor:
    """x / |x| of each row; a row of zeros stays one, and its gradient is zero too."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    length = x.norm(dim=-1, keepdim=True)
    return torch.where(length <= 1e-12, 0.0, x / length.clamp_min(1e-12))  # else the gradient would be 1e12 there


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """a.b / (|a| |b|)"""
    return dot(*map(unit, _alike(a, b)))


def dot(a: Tensor, b: Tensor) -> Tensor:
    a, b = torch.atleast_2d(*_alike(a, b))
    return a @ b.T


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """-|a - b|; exactly 0 for equal vectors, and so is its gradient."""
    a, b = torch.atleast_2d(*_alike(a, b))
    found, length = torch.cdist(a, b), a.detach().norm(dim=-1, keepdim=True)
    near = found.detach() < NEAR * length
    if near.any():  # cdist takes the root of |a|^2 + |b|^2 - 2 a.b, which cancels: in fp32, |a - a| may be 0.02
        exact = torch.cdist(a.double(), b.double()).to(a.dtype)
        found = torch.where(near, exact.masked_fill(exact <= SAME * length, 0.0), found)
    return -found


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    """-sum |a - b|"""
    a, b = torch.atleast_2d(*_alike(a, b))
    return -torch.cdist(a, b, p=1.0)  # sums of differences: nothing cancels here


def pairwise_cosine(a: Tensor, b: Tensor) -> Tensor:
    return pairwise_dot(*map(unit, _alike(a, b)))


def pairwise_dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.mul(*_alike(a, b)).sum(-1)


def pairwise_angle(a: Tensor, b: Tensor) -> Tensor:
    """|sum(x y) + sum(im(x) re(y) - re(x) im(y))| of each row with its partner, x = a / |a|, y = b / |b| (AnglE).
    The first half of a vector is its real part, the second half the imaginary one; of an odd width the middle number
    is real. Li and Li 2023, arXiv:2309.12871."""
    x, y = map(unit, _alike(a, b))
    n, width = x.shape[-1] // 2, x.shape[-1]  # counted from both ends, which leaves out an odd middle
    real_x, imaginary_x, real_y, imaginary_y = x[..., :n], x[..., width - n :], y[..., :n], y[..., width - n :]
    return ((x * y).sum(-1) + (imaginary_x * real_y - real_x * imaginary_y).sum(-1)).abs()


Table = Mapping[str, Similarity]
SIMILARITIES: Table = {"cosine": cosine, "dot": dot, "euclidean": euclidean, "manhattan": manhattan}
PAIRWISE_SIMILARITIES: Table = {
    "cosine": pairwise_cosine,
    "dot": pairwise_dot,
    "euclidean": lambda a, b: -torch.sub(*_alike(a, b)).norm(dim=-1),  # whose gradient at 0 torch sets to 0
    "manhattan": lambda a, b: -torch.sub(*_alike(a, b)).abs().sum(-1),
}
NEAREST = {"cosine": 1.0, "euclidean": 0.0, "manhattan": 0.0}  # the similarity of a vector with itself; dot has none
# the function of a name, of all pairs and row by row; ValueError where there is none
similarity = partial(pick, "similarity", table=SIMILARITIES)
pairwise_similarity = partial(pick, "similarity", table=PAIRWISE_SIMILARITIES)


def distance(name: str, functions: Table = SIMILARITIES) -> Similarity:
    """The distance of all pairs called `name`: 1 - cosine, |a - b| or sum |a - b|."""
    nearest = pick("distance_metric", name, NEAREST)
    return lambda a, b: nearest - functions[name](a, b)


pairwise_distance = partial(distance, functions=PAIRWISE_SIMILARITIES)


def dense_blocks(x: Tensor) -> Iterator[Tensor]:
    """The rows of [N, D], some at a time: of a sparse tensor the whole would not fit into memory dense."""
    for rows in torch.arange(len(x), device=x.device).split(ROWS):
        part = x.index_select(0, rows)
        yield part.to_dense() if x.is_sparse else part
