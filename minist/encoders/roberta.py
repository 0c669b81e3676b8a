"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116) on a packed token
stream. Their layer is BERT's; positions start after the padding id, and there is one token type for all texts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minist.checks import number
from minist.data.packed import Packed
from minist.encoders.bert import BertConfig, BertEmbeddings, BertEncoder


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """BERT's fields, with the numbers of roberta-base; both families write the same config.json."""

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.pad_token_id) is not int or not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id is {self.pad_token_id!r}, it must be from 0 to {self.vocab_size - 1}")
        number("max_position_embeddings", self.max_position_embeddings, least=self.pad_token_id + 2)  # one for a token

    @property
    def max_length(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1  # the first of the table are no token's


class RobertaEmbeddings(BertEmbeddings):
    """Packed -> [T, D]: word + token type 0 + position, normalized."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        self.padding_id = config.pad_token_id

    def forward(self, packed: Packed) -> Tensor:
        position = self.position(roberta_positions(packed, self.padding_id))
        # RoBERTa was trained without token types, and its tokenizers give none, also for the second text of a pair
        return self.dropout(self.norm(self.word(packed.input_ids) + self.token_type.weight[0] + position))


def roberta_positions(packed: Packed, padding_id: int) -> Tensor:
    """The positions of RoBERTa and MPNet, [T]: the tokens of a text count from `padding_id` + 1. A padding id that
    stands in the text itself has the position `padding_id`, and is not counted."""
    counted = packed.input_ids != padding_id
    so_far = torch.cat([counted.new_zeros(1, dtype=torch.long), counted.cumsum(0)])  # [T+1], over all texts
    before_text = so_far[packed.cu_seqlens[:-1].long()]  # [N]
    return (so_far[1:] - before_text[packed.text_ids]) * counted + padding_id


class RobertaEncoder(BertEncoder):
    """Packed -> [T, D]."""

    config_class, embeddings_class, model_type, prefix = RobertaConfig, RobertaEmbeddings, "roberta", "roberta."
    token_types = False


class XLMRobertaEncoder(RobertaEncoder):
    """RoBERTa for a hundred languages: another vocabulary, the same encoder and the same `prefix`."""

    model_type = "xlm-roberta"
