"""The parts of a model by the name that files give their class, which is the last part of modules.json's `type`."""

from minist.encoders.families import Transformer
from minist.module import Module
from minist.modules.classification_head import ClassificationHead
from minist.modules.dense import Dense, Dropout, LayerNorm, Normalize
from minist.modules.masked_lm_head import MaskedLMHead
from minist.modules.pooling import Pooling
from minist.modules.router import Router
from minist.modules.sparse_autoencoder import SparseAutoEncoder
from minist.modules.splade import SpladePooling
from minist.modules.static_embedding import SparseStaticEmbedding, StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling

POOLINGS = (Pooling, WeightedLayerPooling, ClassificationHead, MaskedLMHead, SpladePooling)
READERS = (Transformer, StaticEmbedding, SparseStaticEmbedding)
PARTS = (*READERS, *POOLINGS, SparseAutoEncoder, Dense, Normalize, LayerNorm, Dropout, Router)
MODULES: dict[str, type[Module]] = {part.__name__: part for part in PARTS}
MODULES["Asym"] = Router  # as it was called up to version 4
MODULES["MLMTransformer"] = Transformer  # with the MaskedLMHead in its files, see folder.py
