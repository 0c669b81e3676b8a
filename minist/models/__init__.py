"""The kinds of models, by the names that a config and a model folder have for them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from minist.models.sentence_transformer import SentenceTransformer
from minist.models.text_model import TextModel

MODELS = {"SentenceTransformer": SentenceTransformer}


def open_model(
    name_or_path: str | Path,
    kind: str = "",
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    keep_layers: Sequence[int] | None = None,
) -> SentenceTransformer:
    """The model of a folder, or of a name on the hub."""
    return SentenceTransformer(
        name_or_path, revision=revision, token=token, device=device, dtype=dtype, keep_layers=keep_layers
    )
