"""ModernBERT (Warner et al. 2024, arXiv:2412.13663) on a packed token stream.

Beside bert.py: it normalizes before each half of a layer and once at the end (pre-LN), has rotations for
positions, a gate in its perceptron, no biases, and two kinds of layers: most see only a window of neighbours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from minist.checks import number
from minist.data.packed import Packed
from minist.encoders.attention import attention
from minist.encoders.config import EncoderConfig, activation, check_values
from minist.encoders.dropout import Dropout
from minist.encoders.encoder import Encoder
from minist.encoders.linear import Linear

Rotation = tuple[Tensor, Tensor]  # cosine and sine of each token's angles
FULL, SLIDING = "full_attention", "sliding_attention"  # the kinds of layers, as config.json calls them

# our modules -> theirs in a checkpoint
WEIGHTS = {
    "embeddings.word": "embeddings.tok_embeddings",
    "embeddings.norm": "embeddings.norm",
    "layers.{i}.attention_norm": "layers.{i}.attn_norm",
    "layers.{i}.qkv": "layers.{i}.attn.Wqkv",  # here they are stacked in the checkpoint too
    "layers.{i}.attention_out": "layers.{i}.attn.Wo",
    "layers.{i}.mlp_norm": "layers.{i}.mlp_norm",
    "layers.{i}.up": "layers.{i}.mlp.Wi",
    "layers.{i}.down": "layers.{i}.mlp.Wo",
    "final_norm": "final_norm",
}


@dataclass(frozen=True)
class ModernBertConfig:
    """The fields of a ModernBERT config.json that shape the encoder. Kinds of layers and bases of the rotations have
    two spellings: that of transformers 5 (layer_types, rope_parameters) counts where it is given."""

    vocab_size: int = 50368
    hidden_size: int = 768
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    intermediate_size: int = 1152
    hidden_activation: str = "gelu"
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    attention_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    norm_eps: float = 1e-5
    max_position_embeddings: int = 8192  # what it was made for: rotations as such know no end
    local_attention: int = 128  # a token of a sliding layer sees half of it to either side
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160000.0
    local_rope_theta: float = 10000.0
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None
    initializer_range: float = 0.02
    pad_token_id: int | None = 0  # not used here, but transformers refuses one beyond a small vocabulary

    def __post_init__(self) -> None:
        check_values(self, "hidden_size", "num_attention_heads", "hidden_activation", parts=2)  # rotated two by two
        given, layers = self.layer_types, self.num_hidden_layers
        known = isinstance(given, list) and all(kind in (FULL, SLIDING) for kind in given)
        if given is not None and (not known or len(given) != layers):
            raise ValueError(f"layer_types is {given!r}, it must be a list of {layers} times {FULL} or {SLIDING}")
        # both spellings say the same from here on, for a reader of the older one
        object.__setattr__(self, "global_rope_theta", _rope_theta(self.rope_parameters, FULL, self.global_rope_theta))
        object.__setattr__(self, "local_rope_theta", _rope_theta(self.rope_parameters, SLIDING, self.local_rope_theta))

    max_length = EncoderConfig.max_length

    @property
    def kinds(self) -> list[str]:
        """FULL or SLIDING, for each layer."""
        every = self.global_attn_every_n_layers
        return self.layer_types or [SLIDING if i % every else FULL for i in range(self.num_hidden_layers)]


def _rope_theta(given: Any, kind: str, otherwise: float) -> float:
    """The base in rope_parameters (`given`) for this kind of layer, or else `otherwise`."""
    parts = {} if given is None else given
    part = parts.get(kind) or {} if isinstance(parts, dict) and parts.keys() <= {FULL, SLIDING} else None
    if not isinstance(part, dict) or part.get("rope_type", part.get("type", "default")) != "default":
        wanted = f"a table with {FULL} and {SLIDING}, each a rope_theta and the rope_type 'default'"
        raise ValueError(f"rope_parameters is {given!r}, it must be {wanted}")
    return float(number(f"the rope_theta of {kind}", part.get("rope_theta", otherwise), above=0, most=1e30))


class ModernBertEmbeddings(nn.Module):
    """Packed -> [T, D]: words, normalized."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = _norm(config)
        self.dropout = Dropout(config.embedding_dropout)

    def forward(self, packed: Packed) -> Tensor:
        return self.dropout(self.norm(self.word(packed.input_ids)))


