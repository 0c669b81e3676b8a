"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108) on a packed token stream.

Its layers are BERT's, half as many; there are no token types, and the fields and weights have other names.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.bert import BertConfig, BertLayer
from minist.encoders.config import activation, check_heads, check_values
from minist.encoders.encoder import Encoder

NORM_EPS = 1e-12  # config.json has no field for it

# our modules -> theirs in a checkpoint; the three of qkv are stacked into one
WEIGHTS = {
    "embeddings.word": ("embeddings.word_embeddings",),
    "embeddings.position": ("embeddings.position_embeddings",),
    "embeddings.norm": ("embeddings.LayerNorm",),
    "layers.{i}.qkv": (
        "transformer.layer.{i}.attention.q_lin",
        "transformer.layer.{i}.attention.k_lin",
        "transformer.layer.{i}.attention.v_lin",
    ),
    "layers.{i}.attention_out": ("transformer.layer.{i}.attention.out_lin",),
    "layers.{i}.attention_norm": ("transformer.layer.{i}.sa_layer_norm",),
    "layers.{i}.up": ("transformer.layer.{i}.ffn.lin1",),
    "layers.{i}.down": ("transformer.layer.{i}.ffn.lin2",),
    "layers.{i}.output_norm": ("transformer.layer.{i}.output_layer_norm",),
}


@dataclass(frozen=True)
class DistilBertConfig:
    """The fields of a DistilBERT config.json that shape the encoder, under their own names."""

    vocab_size: int = 30522
    dim: int = 768
    n_layers: int = 6
    n_heads: int = 12
    hidden_dim: int = 3072
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False  # says how they were drawn; a checkpoint holds them either way
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        check_values(self)
        check_heads(self.dim, self.n_heads, ("dim", "n_heads"))
        activation(self.activation, "activation")

    @property
    def max_length(self) -> int:
        """Longest text that has a position for every token."""
        return self.max_position_embeddings


def bert_config(config: DistilBertConfig) -> BertConfig:
    """The fields that shape a layer, under BERT's names."""
    return BertConfig(
        hidden_size=config.dim,
        num_attention_heads=config.n_heads,
        intermediate_size=config.hidden_dim,
        hidden_act=config.activation,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout,
        layer_norm_eps=NORM_EPS,
    )


class DistilBertEmbeddings(nn.Module):
    """word + position, normalized."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.dim)
        self.position = nn.Embedding(config.max_position_embeddings, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, packed: Packed) -> Tensor:
        """Packed -> [T, D]."""
        x = self.word(packed.input_ids) + self.position(packed.position_ids)
        return self.dropout(self.norm(x))


class DistilBertEncoder(Encoder):
    """Packed -> [T, D]."""

    config_class = DistilBertConfig
    model_type = "distilbert"
    architecture = "DistilBertModel"
    prefix = "distilbert."  # of this encoder inside DistilBertForMaskedLM and its like
    weights = WEIGHTS
    layers_field = "n_layers"

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, config.dim)
        self.embeddings = DistilBertEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(bert_config(config)) for _ in range(config.n_layers))
