"""Attention against its definition: every layout, values and gradients; those of a GPU too, as far as a CPU can."""

import inspect
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import varlen

from minist import Packed
from minist.encoders import attention as attention_file
from minist.encoders import attention_dropout as attention_dropout_file
from minist.encoders import window as window_file
from minist.encoders.attention import ALL, _has_flash, _in_rectangles, attention
from minist.encoders.attention_dropout import attention_with_dropout
from minist.encoders.dropout import factor, keep
from minist.encoders.rectangles import CACHED, DOUBLED, EQUAL, ROUNDED, rectangles

HEADS_AND_WIDTH = (3, 8)
LENGTHS = [5, 5, 5, 1, 1, 9, 2, 5, 17]
LONG = [3, 60, 60, 64, 65, 129, 385, 450, 450, 512]  # beside windows and blocks: shorter, multiples of them, neither


def sides_of(window, causal):
    return (ALL, 0) if causal else (ALL, ALL) if window is None else (window, window)


def in_rectangles(q, k, v, packed, bias, window, causal, layout):
    if bias is not None and layout is ROUNDED:
        layout = EQUAL  # as `attention` chooses, see below
    return _in_rectangles(torch.stack([q, k, v], 1), packed, bias, sides_of(window, causal), 0.0, layout)


def dropping(q, k, v, packed, bias, window, causal):
    """Almost nothing."""
    texts, sides = rectangles(packed.cu_seqlens, CACHED), sides_of(window, causal)
    return attention_with_dropout(torch.stack([q, k, v], 1), bias, texts, sides, 1e-9)


def of_the_function(q, k, v, packed, bias=None, window=None, causal=False, dropout=0.0):
    return attention(torch.stack([q, k, v], 1), packed, bias=bias, window=window, causal=causal, dropout=dropout)


ON_GPU, ON_CPU, TRAINED_ON_CPU = (partial(in_rectangles, layout=layout) for layout in (DOUBLED, ROUNDED, EQUAL))
BRANCHES = {"doubled": ON_GPU, "rounded": ON_CPU, "equal": TRAINED_ON_CPU, "dropout": dropping}
LAYOUTS = pytest.mark.parametrize("branch", BRANCHES.values(), ids=BRANCHES.keys())
WITHOUT = [0, 5, 0, 7, 40, 0, 0, 33, 2, 0]  # texts without a token among others


def attention_inputs(dtype, device="cpu", lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    packed = Packed.of(torch.zeros(sum(lengths), dtype=torch.long), torch.tensor(lengths)).to(torch.device(device))
    shape = (sum(lengths), *HEADS_AND_WIDTH)
    qkv = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]
    bias = torch.randn(HEADS_AND_WIDTH[0], max(lengths), max(lengths), generator=generator).to(device, dtype)
    return packed, qkv, bias.requires_grad_()


def naive(q, k, v, packed, bias, window=None, causal=False, factors=None):
    """softmax(q k^T / sqrt(D/H) + bias) v, one text after the other, over the tokens within the window or so far. The
    weights are multiplied by the `factors` of each text."""
    outputs = []
    for qt, kt, vt in zip(*(x.split(packed.lengths.tolist()) for x in (q, k, v)), strict=True):
        scores = torch.einsum("ihd,jhd->hij", qt, kt) / qt.shape[-1] ** 0.5
        if bias is not None:
            scores = scores + bias[:, : len(qt), : len(qt)]
        if window is not None:
            far = [[abs(i - j) > window for j in range(len(qt))] for i in range(len(qt))]
            scores = scores.masked_fill(torch.tensor(far, device=q.device).bool().view_as(scores[0]), float("-inf"))
        if causal:
            later = [[j > i for j in range(len(qt))] for i in range(len(qt))]
            scores = scores.masked_fill(torch.tensor(later, device=q.device).bool().view_as(scores[0]), float("-inf"))
        weights = scores.softmax(-1) if factors is None else scores.softmax(-1) * factors[len(outputs)]
        outputs.append(torch.einsum("hij,jhd->ihd", weights, vt))
    return torch.cat(outputs)


