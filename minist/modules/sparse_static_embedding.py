"""SparseStaticEmbedding: a text's words weigh what a table says, mostly their rarity. No encoder, so a query is free.

    weights [N, V]:  w_v if the text has the word v, however often; 0 for all other words

Documents are expanded once by SPLADE, and a query is looked up as it is: "inference-free" retrieval (Geng et al. 2024,
arXiv:2411.04403). The table is often the inverse document frequency, log((M - m + 0.5) / (m + 0.5) + 1) of a word that
stands in m of M documents.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from minist.checks import listing, pick
from minist.data.packed import Packed
from minist.data.tokenizer import Tokenizer
from minist.module import Module


class SparseStaticEmbedding(Module):
    """Packed -> [N, V]. Its tokenizer puts no special tokens round a text; `frozen` weights are not trained."""

    takes, gives = ("texts",), "sparse"
    package = "sentence_transformers.sparse_encoder.models"
    special_tokens = False
    config_keys = (("frozen", "frozen"),)

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
        """By a table token -> weight, as idf.json holds one; tokens that it has not weigh 0. ValueError for tokens that
        are none of the tokenizer's: the table is another one's."""
        known = tokenizer.backend.get_vocab()
        if unknown := [token for token in weights if token not in known]:
            raise ValueError(f"{len(unknown):,} tokens of the table are none of the vocabulary: {listing(unknown[:3])}")
        module = cls(tokenizer.vocab_size, frozen)
        values = torch.zeros(tokenizer.vocab_size)
        values[[known[token] for token in weights]] = torch.tensor(list(weights.values()), dtype=torch.float32)
        module.weight.data = values
        return module


def inverse_document_frequencies(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, float]:
    """token -> log((M - m + 0.5) / (m + 0.5) + 1) for a token that stands in m of the M texts, as BM25 has it."""
    tokens = tokenizer(list(texts)).packed()
    once = (tokens.text_ids * tokenizer.vocab_size + tokens.input_ids).unique()  # a number for each text and token
    m = torch.bincount(once % tokenizer.vocab_size, minlength=tokenizer.vocab_size)
    idf = ((tokens.n - m + 0.5) / (m + 0.5) + 1).log().tolist()
    return {token: idf[i] for token, i in tokenizer.backend.get_vocab().items()}
