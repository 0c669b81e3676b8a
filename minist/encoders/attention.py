"""Attention over a packed token stream: every token sees the tokens of its own text and no others.

softmax(q k^T / sqrt(D/H) + bias) v within each text; with a window, within each token's neighbours; causal, within
the tokens up to it. Flash attention on a GPU reads the stream as it is; other kernels want rectangles, see
rectangles.py, which may pad. Tests hold all layouts equal."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.data.packed import Packed
from minist.encoders.attention_dropout import attention_with_dropout
from minist.encoders.rectangles import CACHED, DOUBLED, EQUAL, ROUNDED, Layout, rectangles
from minist.encoders.window import ALL, Sides, in_blocks, is_long, seen


def attention(
    qkv: Tensor,  # [T, 3, H, D/H], each token's query, key and value
    packed: Packed,
    *,
    bias: Tensor | None = None,  # [H, max_seqlen, max_seqlen], added to the scores of every text
    window: int | None = None,  # a token sees those of its text that are at most so far away
    causal: bool = False,  # a token sees itself and those of its text before it
    dropout: float = 0.0,
) -> Tensor:  # [T, H, D/H]
    """Attention within each text of `packed`. At most one of bias, window and causal: no model has two of them."""
    assert (bias is not None) + (window is not None) + causal <= 1
    if len(qkv) == 0:  # a rank without texts: all inputs stay in the graph, since DDP waits for every weight's gradient
        return qkv.sum(1, dtype=qkv.dtype) + (0.0 if bias is None else bias.sum())
    sides = (ALL, 0) if causal else (ALL, ALL) if window is None else (window, window)
    if bias is None and dropout == 0.0 and _has_flash(qkv):  # its kernel has no bias, and torch's call of it no dropout
        from torch.nn.attention.varlen import varlen_attn  # CUDA only: a CPU start need not pay for it

        starts, longest = packed.cu_seqlens, packed.max_seqlen  # the same for queries and keys
        q, k, v = qkv.unbind(1)
        return varlen_attn(q, k, v, starts, starts, longest, longest, window_size=sides)  # type: ignore[return-value]
    if qkv.is_cuda:
        return _in_rectangles(qkv, packed, bias, sides, dropout, DOUBLED)
    trained = torch.is_grad_enabled() or dropout > 0  # GradCache drops without gradients first, and must drop the same
    if trained and qkv.dtype in (torch.bfloat16, torch.float16):  # float32's backward is faster, and more exact
        with torch.autocast("cpu", enabled=False):  # which would make a half type of it again
            again = attention(qkv.float(), packed, bias=bias, window=window, causal=causal, dropout=dropout)
        return again.to(qkv.dtype)
    if dropout > 0 and not is_long(packed.max_seqlen, sides):  # in blocks of a long one the dropout is torch's
        bias = None if bias is None else bias.to(qkv.dtype)
        return attention_with_dropout(qkv, bias, rectangles(packed.cu_seqlens, CACHED), sides, dropout)
    layout = EQUAL if trained or bias is not None else ROUNDED  # a bias gains nothing by rounding
    return _in_rectangles(qkv, packed, bias, sides, dropout, layout)


def _has_flash(q: Tensor) -> bool:
    """Whether the kernel takes such vectors: half types, heads of certain widths, a card that has it."""
    half = q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)
    fits = half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 192  # to 256 it runs, but not every card has the backward
    new_enough = fits and torch.cuda.get_device_capability(q.device) >= (8, 0)  # Ampere, 2020
    return new_enough and torch.backends.cuda.is_flash_attention_available()


def _in_rectangles(
    qkv: Tensor, packed: Packed, bias: Tensor | None, sides: Sides, dropout: float, layout: Layout
) -> Tensor:
    """By torch's own kernels."""
    texts, outputs = rectangles(packed.cu_seqlens, layout), []
    for part, (_, longest, ends) in zip(texts.spread(qkv), texts.shapes, strict=True):  # [n, longest, 3, H, D/H]
        q, k, v = part.permute(2, 0, 3, 1, 4)  # 3 x [n, H, longest, D/H]
        if is_long(longest, sides):
            out = in_blocks(q, k, v, ends, sides[0], dropout)
        else:
            out = F.scaled_dot_product_attention(q, k, v, _mask(longest, ends, bias, sides, q), dropout)
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # [n longest, H, D/H]
    return texts.gather(torch.cat(outputs))


def _mask(longest: int, ends: Tensor | int, bias: Tensor | None, sides: Sides, like: Tensor) -> Tensor | None:
    """What the kernel adds to the scores [n, H, longest, longest], or True where a query may see a key."""
    mask = seen(longest, ends, sides, like.device)
    if bias is None:
        return mask  # None where all is seen: kernels are faster without a mask
    own = bias[None, :, :longest, :longest].to(like.dtype)  # with 3 dimensions, CPUs would take a slower kernel
    return own if mask is None else own.masked_fill(~mask, float("-inf"))
