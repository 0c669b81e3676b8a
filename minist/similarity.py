"""Similarities of embeddings: of all pairs [N, D], [M, D] -> [N, M], and row by row [N, D], [N, D] -> [N].

Larger is more similar, so distances come out negative. Half types are computed in fp32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Callable[[Tensor, Tensor], Tensor]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """a.b / (|a| |b|)"""
    return F.normalize(_wide(a), dim=-1) @ F.normalize(_wide(b), dim=-1).T


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
    return (F.normalize(_wide(a), dim=-1) * F.normalize(_wide(b), dim=-1)).sum(-1)


def pairwise_dot(a: Tensor, b: Tensor) -> Tensor:
    """a.b of each row with its partner"""
    return (_wide(a) * _wide(b)).sum(-1)


def pairwise_euclidean(a: Tensor, b: Tensor) -> Tensor:
    """-|a - b| of each row with its partner"""
    return -(_wide(a) - _wide(b)).norm(dim=-1)


def pairwise_manhattan(a: Tensor, b: Tensor) -> Tensor:
    """-sum |a - b| of each row with its partner"""
    return -(_wide(a) - _wide(b)).abs().sum(-1)


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


def similarity(name: str) -> Similarity:
    """The function of all pairs called `name`; ValueError lists those there are."""
    return _find(name, SIMILARITIES)


def pairwise_similarity(name: str) -> Similarity:
    """The row by row function called `name`; ValueError lists those there are."""
    return _find(name, PAIRWISE_SIMILARITIES)


def _find(name: str, functions: dict[str, Similarity]) -> Similarity:
    if name not in functions:
        raise ValueError(f"similarity is {name!r}, known are {', '.join(functions)}")
    return functions[name]
