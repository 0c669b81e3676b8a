"""Without an encoder, so very fast on a CPU: the mean of the tokens' vectors, or a weight for each word of a text."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.checks import listing, pick
from minist.data.packed import Packed
from minist.data.tokenizer import Tokenizer
from minist.module import Module, WeightError, finite, unfilled


class StaticEmbedding(Module):
    """Encoder and pooling in one: Packed -> [N, D]; a text without tokens is zero. Its vectors are trained like any
    other weights, or distilled from an encoder (model2vec, Tulkens and van Dongen 2024)."""

    takes, gives, has_config, special_tokens = ("texts",), "embeddings", False, False

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


class SparseStaticEmbedding(Module):
    """Packed -> [N, V], w_v if the text has the word v, however often: mostly the word's rarity; 0 for all others.

    Documents are expanded once by SPLADE, and a query is looked up as it is: "inference-free" retrieval (Geng et al.
    2024, arXiv:2411.04403). `frozen` weights are not trained."""

    takes, gives, special_tokens, config_keys = ("texts",), "sparse", False, (("frozen", "frozen"),)
    package = "sentence_transformers.sparse_encoder.models"

    def __init__(self, vocab_size: int, frozen: bool = False) -> None:
        super().__init__()
        self.vocab_size, self.out_width = vocab_size, vocab_size
        self.frozen = pick("frozen", str(frozen), {"True": True, "False": False})
        self.weight = nn.Parameter(torch.ones(vocab_size), requires_grad=not self.frozen)

    def forward(self, packed: Packed) -> Tensor:
        present = self.weight.new_zeros(packed.n, self.vocab_size)
        present[packed.text_ids, packed.input_ids] = 1  # a word that stands twice too
        return present * self.weight

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "SparseStaticEmbedding":
        module = cls(len(weights["weight"]), config.get("frozen", False)).fill(weights)
        module.weight.requires_grad_(not module.frozen)  # which filling does not ask about
        return module

    @classmethod
    def from_table(cls, weights: Mapping[str, float], tokenizer: Tokenizer, frozen: bool = False) -> Self:
        """By a table token -> weight, as in idf.json; others weigh 0. ValueError for a table of another tokenizer."""
        known = tokenizer.backend.get_vocab()
        if unknown := [token for token in weights if token not in known]:
            raise ValueError(f"{len(unknown):,} tokens of the table are none of the vocabulary: {listing(unknown[:3])}")
        module, values = cls(tokenizer.vocab_size, frozen), torch.tensor(list(weights.values()), dtype=torch.float32)
        module.weight.data = torch.zeros(tokenizer.vocab_size)
        module.weight.data[[known[token] for token in weights]] = values
        return module


def inverse_document_frequencies(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, float]:
    """token -> log((M - m + 0.5) / (m + 0.5) + 1) for a token that stands in m of the M texts, as BM25 has it."""
    tokens = tokenizer(list(texts)).packed()
    once = (tokens.text_ids * tokenizer.vocab_size + tokens.input_ids).unique()  # a number for each text and token
    m = torch.bincount(once % tokenizer.vocab_size, minlength=tokenizer.vocab_size)
    idf = ((tokens.n - m + 0.5) / (m + 0.5) + 1).log().tolist()
    return {token: idf[i] for token, i in tokenizer.backend.get_vocab().items()}
