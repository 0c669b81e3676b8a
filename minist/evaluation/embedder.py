"""What an evaluator asks of a model: that it embeds texts, or that it scores pairs of them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

Pair = tuple[str, str]


class Embedder(Protocol):
    """A SentenceTransformer, or anything else that gives each text one embedding, [N, D]."""

    similarity_name: str

    def encode(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...
    def encode_query(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...  # with the prompt of queries
    def encode_document(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...


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
