"""Pooling: from one vector per token to one vector per text, [T, D] -> [N, D]."""

import torch
from torch import Tensor, nn

from minist.data.packed import Packed

# in the order in which several of them are concatenated, unless a folder says another
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


class Pooling(nn.Module):
    """One or several poolings side by side; `include_prompt=False` leaves the prompt's tokens out of all of them.

    cls                   the first token
    max                   the largest value of each dimension
    mean                  the average of the tokens (Reimers and Gurevych 2019, arXiv:1908.10084)
    mean_sqrt_len_tokens  their sum over the square root of their number
    weightedmean          an average in which the i-th token weighs i (Muennighoff 2022, arXiv:2202.08904)
    lasttoken             the last token

    Sums are made in fp32 or better.
    """

    def __init__(self, width: int, modes: tuple[str, ...] = ("mean",), include_prompt: bool = True) -> None:
        """`width` is D, the encoder's. ValueError for an unknown mode."""
        super().__init__()
        unknown = [str(mode) for mode in modes if mode not in MODES]
        if unknown or not modes:
            raise ValueError(f"pooling mode is {', '.join(unknown) or 'missing'}, known are {', '.join(MODES)}")
        self.width, self.modes, self.include_prompt = width, modes, include_prompt

    @property
    def out_width(self) -> int:
        """Width of the pooled vector: D for each mode."""
        return self.width * len(self.modes)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """[T, D] -> [N, D * number of modes]."""
        skip = torch.zeros_like(packed.prompt_lengths) if self.include_prompt else packed.prompt_lengths
        return torch.cat([pool(mode, x, packed, skip) for mode in self.modes], dim=1)


def pool(mode: str, x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """One pooling over the tokens of each text but the first `skip` [N]: [T, D] -> [N, D]."""
    if mode == "cls":
        return x[packed.cu_seqlens[:-1] + torch.minimum(skip, packed.lengths - 1)]
    if mode == "lasttoken":
        return x[packed.cu_seqlens[1:] - 1]
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
