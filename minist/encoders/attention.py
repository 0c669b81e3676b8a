"""Attention over a packed token stream: every token sees the tokens of its own text and no others.

This is the only file that knows how a kernel wants its texts laid out, and the only one that may
pad. All branches compute softmax(q k^T / sqrt(D/H) + bias) v within each text; a test holds them
equal. Which one runs depends on the device and on what the kernels can do:

    varlen flash   CUDA, half precision, no bias, no dropout: one kernel for the whole stream
    padded         CUDA otherwise: one rectangle, few and large kernels
    runs           CPU: texts of equal length that lie next to each other go in one call, no padding
                   (2.6x faster than the rectangle on mixed texts; the model sorts texts by length)
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.data.packed import Packed


def check_heads(width: int, heads: int) -> None:
    """ValueError unless `heads` vectors of the same length make up `width`."""
    if not (isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads == 0):
        raise ValueError(f"hidden_size {width!r} is no multiple of num_attention_heads {heads!r}")


def attention(
    q: Tensor,  # [T, H, D/H]
    k: Tensor,
    v: Tensor,
    packed: Packed,
    *,
    bias: Tensor | None = None,  # [H, max_seqlen, max_seqlen], added to the scores of every text
    dropout: float = 0.0,
) -> Tensor:  # [T, H, D/H]
    """Bidirectional attention within each text of `packed`."""
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and bias is None and dropout == 0.0:
        return _varlen_flash(q, k, v, packed)
    if q.is_cuda:
        return _padded(q, k, v, packed, bias, dropout)
    if torch.is_grad_enabled() and q.dtype == torch.bfloat16:
        # on a CPU the bf16 backward of this one function is two to three times slower than fp32's
        with torch.autocast("cpu", enabled=False):
            return _runs(q.float(), k.float(), v.float(), packed, bias, dropout).to(q.dtype)
    return _runs(q, k, v, packed, bias, dropout)


def _varlen_flash(q: Tensor, k: Tensor, v: Tensor, packed: Packed) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # CUDA only: a CPU start need not pay for it

    starts, longest = packed.cu_seqlens, packed.max_seqlen
    out = varlen_attn(q, k, v, starts, starts, longest, longest)
    assert isinstance(out, Tensor)  # a tuple only where more was asked for
    return out


def _padded(q: Tensor, k: Tensor, v: Tensor, packed: Packed, bias: Tensor | None, dropout: float) -> Tensor:
    n, longest = packed.n, packed.max_seqlen
    seen = torch.arange(longest, device=q.device) < packed.lengths[:, None]  # [N, max_seqlen]
    mask = torch.zeros(seen.shape, dtype=q.dtype, device=q.device).masked_fill_(~seen, float("-inf"))[:, None, None]
    if bias is not None:
        mask = mask + bias.to(q.dtype)
    places = packed.text_ids * longest + packed.position_ids  # [T] where a token lies in the rectangle

    def pad(x: Tensor) -> Tensor:  # [T, H, D/H] -> [N, H, max_seqlen, D/H]
        rectangle = x.new_zeros(n * longest, *x.shape[1:]).index_copy(0, places, x)
        return rectangle.unflatten(0, (n, longest)).transpose(1, 2)

    out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(0, 1)[places]


def _runs(q: Tensor, k: Tensor, v: Tensor, packed: Packed, bias: Tensor | None, dropout: float) -> Tensor:
    runs = [(length, len(list(texts))) for length, texts in groupby(packed.lengths.tolist()) if length]
    tokens = [length * texts for length, texts in runs]
    outputs = []
    # split, not slices: the backward of each slice would write a zero tensor of full size
    for qs, ks, vs, (length, texts) in zip(q.split(tokens), k.split(tokens), v.split(tokens), runs, strict=True):
        qh, kh, vh = (x.unflatten(0, (texts, length)).transpose(1, 2) for x in (qs, ks, vs))  # [texts, H, length, D/H]
        mask = None if bias is None else bias[:, :length, :length].to(q.dtype)
        out = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=mask, dropout_p=dropout)
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # [texts * length, H, D/H]
    return torch.cat(outputs) if outputs else q
