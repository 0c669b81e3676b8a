"""Attention over a packed token stream: every token sees the tokens of its own text and no others.

softmax(q k^T / sqrt(D/H) + bias) v within each text; with a window, within each token's neighbours; causal, within
the tokens up to it. Flash attention on a GPU reads the stream as it is; other kernels want rectangles, see
rectangles.py, which may pad. Tests hold all layouts equal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.data.packed import Packed
from minist.encoders.dropout import attention_with_dropout
from minist.encoders.rectangles import DOUBLED, EQUAL, ROUNDED, Layout, rectangles
from minist.encoders.window import ALL, Sides, in_blocks, is_long, sees


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
            return _in_rectangles(q.float(), k.float(), v.float(), packed, bias, sides, dropout, EQUAL).to(q.dtype)
    # dropout draws by the layout, and GradCache draws it first without gradients; a bias gains nothing by rounding
    equal = torch.is_grad_enabled() or dropout > 0 or bias is not None
    layout = DOUBLED if q.is_cuda else EQUAL if equal else ROUNDED
    return _in_rectangles(q, k, v, packed, bias, sides, dropout, layout)


def _has_flash(q: Tensor) -> bool:
    """Whether the kernel takes such vectors: half types, heads of certain widths, a card that has it."""
    half = q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)
    fits = half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 192  # to 256 it runs, but not every card has the backward
    new_enough = fits and torch.cuda.get_device_capability(q.device) >= (8, 0)  # Ampere, 2020
    return new_enough and torch.backends.cuda.is_flash_attention_available()


def _in_rectangles(
    q: Tensor, k: Tensor, v: Tensor, packed: Packed, bias: Tensor | None, sides: Sides, dropout: float, layout: Layout
) -> Tensor:
    shapes = rectangles(packed.cu_seqlens, layout)
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


def _mask(longest: int, ends: Tensor | int, bias: Tensor | None, sides: Sides, like: Tensor) -> Tensor | None:
    """What the kernel adds to the scores [n, H, longest, longest], or True where a query may see a key."""
    at = torch.arange(longest, device=like.device)
    near = (ALL, ALL) if longest - 1 <= min(sides) else sides  # in such a window, nobody is further away
    seen = None if near == (ALL, ALL) and isinstance(ends, int) else sees(at[:, None], at, ends, near)
    if bias is None:
        return seen  # None where all is seen: kernels are faster without a mask
    own = bias[None, :, :longest, :longest].to(like.dtype)  # with 3 dimensions, CPUs would take a slower kernel
    return own if seen is None else own.masked_fill(~seen, float("-inf"))
