"""Pooling: from one vector per token to one vector per text, [T, D] -> [N, D]."""

from typing import Any

import torch
from torch import Tensor

from minist.checks import pick
from minist.data.packed import Packed
from minist.module import Module

# mode -> its flag in config.json, in the order in which several are concatenated unless a folder says another
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
MODES = tuple(FLAGS)


class Pooling(Module):
    """One or several poolings side by side; `include_prompt=False` leaves the prompt's tokens out of all of them.

    cls                   the first token
    max                   the largest value of each dimension
    mean                  the average of the tokens (Reimers and Gurevych 2019, arXiv:1908.10084)
    mean_sqrt_len_tokens  their sum over the square root of their number
    weightedmean          an average in which the i-th token weighs i (Muennighoff 2022, arXiv:2202.08904)
    lasttoken             the last token

    A text without any token, where a tokenizer adds none, is zeros. Sums are made in fp32 or better.
    """

    takes, gives, has_weights = ("tokens",), "embeddings", False

    def __init__(self, width: int, modes: tuple[str, ...] = ("mean",), include_prompt: bool = True) -> None:
        """`width` is D, the encoder's. ValueError for an unknown mode."""
        super().__init__()
        for mode in modes or ("missing",):
            pick("pooling mode", mode, FLAGS)
        self.in_width, self.out_width = width, width * len(modes)
        self.modes, self.include_prompt = modes, include_prompt

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """[T, D] -> [N, D * number of modes]."""
        if not len(x):  # no token to point at: zeros that still hang on the graph, so that backward runs
            return x.sum(0).repeat(packed.n, len(self.modes))
        skip = torch.zeros_like(packed.prompt_lengths) if self.include_prompt else packed.prompt_lengths
        pooled = torch.cat([pool(mode, x, packed, skip) for mode in self.modes], dim=1)
        return pooled.masked_fill((packed.lengths == 0)[:, None], 0.0)  # else they would be their neighbour's

    def to_folder(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        config: dict[str, Any] = {"word_embedding_dimension": self.in_width}
        config |= {flag: mode in self.modes for mode, flag in FLAGS.items()}
        if list(self.modes) != sorted(self.modes, key=MODES.index):
            # flags have no order: only the spelling of version 6 can keep another one
            config = {"embedding_dimension": self.in_width, "pooling_mode": list(self.modes)}
        return config | {"include_prompt": self.include_prompt}, {}

    @classmethod
    def from_folder(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "Pooling":
        include_prompt = config.get("include_prompt", True)
        if include_prompt not in (True, False):
            raise ValueError(f"include_prompt is {include_prompt!r}, it must be true or false")
        if "pooling_mode" in config:  # version 6
            modes = [config["pooling_mode"]] if type(config["pooling_mode"]) is str else config["pooling_mode"]
            return cls(config["embedding_dimension"], tuple(modes), include_prompt)
        names = {flag: mode for mode, flag in FLAGS.items()}
        about = ("word_embedding_dimension", "include_prompt")
        asked = [pick("pooling", key, names) for key, value in config.items() if value and key not in about]
        modes = sorted(asked, key=MODES.index) or ["mean"]
        return cls(config["word_embedding_dimension"], tuple(modes), include_prompt)


def pool(mode: str, x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """One pooling over the tokens of each text but the first `skip` [N]: [T, D] -> [N, D]."""
    if mode == "cls":
        first = packed.cu_seqlens[:-1] + torch.minimum(
            skip, packed.lengths - 1
        )  # of a text that is all prompt, its last
        return x[first.clamp(min=0)]
    if mode == "lasttoken":
        return x[(packed.cu_seqlens[1:] - 1).clamp(min=0)]
    if mode == "max":
        return max_pool(x, packed, skip)
    count = (packed.lengths - skip).clamp(min=1)
    if mode == "mean":
        return token_sum(x, packed, skip, None, count)
    if mode == "mean_sqrt_len_tokens":
        return token_sum(x, packed, skip, None, count.to(torch.promote_types(x.dtype, torch.float32)).sqrt())
    # weights skip + 1 .. length of the kept tokens, and their sum
    weights_sum = (packed.lengths * (packed.lengths + 1) - skip * (skip + 1)).clamp(min=2) / 2
    return token_sum(x, packed, skip, packed.position_ids + 1, weights_sum)


def max_pool(x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """The maximum over the tokens of each text but the first `skip` [N]."""
    skip = torch.minimum(skip, packed.lengths - 1)  # of a text that is all prompt, the last token
    left_out = packed.position_ids < skip[packed.text_ids]
    return torch.segment_reduce(
        x.masked_fill(left_out[:, None], float("-inf")), "max", lengths=packed.lengths, unsafe=True
    )


def token_sum(x: Tensor, packed: Packed, skip: Tensor, weights: Tensor | None, divisor: Tensor) -> Tensor:
    """Sum of weights [T] * x over the tokens of each text but the first `skip` [N], over `divisor` [N].

    Zeros where no token is left. segment_reduce and not index_add, because on CUDA the latter adds in a
    random order; unsafe means that it does not check the lengths, as Packed.of did, and has no minimum to
    take where N is 0.
    """
    kept = packed.position_ids >= skip[packed.text_ids]
    factors = kept if weights is None else kept * weights
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    totals = torch.segment_reduce(wide * factors[:, None], "sum", lengths=packed.lengths, unsafe=True)
    return (totals / divisor[:, None]).to(x.dtype)
