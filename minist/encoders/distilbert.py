"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108) on a packed token stream: BERT with half as many layers and without
token types. Its fields and weights have other names."""

from dataclasses import dataclass

from torch import Tensor, nn

from minist.data.packed import Packed
from minist.encoders.bert import BertLayer
from minist.encoders.config import EncoderConfig, check_values
from minist.encoders.dropout import Dropout
from minist.encoders.encoder import Encoder

# our modules -> theirs in a checkpoint; the three of qkv are stacked into one
WEIGHTS = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.{i}.qkv": "transformer.layer.{i}.attention.q_lin|k_lin|v_lin",
    "layers.{i}.attention_out": "transformer.layer.{i}.attention.out_lin",
    "layers.{i}.attention_norm": "transformer.layer.{i}.sa_layer_norm",
    "layers.{i}.up": "transformer.layer.{i}.ffn.lin1",
    "layers.{i}.down": "transformer.layer.{i}.ffn.lin2",
    "layers.{i}.output_norm": "transformer.layer.{i}.output_layer_norm",
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
        check_values(self, "dim", "n_heads", "activation")

    max_length = EncoderConfig.max_length

    def as_bert(self) -> EncoderConfig:
        """The same shape as BERT has it, in its order. layer_norm_eps is BERT's in all models."""
        shape = self.vocab_size, self.dim, self.n_layers, self.n_heads, self.hidden_dim, self.activation
        return EncoderConfig(*shape, self.dropout, self.attention_dropout, self.max_position_embeddings)


class PlainEmbeddings(nn.Module):
    """Packed -> [T, D]: word + position, normalized."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, packed: Packed) -> Tensor:
        return self.dropout(self.norm(self.word(packed.input_ids) + self.position(packed.position_ids)))


class DistilBertEncoder(Encoder):
    """Packed -> [T, D]."""

    config_class, model_type, prefix, weights = DistilBertConfig, "distilbert", "distilbert.", WEIGHTS
    layers_field = "n_layers"  # which keep_layers changes

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config, config.dim)
        self.embeddings = PlainEmbeddings(config.as_bert())
        self.layers = nn.ModuleList(BertLayer(config.as_bert()) for _ in range(config.n_layers))
