"""The kinds of models, by the name that `type` in a config's [model] and `model_type` in a saved folder give them."""

from collections.abc import Sequence
from pathlib import Path

from minist.checks import pick
from minist.models.cross_encoder import CrossEncoder
from minist.models.device import Device, Dtype, find_device
from minist.models.hub import open_content
from minist.models.masked_lm import MaskedLM
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.sparse_encoder import SparseEncoder
from minist.models.text_model import TextModel

KINDS = (SentenceTransformer, SparseEncoder, CrossEncoder, MaskedLM)
MODELS: dict[str, type[TextModel]] = {kind.__name__: kind for kind in KINDS}


def open_model(
    name_or_path: str | Path, kind: str = "", *, revision: str | None = None, token: str | None = None,
    device: Device = None, dtype: Dtype = None, keep_layers: Sequence[int] | None = None, num_labels: int = 0,
    adapter: str | Path | None = None,
) -> TextModel:  # fmt: skip
    """The model of that folder or name, of the kind that is given, else that its folder says; where it says nothing, a
    SentenceTransformer. `num_labels` is a CrossEncoder's; 0: as the folder says. ValueError as of TextModel."""
    content = open_content(name_or_path, revision, token, adapter)
    kind = kind or content.settings.get("model_type") or "SentenceTransformer"
    model = pick(f"the type of the model {name_or_path}", kind, MODELS)
    content = model.adapt(content, num_labels or None)
    return model(content, device=find_device(device), dtype=dtype, keep_layers=keep_layers)
