"""The kinds of models, by the name that `type` in a config's [model] and `model_type` in a saved folder give them."""

from minist.checks import pick
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.text_model import TextModel

MODELS: dict[str, type[TextModel]] = {"SentenceTransformer": SentenceTransformer}


def open_model(name_or_path, kind="", *, revision=None, token=None, device=None, dtype=None, keep_layers=None):  # type: ignore[no-untyped-def]
    """The model of a folder or of the hub."""
    return pick("type in [model]", kind or "SentenceTransformer", MODELS)(  # type: ignore[call-arg]
        name_or_path, revision=revision, token=token, device=device, dtype=dtype, keep_layers=keep_layers
    )
