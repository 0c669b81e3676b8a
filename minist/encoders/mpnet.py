"""MPNet (Song et al. 2020, arXiv:2004.09297) on a packed token stream. Its layer is BERT's; positions start after the
padding id, there are no token types, and all layers add one relative bias to their attention scores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minist.checks import number
from minist.data.packed import Packed
from minist.encoders import bert
from minist.encoders.config import EncoderConfig
from minist.encoders.distilbert import PlainEmbeddings
from minist.encoders.encoder import Encoder
from minist.encoders.roberta import roberta_positions

PADDING_ID = 1  # MPNet's own, whatever pad_token_id says
MAX_DISTANCE = 128  # further tokens share the last bucket of the relative bias

# as BERT's, see there, but for the attention
WEIGHTS = bert.WEIGHTS | {
    "relative_bias": "encoder.relative_attention_bias",
    "layers.{i}.qkv": "encoder.layer.{i}.attention.attn.q|k|v",
    "layers.{i}.attention_out": "encoder.layer.{i}.attention.attn.o",
    "layers.{i}.attention_norm": "encoder.layer.{i}.attention.LayerNorm",
}


@dataclass(frozen=True)
class MPNetConfig(EncoderConfig):
    """The fields of an MPNet config.json that shape the encoder, with the numbers of mpnet-base."""

    vocab_size: int = 30527
    max_position_embeddings: int = 514
    relative_attention_num_buckets: int = 32
    pad_token_id: int | None = PADDING_ID

    def __post_init__(self) -> None:
        super().__post_init__()
        number("max_position_embeddings", self.max_position_embeddings, least=PADDING_ID + 2)  # one for a token
        buckets = self.relative_attention_num_buckets  # a quarter of them are for exact distances: some, and not all
        number("relative_attention_num_buckets", buckets, 4, 4 * MAX_DISTANCE - 1)

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings - PADDING_ID - 1  # the first two of the table are no token's


class MPNetEmbeddings(PlainEmbeddings):
    """Packed -> [T, D]: word + position, normalized."""

    def forward(self, packed: Packed) -> Tensor:
        return super().forward(packed._replace(position_ids=roberta_positions(packed, PADDING_ID)))


class MPNetEncoder(Encoder):
    """Packed -> [T, D]."""

    config_class, model_type, prefix, weights = MPNetConfig, "mpnet", "mpnet.", WEIGHTS

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.embeddings = MPNetEmbeddings(config)
        self.relative_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.layers = nn.ModuleList(bert.BertLayer(config) for _ in range(config.num_hidden_layers))

    def hidden_states(self, packed: Packed, kept: Tensor | None = None, *more: object) -> Iterator[Tensor]:
        places = torch.arange(packed.max_seqlen, device=packed.input_ids.device)
        buckets = relative_buckets(places[None, :] - places[:, None], self.config.relative_attention_num_buckets)
        bias = self.relative_bias(buckets).permute(2, 0, 1)  # [L, L, H] -> [H, L, L], L = max_seqlen
        return super().hidden_states(packed, kept, bias)


def relative_buckets(distance: Tensor, buckets: int) -> Tensor:
    """T5's bucket of a signed distance: half of the buckets for each direction; of these, half for
    the exact short distances and half for logarithmic steps up to MAX_DISTANCE (arXiv:1910.10683)."""
    half, exact = buckets // 2, buckets // 4
    far = distance.abs().clamp(min=1).float()  # the logarithm of 0 would be -inf, also where it is not taken
    steps = exact + (torch.log(far / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).long()
    return (distance > 0) * half + torch.where(distance.abs() < exact, distance.abs(), steps.clamp(max=half - 1))
