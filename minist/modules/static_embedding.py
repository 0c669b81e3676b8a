"""StaticEmbedding: a text is the mean of its tokens' vectors. No encoder, so very fast on a CPU."""

import torch.nn.functional as F
from torch import Tensor, nn

from minist.data.packed import Packed


class StaticEmbedding(nn.Module):
    """Encoder and pooling in one: Packed -> [N, D]; a text without tokens is zero.

    Its tokenizer puts no special tokens round a text. Vectors are trained like any other weights, or
    distilled from an encoder (model2vec, Tulkens and van Dongen 2024).
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)

    @property
    def out_width(self) -> int:
        """Width of the result, D."""
        return self.embedding.embedding_dim

    def forward(self, packed: Packed) -> Tensor:
        """[T] ids -> [N, D]."""
        starts = packed.cu_seqlens[:-1].long()
        return F.embedding_bag(packed.input_ids, self.embedding.weight, starts, mode="mean")


def fold_model2vec(state: dict[str, Tensor]) -> Tensor:
    """The vectors [V, D] of a model2vec file: `embeddings`, where given picked by `mapping` and scaled by `weights`."""
    vectors = state["embeddings"]
    if "mapping" in state:
        vectors = vectors[state["mapping"].long()]
    vectors = vectors.float()  # int8 and float16 before they are scaled, as model2vec does
    if "weights" in state:
        vectors = vectors * state["weights"][:, None]  # float64 in some files
    return vectors.float()
