"""The one shape of the project: texts laid end to end in a single token stream, without padding.

A batch of texts of 3, 1 and 2 tokens:

    input_ids     a b c | d | e f          [T]    T = 6 tokens
    text_ids      0 0 0 | 1 | 2 2          [T]    which text a token belongs to
    position_ids  0 1 2 | 0 | 0 1          [T]    its place within that text
    cu_seqlens    0       3   4     6      [N+1]  where each text starts, and the end

A batch, a mini-batch and a single text are all this type. Padded to a rectangle, a random batch of
mixed texts would hold 3 to 5 times as many tokens.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """N texts laid end to end: text i is `input_ids[cu_seqlens[i]:cu_seqlens[i + 1]]`.

    A NamedTuple, not a dataclass: torch looks inside tuples (DDP, checkpoint, tree_map).
    """

    input_ids: Tensor  # [T]
    token_type_ids: Tensor  # [T] 0, or 1 for the second text of a pair
    cu_seqlens: Tensor  # [N+1] int32, as the varlen attention kernels ask
    text_ids: Tensor  # [T]
    position_ids: Tensor  # [T]
    prompt_lengths: Tensor  # [N] leading tokens that pooling leaves out when it excludes the prompt
    max_seqlen: int  # a python int, so that no kernel waits for the device

    @staticmethod
    def of(
        input_ids: Tensor,
        lengths: Tensor,
        token_type_ids: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
    ) -> "Packed":
        """Build from a token stream `input_ids` [T] and the length of each text, `lengths` [N]."""
        assert int(lengths.sum()) == len(input_ids), "lengths must add up to the number of tokens"
        starts = torch.zeros(len(lengths) + 1, dtype=torch.long, device=lengths.device)
        torch.cumsum(lengths, 0, out=starts[1:])
        text_ids = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        positions = torch.arange(len(input_ids), device=input_ids.device) - starts[text_ids]
        return Packed(
            input_ids=input_ids,
            token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
            cu_seqlens=starts.int(),
            text_ids=text_ids,
            position_ids=positions,
            prompt_lengths=torch.zeros_like(lengths) if prompt_lengths is None else prompt_lengths,
            max_seqlen=int(lengths.max()) if len(lengths) else 0,
        )

    @property
    def n(self) -> int:
        """Number of texts, N."""
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens in each text, [N]."""
        return self.cu_seqlens.diff().long()

    def take(self, rows: Tensor) -> "Packed":
        """The texts `rows` [M], in that order."""
        starts, lengths = self.cu_seqlens[rows].long(), self.lengths[rows]
        tokens = ranges(starts, lengths)
        return Packed.of(self.input_ids[tokens], lengths, self.token_type_ids[tokens], self.prompt_lengths[rows])

    def slice(self, a: int, b: int) -> "Packed":
        """The texts a, a+1, .. b-1."""
        return self.take(torch.arange(a, b, device=self.cu_seqlens.device))

    @staticmethod
    def cat(parts: Sequence["Packed"]) -> "Packed":
        """All texts of `parts`, in order."""
        if len(parts) == 1:
            return parts[0]
        return Packed.of(
            torch.cat([p.input_ids for p in parts]),
            torch.cat([p.lengths for p in parts]),
            torch.cat([p.token_type_ids for p in parts]),
            torch.cat([p.prompt_lengths for p in parts]),
        )

    def split(self, max_tokens: int) -> list["Packed"]:
        """Consecutive slices of at most `max_tokens` tokens; a longer text stands alone."""
        bounds = split_points(self.lengths.tolist(), max_tokens)
        return [self.slice(a, b) for a, b in pairwise(bounds)]

    def to(self, device: torch.device) -> "Packed":
        """The same texts on another device."""
        if self.input_ids.device == device:
            return self
        tensors = (t.to(device, non_blocking=True) if isinstance(t, Tensor) else t for t in self)
        return Packed._make(tensors)


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """`arange(s, s + n)` for each start and length, one after the other: [M], [M] -> [sum of lengths]."""
    ends = lengths.cumsum(0)
    offsets = torch.repeat_interleave(starts - (ends - lengths), lengths)
    return offsets + torch.arange(len(offsets), device=starts.device)


def split_points(lengths: Sequence[int], max_tokens: int) -> list[int]:
    """Text numbers where a new slice begins, so that each slice holds at most `max_tokens` tokens."""
    bounds, tokens = [0], 0
    for i, length in enumerate(lengths):
        if tokens + length > max_tokens and i > bounds[-1]:
            bounds.append(i)
            tokens = 0
        tokens += length
    return [*bounds, len(lengths)] if lengths else [0]
