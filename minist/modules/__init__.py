"""The parts of a model by the name that files give their class, which is the last part of modules.json's `type`."""

from minist.encoders.families import Transformer
from minist.module import Module
from minist.modules.dense import Dense, Dropout, LayerNorm, Normalize
from minist.modules.pooling import Pooling
from minist.modules.router import Router
from minist.modules.static_embedding import StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling

MODULES: dict[str, type[Module]] = {
    "Transformer": Transformer,
    "StaticEmbedding": StaticEmbedding,
    "WeightedLayerPooling": WeightedLayerPooling,
    "Pooling": Pooling,
    "Dense": Dense,
    "Normalize": Normalize,
    "LayerNorm": LayerNorm,
    "Dropout": Dropout,
    "Router": Router,
    "Asym": Router,  # as it was called up to version 4
}
