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

    A text without any token, where a tokenizer adds none, is zeros."""

    takes, gives, has_weights = ("tokens",), "embeddings", False

    def __init__(self, width: int, modes: tuple[str, ...] = ("mean",), include_prompt: bool = True) -> None:
        super().__init__()
        for mode in modes or ("missing",):
            pick("pooling mode", mode, FLAGS)
        self.in_width, self.out_width, self.modes, self.include_prompt = (
            width,
            width * len(modes),
            modes,
            include_prompt,
        )
        self.first_only = tuple(modes) == ("cls",) and include_prompt

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
        if list(self.modes) != sorted(self.modes, key=MODES.index):  # flags have no order: as version 6 spells it
            config = {"embedding_dimension": self.in_width, "pooling_mode": list(self.modes)}
        return config | {"include_prompt": self.include_prompt}, {}

    @classmethod
    def arguments(cls, config: dict[str, Any]) -> tuple[Any, ...]:
        include_prompt = config.get("include_prompt", True)
        if include_prompt not in (True, False):  # the text "false" would count as true
            raise ValueError(f"include_prompt is {include_prompt!r}, it must be true or false")
        if "pooling_mode" in config:  # version 6
            modes = [config["pooling_mode"]] if type(config["pooling_mode"]) is str else config["pooling_mode"]
            return config["embedding_dimension"], tuple(modes), include_prompt
        names = {flag: mode for mode, flag in FLAGS.items()}
        asked = {key for key, value in config.items() if value} - {"word_embedding_dimension", "include_prompt"}
        modes = sorted((pick("pooling", key, names) for key in sorted(asked)), key=MODES.index) or ["mean"]
        return config["word_embedding_dimension"], tuple(modes), include_prompt


def pool(mode: str, x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """One pooling over the tokens of each text but the first `skip` [N]: [T, D] -> [N, D]."""
    lengths, place = packed.lengths, packed.position_ids
    if mode in ("cls", "max"):
        skip = torch.minimum(skip, lengths - 1)  # of a text that is all prompt, its last token
    if mode in ("cls", "lasttoken"):  # clamped: an empty text at either end points at no token
        at = packed.cu_seqlens[:-1] + skip if mode == "cls" else packed.cu_seqlens[1:] - 1
        return x[at.clamp(min=0)]
    kept = place >= skip[packed.text_ids]  # [T]
    # segment_reduce and not index_add, which on CUDA adds in a random order; unsafe: Packed.of checked the lengths
    if mode == "max":
        x = x.masked_fill(~kept[:, None], float("-inf"))
        return torch.segment_reduce(x, "max", lengths=lengths, unsafe=True)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half types would lose the small ones of many
    count = (lengths - skip).clamp(min=1).to(wide.dtype)  # 1: where no token is left the sum is zeros
    divisor = count.sqrt() if mode == "mean_sqrt_len_tokens" else count
    if mode == "weightedmean":  # weights skip + 1 .. length, and their sum
        kept, divisor = kept * (place + 1), (lengths * (lengths + 1) - skip * (skip + 1)).clamp(min=2) / 2
    totals = torch.segment_reduce(wide * kept[:, None], "sum", lengths=lengths, unsafe=True)
    return (totals / divisor[:, None]).to(x.dtype)
