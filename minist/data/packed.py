"""The one shape of the project: texts laid end to end in a single token stream, without padding.

A batch of texts of 3, 1 and 2 tokens:

    input_ids     a b c | d | e f          [T]    T = 6 tokens
    text_ids      0 0 0 | 1 | 2 2          [T]    which text a token belongs to
    position_ids  0 1 2 | 0 | 0 1          [T]    its place within that text
    cu_seqlens    0       3   4     6      [N+1]  where each text starts, and the end

Padded to a rectangle, a random batch of mixed texts would hold 3 to 5 times as many tokens."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Packed(NamedTuple):
    """N texts laid end to end: text i is `input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]`.
    A NamedTuple, not a dataclass: torch looks inside tuples (DDP, checkpoint, tree_map)."""

    input_ids: Tensor  # [T]
    token_type_ids: Tensor  # [T] 0, or 1 for the second text of a pair
    cu_seqlens: Tensor  # [N+1] int32, as the varlen attention kernels ask
    text_ids: Tensor  # [T]
    position_ids: Tensor  # [T]
    prompt_lengths: Tensor  # [N] leading tokens that pooling leaves out when it excludes the prompt
    max_seqlen: int  # a python int, so that no kernel waits for the device

    @staticmethod
    def of(
        input_ids: Tensor, lengths: Tensor, token_type_ids: Tensor | None = None, prompt_lengths: Tensor | None = None
    ) -> "Packed":
        """Build from a token stream `input_ids` [T] and the length of each text, `lengths` [N]."""
        assert int(lengths.sum()) == len(input_ids), "lengths must add up to the number of tokens"
        starts = F.pad(lengths.cumsum(0), (1, 0))  # a 0 in front: starts[i] is where text i starts, starts[N] the end
        text_ids = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        positions = torch.arange(len(input_ids), device=input_ids.device) - starts[text_ids]  # from 0 in each text
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        prompts = torch.zeros_like(lengths) if prompt_lengths is None else prompt_lengths
        longest = int(lengths.max()) if len(lengths) else 0
        return Packed(input_ids, types, starts.int(), text_ids, positions, prompts, longest)

    @property
    def n(self) -> int:
        return len(self.cu_seqlens) - 1  # the last is an end, and starts no text

    @property
    def lengths(self) -> Tensor:
        return self.cu_seqlens.diff().long()  # [N], int64 again, as numbers of rows and tokens are

    def take(self, rows: Tensor) -> "Packed":
        """The texts `rows` [M], in that order; a copy."""
        starts, lengths = self.cu_seqlens[rows].long(), self.lengths[rows]
        tokens = ranges(starts, lengths)
        return Packed.of(self.input_ids[tokens], lengths, self.token_type_ids[tokens], self.prompt_lengths[rows])

    def slice(self, a: int, b: int) -> "Packed":
        """The texts a, a+1, .. b-1."""
        return self.take(torch.arange(a, b, device=self.cu_seqlens.device))

    def firsts(self) -> tuple[Tensor, "Packed"]:
        """Where the texts' first tokens are, [M], and those tokens as N texts, of which an empty one stays empty."""
        lengths = self.lengths.clamp(max=1)
        at = self.cu_seqlens[:-1][lengths > 0].long()
        return at, Packed.of(self.input_ids[at], lengths)

    @staticmethod
    def cat(parts: Sequence["Packed"]) -> "Packed":
        """All texts of `parts`, in order."""
        if len(parts) == 1:
            return parts[0]  # no copy
        fields = zip(*((p.input_ids, p.lengths, p.token_type_ids, p.prompt_lengths) for p in parts), strict=True)
        return Packed.of(*map(torch.cat, fields))

    def split(self, max_tokens: int) -> list["Packed"]:
        """Consecutive slices of at most `max_tokens` tokens; a longer text stands alone."""
        return [self.slice(a, b) for a, b in pairwise(split_points(self.lengths.tolist(), max_tokens))]

    def to(self, device: torch.device) -> "Packed":
        if self.input_ids.device == device:
            return self
        # non_blocking: the host goes on while the device copies; max_seqlen is no tensor and stays
        return Packed._make(t.to(device, non_blocking=True) if isinstance(t, Tensor) else t for t in self)


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """`arange(s, s + n)` for each start and length, one after the other: [M], [M] -> [sum of lengths]."""
    before = lengths.cumsum(0) - lengths  # numbers in the ranges before this one
    shifts = torch.repeat_interleave(starts - before, lengths)  # what to add to a running number, the same in a range
    return shifts + torch.arange(len(shifts), device=starts.device)


def split_points(lengths: Sequence[int], max_tokens: int) -> list[int]:
    """Text numbers where a new slice begins, so that each slice holds at most `max_tokens` tokens."""
    bounds, tokens = [0], 0
    for i, length in enumerate(lengths):
        if tokens + length > max_tokens and i > bounds[-1]:  # no empty slice before a text that is too long
            bounds.append(i)
            tokens = 0
        tokens += length
    return [*bounds, len(lengths)] if lengths else [0]
