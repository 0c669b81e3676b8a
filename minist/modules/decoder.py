"""A decoder that writes a text from its embedding: the second half of TSDAE (Wang et al. 2021, arXiv:2104.06979).

embeddings [N, D'] and the text so far [T] -> scores of the next token [T, V]

Each of its layers is one of the encoder's, whose tokens see only those before them, with a look at the embedding:
    self-attention (causal) -> cross-attention to the embedding -> perceptron
A masked language model's head compares the last vectors with all words. Cross-attention and head are new weights."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict

import torch.nn.functional as F
from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.bert import BertEncoder, BertLayer
from minist.encoders.distilbert import DistilBertEncoder
from minist.encoders.families import ENCODERS
from minist.encoders.weights import initialize
from minist.modules.masked_lm_head import MaskedLMHead

Decodable = BertEncoder | DistilBertEncoder  # those with BERT's layer
DECODABLE = [name for name, family in ENCODERS.items() if issubclass(family, Decodable)]


class DecoderLayer(nn.Module):
    """What a decoder layer has beside its encoder layer: attention to one vector per text, added and normalized.
    Softmax over a single key is 1, so it is a linear map of the vector: queries and keys would never learn."""

    def __init__(self, embedding_width: int, width: int, eps: float) -> None:
        super().__init__()
        self.value, self.attention_out = nn.Linear(embedding_width, width), nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, packed: Packed, layer: BertLayer, embeddings: Tensor) -> Tensor:
        """[T, D], embeddings [N, D'] -> [T, D]. `layer` is the encoder's; its dropout is used here too."""
        x = layer.self_attention(x, packed, causal=True)
        value = self.value(embeddings)[packed.text_ids].unflatten(1, (layer.heads, -1))  # [T, H, D/H], of its own text
        # dropout of attention takes the one key from a head, or leaves it
        attended = value * layer.attention_dropout(value.new_ones(*value.shape[:2], 1))
        x = self.attention_norm(x + layer.dropout(self.attention_out(attended.flatten(1))))
        return layer.perceptron(x)


class Decoder(nn.Module):
    """Scores of each text's next token, from its embedding and its tokens so far."""

    def __init__(
        self, encoder: Decodable, embedding_width: int, tied: bool, checkpoint: Mapping[str, Tensor] | None = None
    ) -> None:
        """`tied`: layers and word embeddings are the encoder's, and are trained with it; else they are a copy. If
        `checkpoint` has the head of a masked language model, it is the start of this one's."""
        super().__init__()
        sizes = embedding_width, encoder.width, encoder.embeddings.norm.eps
        self.layers = nn.ModuleList(DecoderLayer(*sizes) for _ in encoder.layers)
        self.head = MaskedLMHead({"model_type": encoder.model_type} | asdict(encoder.config))
        initialize(self, encoder.config.initializer_range)  # as BERT draws its own
        if checkpoint and self.head.is_in(checkpoint):
            self.head.fill(checkpoint)
        self.own = None if tied else deepcopy(encoder).train()  # the model may not be in training yet

    def forward(self, encoder: Decodable, packed: Packed, embeddings: Tensor) -> Tensor:
        """Texts so far, embeddings [N, D'] -> scores [T, V]. `encoder` is the one that this decoder was made of."""
        body = encoder if self.own is None else self.own
        x = body.embeddings(packed)
        for look, layer in zip(self.layers, body.layers, strict=True):
            x = body.run_layer(look, x, packed, layer, embeddings)
        return F.linear(self.head.transform(x), body.embeddings.word.weight, self.head.bias)  # a score is a likeness