class ModernBertLayer(nn.Module):
    """Attention, then a gated perceptron (GeGLU, arXiv:2002.05202), each of the normalized input and added to it."""

    def __init__(self, config: ModernBertConfig, number: int) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.kind = config.kinds[number]
        self.window = config.local_attention // 2 if self.kind == SLIDING else None
        self.attention_norm = nn.Identity() if number == 0 else _norm(config)  # the embeddings come normalized
        self.qkv = Linear(width, 3 * width, bias=config.attention_bias)
        self.attention_out = Linear(width, width, bias=config.attention_bias)
        self.mlp_norm = _norm(config)
        self.up = Linear(width, 2 * config.intermediate_size, bias=config.mlp_bias)  # half of it is the gate
        self.act = activation(config.hidden_activation)
        self.down = Linear(config.intermediate_size, width, bias=config.mlp_bias)
        self.dropout = Dropout(config.mlp_dropout)
        self.attention_dropout = Dropout(config.attention_dropout)  # of the scores and of the output

    def forward(self, x: Tensor, packed: Packed, kept: Tensor | None, rotations: dict[str, Rotation]) -> Tensor:
        """[T, D] -> [T, D]; of the tokens `kept` [M] alone, if given, [M, D]. `rotations`: by kind of layer."""
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(1, (3, self.heads, -1)).unbind(1)  # 3 x [T, H, D/H]
        q, k = (rotate(x, rotations[self.kind]) for x in (q, k))  # q k^T then depends on the tokens' distance
        dropout = self.attention_dropout.p if self.training else 0.0
        mixed = attention(torch.stack([q, k, v], 1), packed, window=self.window, dropout=dropout)
        x, mixed = (x, mixed) if kept is None else (x[kept], mixed[kept])
        x = x + self.attention_dropout(self.attention_out(mixed.flatten(1)))
        up, gate = self.up(self.mlp_norm(x)).chunk(2, dim=1)
        return x + self.down(self.dropout(self.act(up) * gate))


def _norm(config: ModernBertConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


def angles(packed: Packed, size: int, theta: float) -> Rotation:
    """Cosine and sine of each token's angles, [T, 1, size/2] each, for heads of `size` numbers (RoPE, Su et al.
    2021, arXiv:2104.09864): the token in place p turns its i-th pair by p / theta^(2i / size)."""
    device = packed.position_ids.device
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2, device=device) / size)
    # once per place, and not per token
    turned = torch.arange(packed.max_seqlen, device=device)[:, None, None] * frequencies
    return turned.cos()[packed.position_ids], turned.sin()[packed.position_ids]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs (x_i, x_{i + half}) of every head in `x` [T, H, D/H]. In float32: half types lose the angle."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=2).to(x.dtype)


class ModernBertEncoder(Encoder):
    """Packed -> [T, D]."""

    config_class, model_type, prefix, weights = ModernBertConfig, "modernbert", "model.", WEIGHTS
    needs_layer_0 = True  # the only one that does without a norm before its attention

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertLayer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = _norm(config)

    def hidden_states(self, packed: Packed, kept: Tensor | None = None, *more: object) -> Iterator[Tensor]:
        thetas = {FULL: self.config.global_rope_theta, SLIDING: self.config.local_rope_theta}
        size = self.width // self.config.num_attention_heads
        rotations = {kind: angles(packed, size, thetas[kind]) for kind in set(self.config.kinds)}
        for place, x in enumerate(super().hidden_states(packed, kept, rotations)):
            yield x if place < len(self.layers) else self.final_norm(x)  # the states between come as they are

    def keep_layers(self, numbers: Sequence[int]) -> None:
        self.check_layers(numbers)
        kinds = [self.config.kinds[i] for i in numbers]  # as they were, but no longer every third
        self.layers = nn.ModuleList(self.layers[i] for i in numbers)
        self.config = replace(self.config, num_hidden_layers=len(kinds), layer_types=kinds)
