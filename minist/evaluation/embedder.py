"""What an evaluator asks of a model: a SentenceTransformer, or anything else that embeds texts."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor


class Embedder(Protocol):
    """Texts in, one embedding each out, [N, D]."""

    similarity_name: str

    def encode(self, texts: Sequence[str], /) -> np.ndarray | Tensor:
        """Texts that are neither queries nor documents."""

    def encode_query(self, texts: Sequence[str], /) -> np.ndarray | Tensor:
        """Queries, with their prompt and by their route."""

    def encode_document(self, texts: Sequence[str], /) -> np.ndarray | Tensor:
        """Documents, likewise."""