def check_branch(branch, packed, qkv, bias=None, window=None, causal=False):
    """Values and gradients."""
    inputs, dtype = qkv if bias is None else [*qkv, bias], qkv[0].dtype
    weights = torch.linspace(-1, 1, 24, dtype=dtype).view(HEADS_AND_WIDTH)  # so that every output counts differently
    wanted, given = naive(*qkv, packed, bias, window, causal), branch(*qkv, packed, bias, window, causal)
    torch.testing.assert_close(given, wanted, atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs) for x in (given, wanted)]
    torch.testing.assert_close(*gradients, atol=3e-6 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@LAYOUTS
def test_branches_equal_the_definition(branch, dtype, has_bias):
    packed, qkv, bias = attention_inputs(dtype)
    check_branch(branch, packed, qkv, bias if has_bias else None)


@pytest.mark.parametrize("lengths", [LONG, WITHOUT, [3, 200, 3, 33]])
@LAYOUTS
def test_bias_on_texts_of_all_lengths(branch, lengths):
    packed, qkv, bias = attention_inputs(torch.float64, lengths=lengths)
    check_branch(branch, packed, qkv, bias)


@pytest.mark.parametrize(("window", "causal"), [(None, False), (0, False), (2, False), (None, True)])
@LAYOUTS
def test_texts_without_a_token(branch, window, causal):
    packed, qkv, _ = attention_inputs(torch.float64, lengths=WITHOUT)
    check_branch(branch, packed, qkv, None, window, causal)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
@pytest.mark.parametrize("flash", [False, True])
def test_no_token_at_all(flash, lengths, monkeypatch):
    """Every input has a gradient, of zero: ranks average them, and wait for one that is missing."""
    monkeypatch.setattr(attention_file, "_has_flash", lambda q: flash)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.zeros(0, *HEADS_AND_WIDTH, dtype=dtype, requires_grad=True) for _ in range(3))
        bias = torch.randn(3, 0, 0, requires_grad=True)
        packed = Packed.of(torch.zeros(0, dtype=torch.long), torch.tensor(lengths, dtype=torch.long))
        for own in (None, bias):
            found = of_the_function(q, k, v, packed, bias=own, dropout=0.1)
            assert (found.shape, found.dtype) == (q.shape, dtype)
            gradients = torch.autograd.grad(found.sum(), [x for x in (q, k, v, own) if x is not None])
            assert all(not gradient.any() for gradient in gradients)


