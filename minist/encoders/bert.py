"""BERT (Devlin et al. 2019, arXiv:1810.04805) on a packed token stream. The other post-LN families share its layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.attention import attention
from minist.encoders.config import EncoderConfig, activation
from minist.encoders.dropout import Dropout
from minist.encoders.encoder import Encoder
from minist.encoders.linear import Linear, activated

# our modules -> theirs in a checkpoint; the three of qkv are stacked into one
WEIGHTS = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.{i}.qkv": "encoder.layer.{i}.attention.self.query|key|value",
    "layers.{i}.attention_out": "encoder.layer.{i}.attention.output.dense",
    "layers.{i}.attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "layers.{i}.up": "encoder.layer.{i}.intermediate.dense",
    "layers.{i}.down": "encoder.layer.{i}.output.dense",
    "layers.{i}.output_norm": "encoder.layer.{i}.output.LayerNorm",
}


@dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """The fields of a BERT config.json that shape the encoder."""

    type_vocab_size: int = 2  # token types: the first text of a pair, and the second


class BertEmbeddings(nn.Module):
    """Packed -> [T, D]: word + token type + position, normalized."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.token_type = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, packed: Packed) -> Tensor:
        x = self.word(packed.input_ids) + self.token_type(packed.token_type_ids) + self.position(packed.position_ids)
        return self.dropout(self.norm(x))


class BertLayer(nn.Module):
    """Attention, then a two-layer perceptron, each added to its input and normalized after (post-LN)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.qkv = Linear(width, 3 * width)  # one product instead of three
        self.attention_out = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up = Linear(width, config.intermediate_size)
        self.act = activation(config.hidden_act)
        self.down = Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.attention_dropout = Dropout(config.attention_probs_dropout_prob)  # set_dropout finds it by its name

    def forward(self, x: Tensor, packed: Packed, kept: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """[T, D] -> [T, D], or [M, D] of the tokens `kept` alone. `bias` [H, max_seqlen, max_seqlen]: see mpnet.py."""
        return self.perceptron(self.self_attention(x, packed, kept, bias))

    def self_attention(
        self, x: Tensor, packed: Packed, kept: Tensor | None = None, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """The first half, [T, D] -> [T, D]. In a decoder, see decoder.py, it is `causal`."""
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1))  # [T, 3D] -> [T, 3, H, D/H]
        dropout = self.attention_dropout.p if self.training else 0.0  # of the weights
        mixed = attention(qkv, packed, bias=bias, causal=causal, dropout=dropout)
        x, mixed = (x, mixed) if kept is None else (x[kept], mixed[kept])
        return self.attention_norm(x + self.dropout(self.attention_out(mixed.flatten(1))))  # heads side by side, [T, D]

    def perceptron(self, x: Tensor) -> Tensor:
        """The second half, [T, D] -> [T, D]."""
        return self.output_norm(x + self.dropout(self.down(activated(self.up, self.act, x))))


class BertEncoder(Encoder):
    """Packed -> [T, D]."""

    model_type, prefix, weights = "bert", "bert.", WEIGHTS
    config_class: ClassVar[Any] = BertConfig
    embeddings_class: ClassVar[type[BertEmbeddings]] = BertEmbeddings
    token_types = True  # the only family here that has them

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.embeddings = self.embeddings_class(config)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
