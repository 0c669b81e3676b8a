"""Attention over a packed token stream: every token sees the tokens of its own text and no others.

softmax(q k^T / sqrt(D/H) + bias) v within each text; with a window, within each token's neighbours; causal, within
the tokens up to it. Only this file knows how kernels want texts laid out, and may pad. Tests hold its layouts equal:

    stream       flash attention on a GPU: one kernel reads the whole stream, and cu_seqlens
    rectangles   everything else: texts that lie next to each other and are equally or similarly long, see Layout, are
                 stacked to [texts, H, length, D/H]. The model sorts texts by length, so these are few"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.data.packed import Packed
from minist.encoders.dropout import attention_with_dropout
from minist.encoders.window import ALL, Sides, in_blocks, is_long, sees

# texts share a rectangle if the function says the same of their lengths; its length is a multiple of the number
Layout = tuple[Callable[[int], int], int]
EQUAL: Layout = int, 1  # training on a CPU: backward would copy all padding once more
ROUNDED: Layout = (lambda length: -(-length // 16)), 16  # a CPU's kernel takes 16 keys at a time, then one by one
DOUBLED: Layout = (lambda length: length and max(length - 1, 31).bit_length()), 1  # a GPU wants few and large kernels


def attention(
    q: Tensor,  # [T, H, D/H]
    k: Tensor,
    v: Tensor,
    packed: Packed,
    *,
    bias: Tensor | None = None,  # [H, max_seqlen, max_seqlen], added to the scores of every text
    window: int | None = None,  # a token sees those of its text that are at most so far away
    causal: bool = False,  # a token sees itself and those of its text before it
    dropout: float = 0.0,
) -> Tensor:  # [T, H, D/H]
    """Attention within each text of `packed`. At most one of bias, window and causal: no model has two of them."""
    assert (bias is not None) + (window is not None) + causal <= 1
    if len(q) == 0:  # a rank without texts: all inputs stay in the graph, since DDP waits for every weight's gradient
        return q + k + v + (0.0 if bias is None else bias.sum())
    sides = (ALL, 0) if causal else (ALL, ALL) if window is None else (window, window)
    if bias is None and dropout == 0.0 and _has_flash(q):  # its kernel has no bias, and torch's call of it no dropout
        from torch.nn.attention.varlen import varlen_attn  # CUDA only: a CPU start need not pay for it

        starts, longest = packed.cu_seqlens, packed.max_seqlen  # the same for queries and keys
        return varlen_attn(q, k, v, starts, starts, longest, longest, window_size=sides)  # type: ignore[return-value]
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():  # fp32's backward is 2x faster
        with torch.autocast("cpu", enabled=False):  # which would make bf16 of it again
            return _rectangles(q.float(), k.float(), v.float(), packed, bias, sides, dropout, EQUAL).to(q.dtype)
    # dropout draws by the layout, and GradCache draws it first without gradients; a bias gains nothing by rounding
    equal = torch.is_grad_enabled() or dropout > 0 or bias is not None
    layout = DOUBLED if q.is_cuda else EQUAL if equal else ROUNDED
    return _rectangles(q, k, v, packed, bias, sides, dropout, layout)


def _has_flash(q: Tensor) -> bool:
    """Whether the kernel takes such vectors: half types, heads of certain widths, a card that has it."""
    half = q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)
    fits = half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 192  # to 256 it runs, but not every card has the backward
    new_enough = fits and torch.cuda.get_device_capability(q.device) >= (8, 0)  # Ampere, 2020
    return new_enough and torch.backends.cuda.is_flash_attention_available()


class Rectangle(NamedTuple):
    """Texts of a stream that attend as [n, H, longest, D/H]."""

    tokens: int
    n: int
    longest: int
    ends: Tensor | int  # where each text ends in its row, [n, 1, 1, 1]; a number where all fill theirs
    taken: Tensor | None = None  # [n longest] the token that stands in each place; None where that is the stream
    places: Tensor | None = None  # [tokens] the place of each token


def _rectangles(
    q: Tensor, k: Tensor, v: Tensor, packed: Packed, bias: Tensor | None, sides: Sides, dropout: float, layout: Layout
) -> Tensor:
    shapes = _shapes(packed.cu_seqlens, layout)
    streams = (x.split([shape.tokens for shape in shapes]) for x in (q, k, v))  # slices: a slow backward
    outputs = []
    for qs, ks, vs, (_, n, longest, ends, taken, places) in zip(*streams, shapes, strict=True):
        if longest == 0:
            continue  # no text has a token: a row of scores without any is NaN
        stacked = (qs, ks, vs) if taken is None else (x.index_select(0, taken) for x in (qs, ks, vs))
        qr, kr, vr = (x.unflatten(0, (n, longest)).transpose(1, 2) for x in stacked)  # [n, H, longest, D/H]
        if is_long(longest, sides):
            out = in_blocks(qr, kr, vr, ends, sides[0], dropout)
        else:
            attend = F.scaled_dot_product_attention if q.is_cuda or not dropout else attention_with_dropout
            out = attend(qr, kr, vr, _mask(longest, ends, bias, sides, q), dropout)
        out = out.transpose(1, 2).flatten(0, 1)  # [n longest, H, D/H]
        outputs.append(out if places is None else out.index_select(0, places))
    return torch.cat(outputs)


@lru_cache(maxsize=4)  # found by identity: all layers ask for the same texts, and only the first waits for the GPU
@torch.inference_mode(False)  # also one that is trained may ask for them later
def _shapes(cu_seqlens: Tensor, layout: Layout) -> list[Rectangle]:
    shapes, move = [], partial(Tensor.to, device=cu_seqlens.device)
    for _, group in groupby(cu_seqlens.diff().tolist(), layout[0]):
        lengths = list(group)
        tokens, n, longest = sum(lengths), len(lengths), -(-max(lengths) // layout[1]) * layout[1]  # rounded up
        if min(lengths) == longest:  # such texts fill their rectangle as they are
            shapes.append(Rectangle(tokens, n, longest, longest))
            continue
        ends, at = torch.tensor(lengths)[:, None], torch.arange(longest)
        # behind a text's end stand the next one's tokens, which nobody sees: to read on is faster than to fill with 0
        taken = (ends.cumsum(0) - ends + at).clamp(max=tokens - 1).flatten()
        places = (at < ends).flatten().nonzero()[:, 0]
        shapes.append(Rectangle(tokens, n, longest, *map(move, (ends.view(-1, 1, 1, 1), taken, places))))
    return shapes


def _mask(longest: int, ends: Tensor | int, bias: Tensor | None, sides: Sides, like: Tensor) -> Tensor | None:
    """What the kernel adds to the scores [n, H, longest, longest], or True where a query may see a key."""
    at = torch.arange(longest, device=like.device)
    near = (ALL, ALL) if longest - 1 <= min(sides) else sides  # in such a window, nobody is further away
    seen = None if near == (ALL, ALL) and isinstance(ends, int) else sees(at[:, None], at, ends, near)
    if bias is None:
        return seen  # None where all is seen: kernels are faster without a mask
    own = bias[None, :, :longest, :longest].to(like.dtype)  # with 3 dimensions, CPUs would take a slower kernel
    return own if seen is None else own.masked_fill(~seen, float("-inf"))
