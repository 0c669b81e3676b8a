"""The kinds of models, by the name that `type` in a config's [model] and `model_type` in a saved folder give them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from minist.checks import pick
from minist.models.device import find_device
from minist.models.folder import load_folder
from minist.models.hub import find_model
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.text_model import TextModel

MODELS: dict[str, type[TextModel]] = {"SentenceTransformer": SentenceTransformer}


def open_model(
    name_or_path: str | Path,
    kind: str = "",
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    keep_layers: Sequence[int] | None = None,
) -> TextModel:
    """The model of that folder or name, of the kind that is given, else that its folder says. A folder that says
    nothing holds a SentenceTransformer. ValueError as of TextModel, and for a kind that there is not."""
    content = load_folder(find_model(name_or_path, revision, token))
    kind = kind or content.settings.get("model_type") or "SentenceTransformer"
    model = pick(f"the type of the model {name_or_path}", kind, MODELS)
    return model(content, device=find_device(device), dtype=dtype, keep_layers=keep_layers)
