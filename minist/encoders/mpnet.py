"""MPNet (Song et al. 2020, arXiv:2004.09297) on a packed token stream.

Read it beside bert.py: positions start after the padding id, there are no token types, and all
layers add one relative bias to their attention scores.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.attention import attention
from minist.encoders.config import activation, check_heads, check_positions, check_values
from minist.encoders.encoder import Encoder
from minist.encoders.roberta import roberta_positions

PADDING_ID = 1  # MPNet's own, whatever pad_token_id says
MAX_DISTANCE = 128  # further tokens share the last bucket of the relative bias

# our modules -> theirs in a checkpoint; the three of qkv are stacked into one
WEIGHTS = {
    "embeddings.word": ("embeddings.word_embeddings",),
    "embeddings.position": ("embeddings.position_embeddings",),
    "embeddings.norm": ("embeddings.LayerNorm",),
    "relative_bias": ("encoder.relative_attention_bias",),
    "layers.{i}.qkv": (
        "encoder.layer.{i}.attention.attn.q",
        "encoder.layer.{i}.attention.attn.k",
        "encoder.layer.{i}.attention.attn.v",
    ),
    "layers.{i}.attention_out": ("encoder.layer.{i}.attention.attn.o",),
    "layers.{i}.attention_norm": ("encoder.layer.{i}.attention.LayerNorm",),
    "layers.{i}.up": ("encoder.layer.{i}.intermediate.dense",),
    "layers.{i}.down": ("encoder.layer.{i}.output.dense",),
    "layers.{i}.output_norm": ("encoder.layer.{i}.output.LayerNorm",),
}


@dataclass(frozen=True)
class MPNetConfig:
    """The fields of an MPNet config.json that shape the encoder, under their own names."""

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 514
    relative_attention_num_buckets: int = 32
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = PADDING_ID

    def __post_init__(self) -> None:
        check_values(self)
        check_heads(self.hidden_size, self.num_attention_heads)
        activation(self.hidden_act)
        check_positions(self.max_position_embeddings, PADDING_ID)
        if not 4 <= self.relative_attention_num_buckets < 4 * MAX_DISTANCE:  # a quarter of them: exact distances
            given = self.relative_attention_num_buckets
            raise ValueError(f"relative_attention_num_buckets is {given}, it must be from 4 to {4 * MAX_DISTANCE - 1}")

    @property
    def max_length(self) -> int:
        """Longest text that has a position for every token: the first two of the table are never used."""
        return self.max_position_embeddings - PADDING_ID - 1


class MPNetEmbeddings(nn.Module):
    """word + position, normalized."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, packed: Packed) -> Tensor:
        """Packed -> [T, D]."""
        x = self.word(packed.input_ids) + self.position(roberta_positions(packed, PADDING_ID))
        return self.dropout(self.norm(x))


class MPNetLayer(nn.Module):
    """Attention, then a two-layer perceptron, each added to its input and normalized after (post-LN)."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.act = activation(config.hidden_act)
        self.down = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: Tensor, packed: Packed, bias: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, -1)).unbind(1)  # [T, 3D] -> 3 x [T, H, D/H]
        mixed = attention(q, k, v, packed, bias=bias, dropout=self.attention_dropout.p if self.training else 0.0)
        x = self.attention_norm(x + self.dropout(self.attention_out(mixed.flatten(1))))
        return self.output_norm(x + self.dropout(self.down(self.act(self.up(x)))))


class MPNetEncoder(Encoder):
    """Packed -> [T, D]."""

    config_class = MPNetConfig
    model_type = "mpnet"
    architecture = "MPNetModel"
    prefix = "mpnet."  # of this encoder inside MPNetForMaskedLM and its like
    weights = WEIGHTS

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.embeddings = MPNetEmbeddings(config)
        self.relative_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.layers = nn.ModuleList(MPNetLayer(config) for _ in range(config.num_hidden_layers))

    def hidden_states(self, packed: Packed) -> Iterator[Tensor]:
        """The output of the embeddings, then of each layer: L + 1 times [T, D]."""
        places = torch.arange(packed.max_seqlen, device=packed.input_ids.device)
        buckets = relative_buckets(places[None, :] - places[:, None], self.config.relative_attention_num_buckets)
        bias = self.relative_bias(buckets).permute(2, 0, 1)  # [L, L, H] -> [H, L, L], L = max_seqlen
        x = self.embeddings(packed)
        yield x
        for layer in self.layers:
            x = self.run_layer(layer, x, packed, bias)
            yield x


def relative_buckets(distance: Tensor, buckets: int) -> Tensor:
    """T5's bucket of a signed distance: half of the buckets for each direction; of these, half for
    the exact short distances and half for logarithmic steps up to MAX_DISTANCE (arXiv:1910.10683)."""
    half = buckets // 2
    exact = half // 2
    far = distance.abs().clamp(min=1).float()
    steps = exact + (torch.log(far / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).long()
    return (distance > 0) * half + torch.where(distance.abs() < exact, distance.abs(), steps.clamp(max=half - 1))