def test_padding_is_bounded(monkeypatch):
    """385 short texts and one of 512 tokens: one rectangle would have a mask of 386 * 3 * 512 * 512 numbers."""
    sizes, real = [], F.scaled_dot_product_attention

    def recorded(q, k, v, attn_mask, dropout_p):
        sizes.append(max(attn_mask.numel(), q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]))
        return real(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    lengths = [512, *(5 + i % 20 for i in range(385))]
    packed, qkv, bias = attention_inputs(torch.float32, lengths=lengths)
    ON_GPU(*qkv, packed, bias, None, False)
    assert len(sizes) == 2
    assert sum(sizes) < 3 * (512**2 + 385 * 24**2) + 1


def test_similar_lengths():
    groups = [[n for n in range(1, 1025) if DOUBLED.kind(n) == number] for number in (5, 6, 7, 8, 9, 10)]
    assert [(group[0], group[-1]) for group in groups] == [
        *[(1, 32), (33, 64), (65, 128), (129, 256), (257, 512), (513, 1024)]
    ]
    assert [ROUNDED.kind(n) for n in (1, 15, 16, 17, 32, 33)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("gradients", "dropout", "has_bias", "wanted"),
    [(False, 0.0, False, ROUNDED), (True, 0.0, False, EQUAL), (False, 0.1, False, CACHED), (True, 0.1, True, CACHED),
     (False, 0.0, True, EQUAL)],
)  # fmt: skip
def test_what_layout_a_cpu_takes(gradients, dropout, has_bias, wanted, monkeypatch):
    seen = []
    monkeypatch.setattr(attention_file, "rectangles", lambda *given: seen.append(given[1]) or rectangles(*given))
    packed, qkv, bias = attention_inputs(torch.float32)
    with torch.set_grad_enabled(gradients):
        of_the_function(*qkv, packed, bias=bias if has_bias else None, dropout=dropout)
    assert seen == [wanted]


def test_rectangles_of_a_layout():
    packed, _, _ = attention_inputs(torch.float32, lengths=[300, 250, 200, 200, 0, 33, 32, 32, 1])
    rows = torch.arange(packed.cu_seqlens[-1])
    for layout, wanted in {
        EQUAL: [(1, 300), (1, 250), (2, 200), (1, 33), (2, 32), (1, 1)],
        ROUNDED: [(1, 304), (1, 256), (2, 208), (1, 48), (2, 32), (1, 16)],
        CACHED: [(1, 300), (1, 250), (1, 200), (1, 200), (1, 33), (2, 32), (1, 1)],  # 2 x 200^2 > 2^16
        DOUBLED: [(1, 300), (3, 250), (1, 33), (3, 32)],
    }.items():
        found = rectangles(packed.cu_seqlens, layout)
        assert [shape[:2] for shape in found.shapes] == wanted
        assert found.num_places == sum(n * longest for n, longest in wanted)
        parts = found.spread(rows)
        assert [part.shape for part in parts] == [torch.Size(shape) for shape in wanted]
        assert torch.equal(found.gather(torch.cat([part.flatten() for part in parts])), rows)


def test_lengths_are_asked_for_once():
    """On a GPU each answer waits for all that runs there."""
    packed, same, other = (attention_inputs(torch.float32, lengths=n)[0] for n in ([3, 1], [3, 1], [1, 3]))
    rectangles.cache_clear()
    found = [rectangles(texts.cu_seqlens, EQUAL) for texts in (packed, packed, same, other, packed)]
    assert [[shape.longest for shape in texts.shapes] for texts in found] == [[3, 1], [3, 1], [3, 1], [1, 3], [3, 1]]
    assert rectangles.cache_info().misses == 3  # found by identity: comparing would wait too


def test_found_without_gradients_and_used_with_them():
    packed, qkv, _ = attention_inputs(torch.float64)
    with torch.inference_mode():
        rectangles(packed.cu_seqlens, DOUBLED)
    check_branch(ON_GPU, packed, qkv)


@LAYOUTS
def test_what_is_no_number_stays_in_its_text(branch):
    """A text that overflows: no other may show it, though padding could be of its tokens."""
    packed, qkv, _ = attention_inputs(torch.float32)
    before = branch(*qkv, packed, None, None, False)
    for text in range(packed.n):
        own = packed.text_ids == text
        broken = [x.detach().masked_fill(own[:, None, None], float("nan")) for x in qkv]
        after = branch(*broken, packed, None, None, False)
        torch.testing.assert_close(after[~own], before[~own])
        assert after[own].isnan().all()
        inputs = [x.requires_grad_() for x in broken]
        gradients = torch.autograd.grad(branch(*inputs, packed, None, None, False)[~own].sum(), inputs)
        assert all(gradient[~own].isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("window", [0, 1, 4, 8, 16, 100])
@LAYOUTS
def test_windows_equal_the_definition(branch, window):
    for dtype in (torch.float32, torch.float64):
        packed, qkv, _ = attention_inputs(dtype)
        check_branch(branch, packed, qkv, window=window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@LAYOUTS
def test_causal_equals_the_definition(branch, dtype):
    packed, qkv, _ = attention_inputs(dtype)
    check_branch(branch, packed, qkv, causal=True)


def test_causal_of_the_function():
    packed, qkv, _ = attention_inputs(torch.float64)
    found = of_the_function(*qkv, packed, causal=True)
    torch.testing.assert_close(found, naive(*qkv, packed, None, causal=True), atol=1e-12, rtol=0)
    assert not torch.allclose(found, of_the_function(*qkv, packed))


@pytest.mark.parametrize("window", [3, 64])
@LAYOUTS
def test_windows_on_long_texts(branch, window):
    packed, qkv, _ = attention_inputs(torch.float64, lengths=LONG)
    check_branch(branch, packed, qkv, window=window)


@pytest.mark.parametrize("window", [0, 1, 3, 4, 5, 11])
@LAYOUTS
def test_blocks_of_every_length(branch, window, monkeypatch):
    monkeypatch.setattr(window_file, "BLOCK", 4)
    packed, qkv, _ = attention_inputs(torch.float64, lengths=[*range(1, 60), 40, 40, 40])
    check_branch(branch, packed, qkv, window=window)


def test_long_texts_meet_their_surroundings_only(monkeypatch):
    """No scores of 8192 x 8192."""
    sizes, real = [], F.scaled_dot_product_attention

    def recorded(q, k, v, attn_mask, dropout_p):
        sizes.append((*q.shape[1:3], k.shape[2]))
        return real(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    q = torch.randn(10 + 8192, 1, 8)
    of_the_function(q, q, q, Packed.of(torch.zeros(len(q), dtype=torch.long), torch.tensor([10, 8192])), window=64)
    assert sizes == [(1, 10, 10), (128, 64, 192)]  # 128 blocks of 64 queries, of which each meets 192 keys


@pytest.mark.parametrize("branch", [ON_GPU, ON_CPU, TRAINED_ON_CPU])
def test_every_query_sees_a_key(branch, monkeypatch):
    """Padding too: only some kernels give zeros and no NaN where there is none."""
    rows, real = [], F.scaled_dot_product_attention

    def recorded(q, k, v, attn_mask, dropout_p):
        if attn_mask is not None:
            rows.append((attn_mask if attn_mask.dtype == torch.bool else attn_mask == 0).any(-1).all().item())
        return real(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    monkeypatch.setattr(window_file, "BLOCK", 8)
    packed, qkv, _ = attention_inputs(torch.float32, lengths=[49, 1, 50, 77])
    branch(*qkv, packed, None, 2, False)
    assert rows
    assert all(rows)


@pytest.mark.parametrize("window", [None, 4, 15, 16, 20])
def test_window_of_the_function(window):
    packed, qkv, _ = attention_inputs(torch.float32)
    torch.testing.assert_close(
        of_the_function(*qkv, packed, window=window), naive(*qkv, packed, None, window), atol=1e-6, rtol=0
    )
    # the longest text has 17 tokens
    found, whole = of_the_function(*qkv, packed, window=window), of_the_function(*qkv, packed)
    assert torch.equal(found, whole) == (window not in (4, 15))


@pytest.mark.parametrize(("has_bias", "window"), [(False, None), (True, None), (False, 3)])
def test_half_precision_with_gradients(has_bias, window):
    packed, qkv, bias = attention_inputs(torch.bfloat16)
    bias = bias if has_bias else None
    given = of_the_function(*qkv, packed, bias=bias, window=window)
    wanted = naive(*(x.float() for x in qkv), packed, None if bias is None else bias.float(), window)
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given.float(), wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("lengths", [LENGTHS, LONG])
@pytest.mark.parametrize("window", [None, 3])
def test_dropout_is_applied(window, lengths):
    packed, qkv, _ = attention_inputs(torch.float32, lengths=lengths)
    with_dropout, without = (of_the_function(*qkv, packed, window=window, dropout=p) for p in (0.5, 0.0))
    texts = zip(*(x.split(lengths) for x in (with_dropout, without)), strict=True)
    assert not any(torch.equal(a, b) for a, b in texts if len(a) > 9)


@pytest.mark.parametrize("lengths", [LENGTHS, WITHOUT, LONG, [1]])
@pytest.mark.parametrize("kind", ["plain", "bias", "window", "causal"])
def test_dropout_equals_the_definition(kind, lengths, monkeypatch):
    """Values and gradients, with the masks that were drawn."""
    drawn = []

    def recorded(like, p):
        drawn.append(keep(like, p))
        return drawn[-1].clone()

    monkeypatch.setattr(attention_dropout_file, "keep", recorded)
    packed, qkv, bias = attention_inputs(torch.float64, lengths=lengths)
    own, window, causal = bias if kind == "bias" else None, 3 if kind == "window" else None, kind == "causal"
    texts = rectangles(packed.cu_seqlens, CACHED)
    found = attention_with_dropout(stacked := torch.stack(qkv, 1), own, texts, sides_of(window, causal), 0.3)
    assert torch.equal(stacked, torch.stack(qkv, 1))  # its numbers are scaled in a copy
    masks = [mask for of_some, shape in zip(drawn, texts.shapes, strict=True) for mask in of_some.chunk(shape.n)]
    by_text = iter(masks)  # [H, L, L] of each that has tokens
    factors = [next(by_text)[:, :end, :end] * factor(0.3) if end else 0.0 for end in lengths]
    wanted = naive(*qkv, packed, own, window, causal, factors)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    inputs = qkv if own is None else [*qkv, own]
    ways = torch.randn_like(wanted)
    gradients = [torch.autograd.grad((x * ways).sum(), inputs) for x in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def test_only_the_bias_is_trained():
    """As of MPNet when all but that is frozen."""
    packed, qkv, bias = attention_inputs(torch.float64)
    frozen = [x.detach() for x in qkv]
    ways = torch.linspace(-1, 1, 24, dtype=torch.float64).view(HEADS_AND_WIDTH)
    found, wanted = dropping(*frozen, packed, bias, None, False), naive(*frozen, packed, bias)
    gradients = [torch.autograd.grad((x * ways).sum(), bias) for x in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", [None, 64])  # in the latter, long texts are in blocks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_is_dropped_without_gradients(dtype, window):
    """GradCache embeds so first. Only the seed decides."""
    packed, qkv, _ = attention_inputs(dtype, lengths=LONG)
    found = []
    for gradients in (False, True, True):
        torch.manual_seed(len(found) // 2)
        with torch.set_grad_enabled(gradients):
            found.append(of_the_function(*qkv, packed, window=window, dropout=0.1))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[1].requires_grad and found[0].dtype == dtype


# ---------------------------------------------------------------- flash attention, whose kernel only a GPU has


def kernel(query, key, value, starts, window_size, is_causal):
    """What torch's kernel computes, and what it refuses."""
    assert starts.dtype == torch.int32
    assert len(query) and query.shape[2] % 8 == 0 and query.shape[2] <= 256
    assert is_causal == (window_size == (-1, 0))
    packed = Packed.of(torch.zeros(len(query), dtype=torch.long), starts.diff().long())
    window = None if window_size[0] == -1 else window_size[0]
    return naive(query, key, value, packed, None, window, is_causal)


@pytest.fixture
def calls(monkeypatch):
    """A kernel with the signature of the real one, and the arguments that it got."""
    signature, found = inspect.signature(varlen.varlen_attn), []

    def varlen_attn(*args, **options):
        given = signature.bind(*args, **options)  # a TypeError if torch does not take it so
        given.apply_defaults()
        found.append(own := given.arguments)
        assert own["cu_seq_q"] is own["cu_seq_k"]
        assert own["max_q"] == own["max_k"] == int(own["cu_seq_q"].diff().max())
        assert not any(own[name] for name in ("return_aux", "scale", "enable_gqa", "seqused_k", "block_table"))
        causal = own["window_size"] == (-1, 0)  # as torch says of it
        return kernel(own["query"], own["key"], own["value"], own["cu_seq_q"], own["window_size"], causal)

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    return found


@pytest.mark.parametrize("lengths", [LENGTHS, WITHOUT])
@pytest.mark.parametrize(("window", "causal"), [(None, False), (0, False), (3, False), (64, False), (None, True)])
def test_the_stream_equals_the_definition(window, causal, lengths, calls, monkeypatch):
    monkeypatch.setattr(attention_file, "_has_flash", lambda q: True)
    packed, qkv, _ = attention_inputs(torch.float64, lengths=lengths)
    check_branch(of_the_function, packed, qkv, None, window, causal)
    assert len(calls) == 1


def test_what_goes_to_flash_attention(calls, monkeypatch):
    monkeypatch.setattr(attention_file, "_has_flash", lambda q: True)
    packed, qkv, bias = attention_inputs(torch.float64)
    for options in ({}, {"window": 3}, {"causal": True}):
        wanted = naive(*qkv, packed, None, **options)
        torch.testing.assert_close(of_the_function(*qkv, packed, **options), wanted, atol=1e-12, rtol=0)
    assert len(calls) == 3
    of_the_function(*qkv, packed, bias=bias), of_the_function(*qkv, packed, dropout=0.1)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.float32}, False),
        ({"is_cuda": False}, False),
        ({"shape": (9, 2, 192)}, True),
        ({"shape": (9, 2, 256)}, False),  # not every card has its backward pass
        ({"shape": (9, 2, 320)}, False),
        ({"shape": (9, 2, 12)}, False),
        ({"capability": (8, 0)}, True),
        ({"capability": (7, 5)}, False),  # Turing
        ({"built": False}, False),
    ],
)
def test_which_vectors_have_flash_attention(change, wanted, monkeypatch):
    given = {
        "is_cuda": True,
        "dtype": torch.bfloat16,
        "shape": (9, 2, 64),
        "capability": (9, 0),
        "built": True,
    } | change
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: given["capability"])
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: given["built"])
    assert _has_flash(SimpleNamespace(device=torch.device("cuda", 0), **given)) == wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("window", "causal"), [(None, False), (3, False), (64, False), (None, True)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stream_equals_the_definition(dtype, window, causal):
    packed, qkv, _ = attention_inputs(dtype, "cuda", LENGTHS if window is None else LONG)
    wide = [x.detach().float().requires_grad_() for x in qkv]
    assert _has_flash(qkv[0])
    given = of_the_function(*qkv, packed, window=window, causal=causal)
    wanted = naive(*wide, packed, None, window, causal)
    torch.testing.assert_close(given.float(), wanted, atol=0.02, rtol=0)
    gradients = torch.autograd.grad(given.float().pow(2).sum(), qkv)
    torch.testing.assert_close(
        [g.float() for g in gradients], list(torch.autograd.grad(wanted.pow(2).sum(), wide)), atol=0.1, rtol=0.05
    )
