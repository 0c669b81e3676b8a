"""StaticEmbedding: a text is the mean of its tokens' vectors. No encoder, so very fast on a CPU."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minist.data.packed import Packed
from minist.module import Module, WeightError, finite, unfilled


class StaticEmbedding(Module):
    """Encoder and pooling in one: Packed -> [N, D]; a text without tokens is zero.

    Its tokenizer puts no special tokens round a text. Vectors are trained like any other weights, or
    distilled from an encoder (model2vec, Tulkens and van Dongen 2024)."""

    takes, gives, has_config = ("texts",), "embeddings", False
    special_tokens = False

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vocab_size, self.out_width = vocab_size, width
        self.embedding = nn.Embedding(vocab_size, width)

    def forward(self, packed: Packed) -> Tensor:
        starts = packed.cu_seqlens[:-1].long()  # of the type of the ids, as the kernel asks
        return F.embedding_bag(packed.input_ids, self.embedding.weight, starts, mode="mean")

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "StaticEmbedding":
        name = "embedding.weight"
        vectors = fold_model2vec(weights) if "embeddings" in weights else weights.get(name)
        if vectors is None:
            raise WeightError(f"the weights have neither {name} nor, as of model2vec, embeddings")
        with unfilled():
            module = cls(*vectors.shape)  # no file says the sizes beside the vectors themselves
        return module.fill({name: vectors})


def fold_model2vec(state: dict[str, Tensor]) -> Tensor:
    """The vectors [V, D] of a model2vec file: `embeddings`, where given picked by `mapping` and scaled by `weights`."""
    vectors = state["embeddings"]
    if "mapping" in state:
        vectors = vectors[state["mapping"].long()]
    vectors = vectors.float()  # int8 and float16 before they are scaled, as model2vec does
    if "weights" in state:
        vectors = vectors * finite("weights", state["weights"])[:, None]  # float64 in some files
    return vectors
