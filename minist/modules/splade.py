"""SPLADE: which words would a search for this text use? Words, scores [T, V] -> weights [N, V], most of them 0.

    w_v = log(1 + relu(max_t x_t . word_v + b_v))     the largest score of the word v over the text's tokens t
Every token of a text names words that could stand in its place, so a text also finds those that it does not contain
(Formal et al. 2021, arXiv:2107.05720; the maximum: arXiv:2109.10086). A regularizer keeps most weights at 0, see
losses/sparse.py, and an inverted index searches the rest.

The scores of 8,192 tokens for 30,522 words would take a gigabyte, and as much again for each function of them. But
log(1 + relu(x)) rises with x: so the maximum is taken first, in blocks of words, and never [T, V] as a whole."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minist.checks import pick
from minist.data.packed import Packed
from minist.module import Module, Words

BLOCK = 1 << 22  # scores at a time: 16 MB
ACTIVATIONS = {  # of a score x
    "relu": lambda x: x.relu().log1p(),
    "log1p_relu": lambda x: x.relu().log1p().log1p(),  # which lowers large weights once more
}


class SpladePooling(Module):
    """One weight per text and word, of the largest of its tokens' scores for it, or of the sum of their weights."""

    takes, gives, has_weights = ("words",), "sparse", False
    package = "sentence_transformers.sparse_encoder.models"

    def __init__(self, width: int | None = None, strategy: str = "max", activation: str = "relu") -> None:
        super().__init__()
        pick("pooling_strategy", strategy, {"max": "the largest", "sum": "all"})
        self.in_width, self.strategy, self.activation = width, strategy, activation
        self.act = pick("activation_function", activation, ACTIVATIONS)

    def forward(self, words: Words, packed: Packed) -> Tensor:
        """Words of T tokens -> [N, V]."""
        if self.strategy == "max":
            return self.act(LargestScore.apply(*words, packed.lengths))
        return torch.cat([checkpoint(self._sum, part, packed, use_reentrant=False) for part in blocks(words)], dim=1)

    def _sum(self, words: Words, packed: Packed) -> Tensor:
        """Of a block of words; backward computes their scores again, else all would be kept."""
        return torch.segment_reduce(self.act(scores(words)), "sum", lengths=packed.lengths, unsafe=True)

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        shape = {"pooling_strategy": self.strategy, "activation_function": self.activation}
        return shape | {"word_embedding_dimension": self.in_width}, {}

    @classmethod
    def arguments(cls, config: dict[str, Any]) -> tuple[Any, ...]:
        width = config.get("embedding_dimension", config.get("word_embedding_dimension"))  # version 6, version 5
        return width, config.get("pooling_strategy", "max"), config.get("activation_function", "relu")


def blocks(words: Words) -> list[Words]:
    size = max(BLOCK // max(len(words.x), 1), 1)
    parts = zip(words.weight.split(size), words.bias.split(size), strict=True)
    return [Words(words.x, weight, bias) for weight, bias in parts]


def scores(words: Words) -> Tensor:
    """[T, V], multiplied out."""
    return torch.addmm(words.bias, words.x, words.weight.T)


class LargestScore(torch.autograd.Function):
    """max over each text's tokens of x_t . word_v + b_v, [N, V]; 0 for a text without tokens.
    Its gradient goes to one token per text and word. Which one it was is not kept: backward looks for it again, among
    the words whose weight is above 0 alone, a tenth of the vocabulary or less in a model that is sparse."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, lengths: Tensor) -> Tensor:
        half = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        found, first = x.new_empty(len(lengths), len(weight), dtype=half), 0
        for part in blocks(Words(x.to(half), weight.to(half), bias.to(half))):
            place = slice(first, first := first + len(part.bias))  # into one tensor: small ones between large are holes
            found[:, place] = largest(scores(part), lengths)
        ctx.save_for_backward(x, weight, lengths)
        ctx.half = half
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, lengths = ctx.saved_tensors
        of_x, of_weight = torch.zeros_like(x), torch.zeros_like(weight)
        texts = (t.split(lengths.tolist()) for t in (x, of_x))
        for tokens, of_tokens, row in zip(*texts, gradient, strict=True):
            if len(tokens) == 0:  # its zeros come from no token
                continue
            for words in row.nonzero()[:, 0].split(max(BLOCK // len(tokens), 1)):  # [K]
                part, own = weight[words].to(ctx.half), tokens.to(ctx.half)  # [K, D], [length, D]
                best = (own @ part.T).argmax(0)  # [K]; a word's bias is the same for all tokens
                of_scores = own.new_zeros(len(own), len(words)).scatter_(0, best[None], row[None, words].to(ctx.half))
                of_tokens += of_scores @ part
                if ctx.needs_input_grad[1]:
                    of_weight[words] += (of_scores.T @ own).to(weight)  # no word is twice in a text
        return of_x, of_weight, gradient.sum(0).to(weight), None


def largest(scores: Tensor, lengths: Tensor) -> Tensor:
    """Of scores [T, V] of texts with `lengths` [N]: the largest of each text, [N, V].

    Texts of one length that stand side by side, as stack.py sorts them, are one tensor [n, length, V]."""
    found, start = [scores[:0]], 0  # of no texts [0, V], since a rank may have none
    for length, count in zip(*(x.tolist() for x in lengths.unique_consecutive(return_counts=True)), strict=True):
        part = scores[start : start + count * length].unflatten(0, (count, length))
        found.append(part.amax(1) if length else scores.new_zeros(count, scores.shape[1]))
        start += count * length
    return torch.cat(found)
