"""MaskedLMLoss: to say which words stand behind masks; for `token_step` of step.py."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.batch import Batch
from minist.checks import number
from minist.data.packed import Packed
from minist.losses.base import Loss, check_columns

__all__ = ["MaskedLMLoss"]


class MaskedLMLoss(Loss):
    """Guess the hidden words of a text from those around them (Devlin et al. 2019, arXiv:1810.04805).

    One column of text, no labels; for a MaskedLM. Of each text `mask_ratio` of the tokens are chosen anew in every
    epoch, see mask_words in data/transforms.py. With x~ the text after that, x_t what stood at t, and M all chosen
    tokens of all texts:
        loss = mean over t in M  -log p(x_t | x~)
    e to the power of it is the perplexity: among how many words, equally likely, the model still doubts."""

    columns = "one column of text"
    over_tokens = True

    def __init__(self, mask_ratio: float = 0.15, whole_words: bool = True) -> None:
        """`whole_words`: all tokens of a word are chosen together, since the others would give it away."""
        super().__init__()
        self.mask_ratio, self.whole_words = number("mask_ratio", mask_ratio, most=1, above=0), whole_words

    def check(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        check_columns(self, embeddings, batch, 1, 1)

    def count(self, columns: Sequence[Packed]) -> int:
        return int((columns[1].input_ids >= 0).sum())

    def forward(self, model: Any, columns: Sequence[Packed], roles: Sequence[str | None]) -> Tensor:
        """Masked texts and targets, as mask_words gives them -> scalar, a sum over the `count` chosen tokens."""
        order = columns[0].lengths.argsort(descending=True, stable=True)  # equal lengths side by side, see attention.py
        texts, targets = (column.take(order) for column in columns)
        chosen = (targets.input_ids >= 0).nonzero()[:, 0]  # [M]: the last layer and the head need no others
        encoder, head = model.stack
        words = head(encoder(texts.to(model.device), chosen.to(model.device)))
        scores = F.linear(words.x, words.weight, words.bias)  # [M, V]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # half types cannot sum so many words
        return F.cross_entropy(scores, targets.input_ids[chosen].to(model.device), reduction="sum")
