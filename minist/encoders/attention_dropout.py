"""Attention whose weights are dropped while training on a CPU, with its gradient by hand.

    S = q k^T / sqrt(D/H) + bias    W = softmax(S)    out = (W * M) v / (1 - p)    M: 0 with probability p, else 1

Most numbers of a layer are scores, L^2 for each head. Autograd would keep three tensors of them. Here two are kept, and
a few texts at a time go all the way, while their scores are near the processor: training takes a tenth less time."""

from typing import Any

import torch
from torch import Tensor

from minist.encoders.dropout import factor, keep
from minist.encoders.rectangles import Rectangles
from minist.encoders.window import Sides, seen


def attention_with_dropout(qkv: Tensor, bias: Tensor | None, texts: Rectangles, sides: Sides, p: float) -> Tensor:
    """[T, 3, H, D/H] -> [T, H, D/H]. `bias` and `sides` as in attention.py."""
    return _Attention.apply(qkv, bias, texts, sides, p)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor | None, texts: Rectangles, sides: Sides, p: float) -> Tensor:
        out, kept = qkv.new_empty(texts.num_places, 1, *qkv.shape[2:]), []
        for part, target, (n, longest, ends) in zip(texts.spread(qkv), texts.split(out), texts.shapes, strict=True):
            heads = _by_head(part).clone(memory_format=torch.contiguous_format).flatten(1, 2)
            q, k, v = heads  # [n H, L, D/H] each
            q.mul_(q.shape[-1] ** -0.5)
            v.mul_(factor(p))  # there are fewer of them than weights
            weights = q @ k.mT  # [n H, L, L]: at first the scores
            by_text = weights.unflatten(0, (n, -1))  # the same numbers as [n, H, L, L]
            if bias is not None:
                by_text += bias[:, :longest, :longest]
            if (mask := seen(longest, ends, sides, q.device)) is not None:
                by_text.masked_fill_(~mask, float("-inf"))
            torch.softmax(weights, 2, out=weights)
            if not isinstance(ends, int):  # padding looks at tokens too, but gives them no gradient
                by_text.masked_fill_(torch.arange(longest)[:, None] >= ends, 0)
            dropped = keep(weights, p).mul_(weights)
            _by_head(target).copy_((dropped @ v).unflatten(0, (n, -1)))
            if any(ctx.needs_input_grad):
                kept += [heads, weights, dropped]
        ctx.texts, ctx.p, ctx.bias_shape = texts, p, None if bias is None else bias.shape
        ctx.save_for_backward(*kept)
        return texts.gather(out)[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With G of the output, and W' = W * M, where 1 / (1 - p) is part of v:
            dv = W'^T G    dW' = G v^T    dW = dW' * M    dS = W * dW - W * rowsum(W * dW), as of any softmax
        W * dW is W' * dW', so that M itself need not be kept."""
        texts, saved = ctx.texts, iter(ctx.saved_tensors)
        dqkv = gradient.new_empty(texts.num_places, 3, *gradient.shape[1:])
        dbias = gradient.new_zeros(ctx.bias_shape) if ctx.needs_input_grad[1] else None
        parts = zip(texts.spread(gradient[:, None]), texts.split(dqkv), texts.shapes, strict=True)
        for part, target, (n, longest, _) in parts:
            g, (q, k, v), weights, dropped = _by_head(part).flatten(0, 2), next(saved), next(saved), next(saved)
            ds = (g @ v.mT).mul_(dropped)  # W' * dW' so far
            ds.addcmul_(weights, ds.sum(2, keepdim=True), value=-1)
            dq, dk, dv = heads = torch.empty(3, *q.shape, dtype=q.dtype)
            torch.bmm(ds, k, out=dq).mul_(q.shape[-1] ** -0.5)
            torch.bmm(ds.mT, q, out=dk)
            torch.bmm(dropped.mT, g, out=dv).mul_(factor(ctx.p))
            _by_head(target).copy_(heads.unflatten(1, (n, -1)))
            if dbias is not None:
                dbias[:, :longest, :longest] += ds.unflatten(0, (n, -1)).sum(0)
        return texts.gather(dqkv), dbias, None, None, None


def _by_head(x: Tensor) -> Tensor:
    """[n, L, parts, H, D/H] -> [parts, n, H, L, D/H], a view."""
    return x.permute(2, 0, 3, 1, 4)
