"""Which token sees which, and attention in a window, where a token sees its neighbours only: layers of ModernBERT.

With w neighbours to either side, L (2 w + 1) of a long text's L^2 scores are enough. Kernels want blocks of them: so
blocks of queries meet the keys around them, L (block + 2 w) scores in all."""

import torch
import torch.nn.functional as F
from torch import Tensor

ALL = -1  # to one side: every token there is, as flash attention says it
BLOCK = 64  # queries at least in a block of a long text; smaller ones cost more to start than they save
Sides = tuple[int, int]  # how many tokens one sees to its left and right


def sees(query: Tensor, key: Tensor, ends: Tensor | int, sides: Sides) -> Tensor:
    """Whether the token in place `query` sees that in place `key`, in a text that ends before place `ends`."""
    is_token, ahead = (key >= 0) & (key < ends), key - query
    if sides == (ALL, ALL):
        return is_token
    left, right = (float("inf") if side == ALL else side for side in sides)
    # padding sees padding: to some kernels a row without any key is NaN, and so is the gradient of its text
    return (ahead >= -left) & (ahead <= right) & (is_token | (query >= ends))


def seen(longest: int, ends: Tensor | int, sides: Sides, device: torch.device) -> Tensor | None:
    """Of texts in a rectangle: what broadcasts to [n, H, longest queries, longest keys], or None where all sees all."""
    at = torch.arange(longest, device=device)
    near = (ALL, ALL) if longest - 1 <= min(sides) else sides  # in such a window, nobody is further away
    return None if near == (ALL, ALL) and isinstance(ends, int) else sees(at[:, None], at, ends, near)


def is_long(length: int, sides: Sides) -> bool:
    """Whether blocks pay for a text: below that, one masked call is as fast."""
    return sides[0] >= 0 and length > 6 * max(sides[0], BLOCK)


def in_blocks(q: Tensor, k: Tensor, v: Tensor, ends: Tensor | int, window: int, dropout: float) -> Tensor:
    """Attention of n texts of at most L tokens, which end before places `ends`: [n, H, L, D/H] -> the same."""
    (n, heads, length, _), block = q.shape, max(window, BLOCK)
    rest = -length % block  # places behind the last query, which fill its block
    blocks = (length + rest) // block

    def around(x: Tensor) -> Tensor:  # [n, H, L, D/H] -> [n H, blocks, block + 2 window, D/H], overlapping views
        x = F.pad(x, (0, 0, window, window + rest))
        return x.unfold(2, block + 2 * window, block).transpose(3, 4).flatten(0, 1)

    queries = F.pad(q, (0, 0, 0, rest)).unflatten(2, (blocks, block)).flatten(0, 1)  # [n H, blocks, block, D/H]
    starts = torch.arange(blocks, device=q.device)[:, None, None] * block
    query = starts + torch.arange(block, device=q.device)[:, None]  # [blocks, block, 1] places in the text
    key = starts + torch.arange(block + 2 * window, device=q.device) - window  # [blocks, 1, block + 2 window]
    mask = sees(query, key, ends, (window, window))  # one for all texts, or one for each
    mask = mask[None] if isinstance(ends, int) else mask.repeat_interleave(heads, 0)
    out = F.scaled_dot_product_attention(queries, around(k), around(v), attn_mask=mask, dropout_p=dropout)
    return out.unflatten(0, (n, heads)).flatten(2, 3)[:, :, :length]
