"""What an evaluator asks of a model: that it embeds texts, or that it scores pairs of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minist.models.sparse_encoder import sparsity

Pair = tuple[str, str]
Samples = Sequence[Mapping[str, Any]]  # of queries: their positives and their candidates


class Embedder(Protocol):
    """A SentenceTransformer, or anything else that gives each text one embedding, [N, D]."""

    similarity_name: str

    def encode(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...
    def encode_query(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...  # with the prompt of queries
    def encode_document(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...


def sparse_figures(embeddings: Mapping[str, Tensor]) -> dict[str, float]:
    """Of sparse embeddings [N, V], by what they are called: how many numbers are not 0, `{name}_active_dims`, and what
    share is, `{name}_sparsity_ratio`; of two kinds `avg_flops`, the products that a query and a document take in the
    mean, sum_v p_v q_v, with the shares of them that have the word v (Formal et al. 2021). Nothing of dense ones."""
    found, shares = dict[str, float](), list[Tensor]()
    for name, x in embeddings.items():
        if not x.is_sparse:
            return {}
        found |= {f"{name}_{figure}": value for figure, value in sparsity(x).items()}
        words = x.indices()[1][x.values() != 0]
        shares.append(torch.bincount(words, minlength=x.shape[1]) / max(len(x), 1))
    return found | ({"avg_flops": (shares[0] * shares[1]).sum().item()} if len(shares) == 2 else {})


class Scorer(Protocol):
    """A CrossEncoder, or anything else that gives each pair a score, [N], or one for each label, [N, labels]."""

    id2label: dict[int, str]

    def predict(self, pairs: Sequence[Pair], /) -> np.ndarray | Tensor: ...


def one_score_each(model: Scorer, pairs: Sequence[Pair]) -> np.ndarray:
    """Scores [N] of all pairs, asked for at once. ValueError if the model has several labels."""
    scores = np.asarray(model.predict(pairs))
    if scores.ndim > 1:
        raise ValueError(f"the model gives a pair {scores.shape[1]} scores, one for each label: a single one is wanted")
    return scores
