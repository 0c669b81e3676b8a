"""Attention over a packed token stream: every token sees the tokens of its own text and no others.

This is the only file that knows how a kernel wants its texts laid out, and the only one that may
pad. All branches compute softmax(q k^T / sqrt(D/H) + bias) v within each text, or with a window within
each token's neighbours, or causal within the tokens up to it; a test holds them equal. Which one runs
depends on the device and on what the kernels can do:

    varlen flash   CUDA, half precision, no bias, no dropout: one kernel for the whole stream
    padded         CUDA otherwise: one rectangle, few and large kernels
    runs           CPU: texts of equal length that lie next to each other go in one call, no padding
                   (2.6x faster than the rectangle on mixed texts; the model sorts texts by length);
                   a window cuts long texts into blocks that see their surroundings only
"""

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from minist.data.packed import Packed


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
    if window is not None and packed.max_seqlen <= window + 1:
        window = None  # nobody is further away
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and bias is None and dropout == 0.0:
        return _varlen_flash(q, k, v, packed, window, causal)
    if q.is_cuda:
        return _padded(q, k, v, packed, bias, window, causal, dropout)
    if torch.is_grad_enabled() and q.dtype == torch.bfloat16:
        # on a CPU the bf16 backward of this one function is two to three times slower than fp32's
        with torch.autocast("cpu", enabled=False):
            return _runs(q.float(), k.float(), v.float(), packed, bias, window, causal, dropout).to(q.dtype)
    return _runs(q, k, v, packed, bias, window, causal, dropout)


def _varlen_flash(q: Tensor, k: Tensor, v: Tensor, packed: Packed, window: int | None, causal: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # CUDA only: a CPU start need not pay for it

    starts, longest = packed.cu_seqlens, packed.max_seqlen
    if window is None and not causal:
        out = varlen_attn(q, k, v, starts, starts, longest, longest)
    else:  # from torch 2.11 on; to the left and to the right, -1 is without end
        sides = (-1, 0) if window is None else (window, window)
        out = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=sides)
    assert isinstance(out, Tensor)  # a tuple only where more was asked for
    return out


def _padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: Packed,
    bias: Tensor | None,
    window: int | None,
    causal: bool,
    dropout: float,
) -> Tensor:
    n, longest = packed.n, packed.max_seqlen
    is_token = torch.arange(longest, device=q.device) < packed.lengths[:, None]  # [N, max_seqlen]
    visible = is_token[:, None, None]  # [N, 1, 1, max_seqlen]
    if window is not None:
        # padding sees padding: to some kernels a row without any key is NaN, and so is the gradient of its text
        visible = _near(longest, window, q.device) & (visible | ~is_token[:, None, :, None])
    if causal:
        visible = visible & _so_far(longest, q.device)  # padding sees the text before it
    mask = torch.zeros(visible.shape, dtype=q.dtype, device=q.device).masked_fill_(~visible, float("-inf"))
    if bias is not None:
        mask = mask + bias.to(q.dtype)
    places = packed.text_ids * longest + packed.position_ids  # [T] where a token lies in the rectangle

    def pad(x: Tensor) -> Tensor:  # [T, H, D/H] -> [N, H, max_seqlen, D/H]
        rectangle = x.new_zeros(n * longest, *x.shape[1:]).index_copy(0, places, x)
        return rectangle.unflatten(0, (n, longest)).transpose(1, 2)

    out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=mask, dropout_p=dropout)
    return out.transpose(1, 2).flatten(0, 1)[places]


def _runs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    packed: Packed,
    bias: Tensor | None,
    window: int | None,
    causal: bool,
    dropout: float,
) -> Tensor:
    runs = [(length, len(list(texts))) for length, texts in groupby(packed.lengths.tolist()) if length]
    tokens = [length * texts for length, texts in runs]
    outputs = []
    # split, not slices: the backward of each slice would write a zero tensor of full size
    for qs, ks, vs, (length, texts) in zip(q.split(tokens), k.split(tokens), v.split(tokens), runs, strict=True):
        qh, kh, vh = (x.unflatten(0, (texts, length)).transpose(1, 2) for x in (qs, ks, vs))  # [texts, H, length, D/H]
        if window is not None and length > 6 * _block(window):  # below, one masked call is as fast
            out = _blocks(qh, kh, vh, window, dropout)
        else:
            mask = None if bias is None else bias[:, :length, :length].to(q.dtype)
            if window is not None and length > window + 1:
                mask = _near(length, window, q.device)
            if causal:
                mask = _so_far(length, q.device)
            out = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=mask, dropout_p=dropout)
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # [texts * length, H, D/H]
    return torch.cat(outputs) if outputs else q


def _near(length: int, window: int, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs() <= window  # [length, length]


def _so_far(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()  # [query, key]


def _block(window: int) -> int:
    return max(window, 64)  # queries in a block; smaller ones cost more to start than they save


def _blocks(q: Tensor, k: Tensor, v: Tensor, window: int, dropout: float) -> Tensor:
    """[N, H, L, D/H] of texts of one length -> the same shape: each block of queries meets the keys around it, so
    that the scores are L (block + 2 window) numbers, and not L^2."""
    n, heads, length, _ = q.shape
    block = _block(window)
    blocks = -(-length // block)
    rest = blocks * block - length

    def around(x: Tensor) -> Tensor:  # [N, H, L, D/H] -> [N H, blocks, block + 2 window, D/H], overlapping views
        x = F.pad(x, (0, 0, window, window + rest))
        return x.unfold(2, block + 2 * window, block).transpose(3, 4).flatten(0, 1)

    queries = F.pad(q, (0, 0, 0, rest)).unflatten(2, (blocks, block)).flatten(0, 1)  # [N H, blocks, block, D/H]
    mask = _block_mask(length, blocks, block, window, q.device)
    out = F.scaled_dot_product_attention(queries, around(k), around(v), attn_mask=mask, dropout_p=dropout)
    return out.unflatten(0, (n, heads)).flatten(2, 3)[:, :, :length]


def _block_mask(length: int, blocks: int, block: int, window: int, device: torch.device) -> Tensor:
    starts = torch.arange(blocks, device=device)[:, None, None] * block
    query = starts + torch.arange(block, device=device)[:, None]  # [blocks, block, 1] places in the text
    key = starts + torch.arange(block + 2 * window, device=device) - window  # [blocks, 1, block + 2 window]
    is_token = (key >= 0) & (key < length)
    # the last block's padding sees padding, as above
    return (((query - key).abs() <= window) & (is_token | (query >= length)))[None]
