"""Pooling against loops over texts."""

import numpy as np
import pytest
import torch

from minist.data.packed import Packed
from minist.modules.pooling import MODES, Pooling

TOKENS = torch.tensor([[1.0, 2], [3, 4], [5, 6], [10, 20], [30, 40], [50, 60], [70, 80]])


def packed(lengths, prompts=None):
    prompts = None if prompts is None else torch.tensor(prompts)
    return Packed.of(torch.zeros(sum(lengths), dtype=torch.long), torch.tensor(lengths), None, prompts)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [[1, 2], [10, 20]]),
        ("max", [[5, 6], [70, 80]]),
        ("mean", [[3, 4], [40, 50]]),
        ("mean_sqrt_len_tokens", [[9 / 3**0.5, 12 / 3**0.5], [80, 100]]),
        ("weightedmean", [[22 / 6, 28 / 6], [50, 60]]),
        ("lasttoken", [[5, 6], [70, 80]]),
    ],
)
def test_known_values(mode, expected):
    found = Pooling(2, (mode,))(TOKENS, packed([3, 4]))
    np.testing.assert_allclose(found.numpy(), expected, atol=0, rtol=1e-6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [[3, 4], [30, 40]]),
        ("max", [[5, 6], [70, 80]]),
        ("mean", [[4, 5], [50, 60]]),
        ("mean_sqrt_len_tokens", [[8 / 2**0.5, 10 / 2**0.5], [150 / 3**0.5, 180 / 3**0.5]]),
        ("weightedmean", [[21 / 5, 26 / 5], [490 / 9, 580 / 9]]),
        ("lasttoken", [[5, 6], [70, 80]]),
    ],
)
def test_known_values_without_the_prompt(mode, expected):
    batch = packed([3, 4], [1, 1])
    found = Pooling(2, (mode,), include_prompt=False)(TOKENS, batch)
    np.testing.assert_allclose(found.numpy(), expected, atol=0, rtol=1e-6)
    assert Pooling(2, (mode,))(TOKENS, batch).tolist() == Pooling(2, (mode,))(TOKENS, packed([3, 4])).tolist()


def test_several_modes_stand_in_the_given_order():
    pooling = Pooling(2, ("mean", "cls", "max"))
    assert pooling.out_width == 6
    assert pooling(TOKENS, packed([3, 4])).tolist() == [[3, 4, 1, 2, 5, 6], [40, 50, 10, 20, 70, 80]]


def slowly(mode, x, lengths, skips):
    rows, start = [], 0
    for length, skip in zip(lengths, skips, strict=True):
        tokens = x[start + skip : start + length]
        weights = np.arange(skip + 1, length + 1)[:, None]
        pools = {
            "cls": tokens[0],
            "max": tokens.max(0),
            "mean": tokens.mean(0),
            "mean_sqrt_len_tokens": tokens.sum(0) / np.sqrt(len(tokens)),
            "weightedmean": (weights * tokens).sum(0) / weights.sum(),
            "lasttoken": tokens[-1],
        }
        rows.append(pools[mode])
        start += length
    return np.stack(rows)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(3))
def test_against_loops(mode, seed):
    draw = np.random.RandomState(seed)
    lengths = draw.randint(1, 9, 10).tolist()
    skips = [draw.randint(0, length) for length in lengths]  # at least one token is left
    x = draw.randn(sum(lengths), 5) - 3  # mostly negative: a zero would win a maximum
    found = Pooling(5, (mode,), include_prompt=False)(torch.tensor(x), packed(lengths, skips))
    np.testing.assert_allclose(found.numpy(), slowly(mode, x, lengths, skips), atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_gradient(mode):
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    pooling, batch = Pooling(3, (mode,), include_prompt=False), packed([3, 4], [1, 2])
    assert torch.autograd.gradcheck(lambda x: pooling(x, batch), x)


@pytest.mark.parametrize("mode", MODES)
def test_a_text_that_is_all_prompt_is_finite(mode):
    found = Pooling(2, (mode,), include_prompt=False)(TOKENS, packed([3, 4], [9, 1]))
    assert found[0].tolist() == ([5, 6] if mode in ("cls", "max", "lasttoken") else [0, 0])


def test_mean_is_summed_in_single_precision():
    x = torch.cat([torch.full((1, 1), 256.0), torch.ones(255, 1)]).bfloat16()  # 256 + 1 is 256 in bfloat16
    found = Pooling(1)(x, packed([256]))
    assert found.dtype == torch.bfloat16
    assert found.item() == torch.tensor(511 / 256).bfloat16().item()


def test_no_texts():
    no_texts = Packed.of(torch.zeros(0).long(), torch.zeros(0).long())
    assert Pooling(2, MODES)(torch.zeros(0, 2), no_texts).shape == (0, 2 * len(MODES))


def test_unknown_mode():
    with pytest.raises(ValueError, match="pooling mode is 'median', known are cls, max, mean,"):
        Pooling(2, ("mean", "median"))
    with pytest.raises(ValueError, match="pooling mode is 'missing'"):
        Pooling(2, ())
