"""Tiny models with routes, for the tests of routers and of their folders."""

import torch
from tiny import sentences, tiny_model
from tokenizers import Tokenizer as Backend

from minist.data.tokenizer import NO_LIMIT, Tokenizer
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Dense, Normalize
from minist.modules.router import Router
from minist.modules.static_embedding import StaticEmbedding

TEXTS = ["", "zebra", *sentences(12, seed=4, longest=40)]


def static_parts(width=16):
    """A StaticEmbedding and its tokenizer, which has other ids than the one of a tiny model."""
    backend = Backend.from_str(tiny_model().tokenizer.backend.to_str())
    backend.add_tokens(["read write", "zebra"])
    tokenizer = Tokenizer(backend, NO_LIMIT, special_tokens=False)
    torch.manual_seed(5)
    return StaticEmbedding(tokenizer.vocab_size, width), tokenizer


def asymmetric(default="document", mappings=None):
    """Queries: StaticEmbedding -> Normalize. Documents: encoder -> Pooling. Then a Dense for both."""
    static, fast = static_parts()
    plain = tiny_model(seed=1)
    routes = {"query": [static, Normalize()], "document": list(plain.stack)}
    router = Router(routes, default, mappings)
    tokenizers = {"query": fast, "document": plain.tokenizer}
    torch.manual_seed(6)
    return SentenceTransformer.from_modules([router, Dense(16, 8)], tokenizers).eval()


def forked():
    """A shared encoder, then a Dense for queries and nothing for documents."""
    plain = tiny_model(seed=2)
    torch.manual_seed(7)
    router = Router({"query": [Dense(16, 16)], "document": []}, "document")
    return SentenceTransformer.from_modules([*plain.stack, router, Normalize()], plain.tokenizer).eval()


def two_towers():
    """An encoder for queries, another one for documents, and one Dense that both use."""
    towers = {"query": tiny_model(seed=3, encoder={"num_hidden_layers": 3}), "document": tiny_model(seed=4)}
    torch.manual_seed(8)
    dense = Dense(16, 16)
    router = Router({name: [*model.stack, dense] for name, model in towers.items()})
    return SentenceTransformer.from_modules([router], {n: m.tokenizer for n, m in towers.items()}).eval()


KINDS = {"asymmetric": asymmetric, "forked": forked, "two towers": two_towers}
