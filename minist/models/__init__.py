"""The kinds of models, by the name that `type` in a config's [model] and `model_type` in a saved folder give them."""

from minist.models.sentence_transformer import SentenceTransformer
from minist.models.text_model import TextModel

MODELS: dict[str, type[TextModel]] = {"SentenceTransformer": SentenceTransformer}
