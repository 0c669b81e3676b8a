"""Pooling: from one vector per token to one vector per text, [T, D] -> [N, D]."""

import torch
from torch import Tensor, nn

from minist.data.packed import Packed

MODES = ("cls", "max", "mean")  # in the order in which several of them are concatenated


class Pooling(nn.Module):
    """One or several poolings side by side; `include_prompt=False` leaves the prompt's tokens out of all of them.

    cls   the first token
    max   the largest value of each dimension
    mean  the average of the tokens (Reimers and Gurevych 2019, arXiv:1908.10084), summed in fp32 or better
    """

    def __init__(self, width: int, modes: tuple[str, ...] = ("mean",), include_prompt: bool = True) -> None:
        """`width` is D, the encoder's. ValueError for an unknown mode."""
        super().__init__()
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown or not modes:
            raise ValueError(f"pooling mode is {', '.join(unknown) or 'missing'}, known are {', '.join(MODES)}")
        self.width, self.modes, self.include_prompt = width, modes, include_prompt

    @property
    def out_width(self) -> int:
        """Width of the pooled vector: D for each mode."""
        return self.width * len(self.modes)

    def forward(self, x: Tensor, packed: Packed) -> Tensor:
        """[T, D] -> [N, D * number of modes]."""
        pools = {"cls": cls_pool, "max": max_pool, "mean": mean_pool}
        skip = torch.zeros_like(packed.prompt_lengths) if self.include_prompt else packed.prompt_lengths
        return torch.cat([pools[mode](x, packed, skip) for mode in self.modes], dim=1)


def cls_pool(x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """The first token of each text after the first `skip` [N]."""
    return x[packed.cu_seqlens[:-1] + torch.minimum(skip, packed.lengths - 1)]


def max_pool(x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """The maximum over the tokens of each text but the first `skip` [N]."""
    skip = torch.minimum(skip, packed.lengths - 1)  # of a text that is all prompt, the last token
    left_out = packed.position_ids < skip[packed.text_ids]
    return torch.segment_reduce(
        x.masked_fill(left_out[:, None], float("-inf")), "max", lengths=packed.lengths, unsafe=True
    )


def mean_pool(x: Tensor, packed: Packed, skip: Tensor) -> Tensor:
    """The mean over the tokens of each text but the first `skip` [N]; zeros where none is left.

    segment_reduce and not index_add, because on CUDA the latter adds in a random order; unsafe means that
    it does not check the lengths, as Packed.of did, and has no minimum to take where N is 0.
    """
    kept = packed.position_ids >= skip[packed.text_ids]
    wide = x if x.dtype == torch.float64 else x.float()
    totals = torch.segment_reduce(wide * kept[:, None], "sum", lengths=packed.lengths, unsafe=True)
    return (totals / (packed.lengths - skip).clamp(min=1)[:, None]).to(x.dtype)
