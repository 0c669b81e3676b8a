"""Losses that are sums over tokens, for `token_step` of step.py: to guess hidden words, and to write a text again."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number
from minist.data.packed import Packed
from minist.losses.base import Loss, Tensors, check_columns
from minist.modules.decoder import DECODABLE, Decodable, Decoder

__all__ = ["MaskedLMLoss"]  # the loss of a MaskedLM; the other one is for embeddings


class MaskedLMLoss(Loss):
    """Guess the hidden words of a text from those around them (Devlin et al. 2019, arXiv:1810.04805). Of each text
    `mask_ratio` of the tokens are chosen anew in every epoch, see mask_words in data/transforms.py. With x~ the text
    after that, x_t what stood at t, and M all chosen tokens of all texts:
        loss = mean over t in M  -log p(x_t | x~)
    e to the power of it is the perplexity: among how many words, equally likely, the model still doubts."""

    columns, over_tokens = "one column of text", True

    def __init__(self, mask_ratio: float = 0.15, whole_words: bool = True) -> None:
        """`whole_words`: all tokens of a word are chosen together, since the others would give it away."""
        super().__init__()
        self.mask_ratio, self.whole_words = number("mask_ratio", mask_ratio, most=1, above=0), whole_words

    def check(self, embeddings: Tensors, batch: Batch) -> None:
        check_columns(self, embeddings, batch, 1, 1)

    def count(self, columns: Sequence[Packed]) -> int:
        return int((columns[1].input_ids >= 0).sum())

    def forward(self, model: Any, columns: Sequence[Packed], roles: Sequence[str | None]) -> Tensor:
        """Masked texts and targets, as mask_words gives them -> scalar, a sum over the `count` chosen tokens."""
        order = longest_first(columns[0])
        texts, targets = (column.take(order) for column in columns)
        chosen = (targets.input_ids >= 0).nonzero()[:, 0]  # [M]: the last layer and the head need no others
        encoder, head = model.stack
        words = head(encoder(texts.to(model.device), chosen.to(model.device)))
        scores = F.linear(words.x, words.weight, words.bias)  # [M, V]
        return sum_of_errors(scores, targets.input_ids[chosen].to(model.device))


class DenoisingAutoEncoderLoss(Loss):
    """A decoder writes the text from the embedding of a damaged one: TSDAE (Wang et al. 2021, arXiv:2104.06979).
    Columns: damaged text, original text, for instance a column of a file twice, with `delete_words` for the first.
    With e the embedding of the damaged text and x_0 .. x_n the tokens of the original:
        loss = mean over all tokens t >= 1 of all originals  -log p(x_t | x_0 .. x_{t-1}, e)"""

    columns, over_tokens = "damaged text, original text", True

    def __init__(self, tie_encoder_decoder: bool = True) -> None:
        """`tie_encoder_decoder`: the decoder's layers are the encoder's own, else a copy of them."""
        super().__init__()
        self.tie_encoder_decoder = tie_encoder_decoder
        self.decoder: Decoder | None = None

    def attach(self, model: Any, roles: Sequence[str | None], checkpoint: Mapping[str, Tensor]) -> None:
        if len({id(model.tokenizer_for(role)) for role in roles}) > 1:
            raise ValueError("DenoisingAutoEncoderLoss takes two columns of one route: give both the same role")
        encoder = model.stack.reader(roles[0])
        if not isinstance(encoder, Decodable):
            kinds = f"which must be {', '.join(DECODABLE)}; this model has a {type(encoder).__name__}"
            raise ValueError(f"DenoisingAutoEncoderLoss makes its decoder of the encoder, {kinds}")
        self.decoder = Decoder(encoder, model.width, self.tie_encoder_decoder, checkpoint).to(model.device)

    def check(self, embeddings: Tensors, batch: Batch) -> None:
        check_columns(self, embeddings, batch, 2, 2)

    def count(self, columns: Sequence[Packed]) -> int:
        return int((columns[1].position_ids > 0).sum())  # all tokens but the first of each original, which is given

    def forward(self, model: Any, columns: Sequence[Packed], roles: Sequence[str | None]) -> Tensor:
        """Damaged texts and the originals -> scalar, a sum over the `count` tokens."""
        assert self.decoder is not None, "call attach first"
        ((embeddings,),) = model([columns[0]], roles[:1])
        order = longest_first(columns[1])
        so_far, written = texts_so_far(columns[1].take(order).to(embeddings.device))
        scores = self.decoder(model.stack.reader(roles[0]), so_far, embeddings[order.to(embeddings.device)])
        return sum_of_errors(scores, written)


def texts_so_far(texts: Packed) -> tuple[Packed, Tensor]:
    """For every token but the first of its text: the token before it, which the decoder reads, and itself, [T - N]."""
    is_written = texts.position_ids > 0
    is_read = is_written.roll(-1)  # the token before one that is written; the last one's successor is a first token
    return Packed.of(texts.input_ids[is_read], (texts.lengths - 1).clamp(min=0)), texts.input_ids[is_written]


def longest_first(texts: Packed) -> Tensor:
    return texts.lengths.argsort(descending=True, stable=True)  # equal lengths side by side, see rectangles.py


def sum_of_errors(scores: Tensor, words: Tensor) -> Tensor:
    """-log p of each token's word, by its scores of all words, [T, V], [T] -> scalar."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # half types cannot sum so many words
    return F.cross_entropy(scores, words, reduction="sum")
