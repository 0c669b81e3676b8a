"""minist: sentence-transformers re-told in plain PyTorch."""

from minist.batch import Batch
from minist.data.packed import Packed
from minist.models.cross_encoder import CrossEncoder
from minist.models.sentence_transformer import SentenceTransformer

__all__ = ["Batch", "CrossEncoder", "Packed", "SentenceTransformer"]
