"""minist: sentence-transformers re-told in plain PyTorch."""

from minist.batch import Batch
from minist.data.packed import Packed
from minist.models.cross_encoder import CrossEncoder
from minist.models.masked_lm import MaskedLM
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.sparse_encoder import SparseEncoder

__all__ = ["Batch", "CrossEncoder", "MaskedLM", "Packed", "SentenceTransformer", "SparseEncoder"]
