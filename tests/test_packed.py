"""Packed against lists of lists."""

import random

import pytest
import torch
from torch.utils._pytree import tree_map

from minist.data.packed import Packed, ranges, split_points


def random_texts(seed, n=12):
    """Texts as (ids, token types, prompt length); some are empty."""
    draw = random.Random(seed)
    lengths = [draw.choice([0, 1, 2, 3, 9]) for _ in range(n)]
    return [([draw.randrange(100) for _ in range(k)], [i % 2 for i in range(k)], draw.randint(0, 3)) for k in lengths]


def pack(texts):
    ids = torch.tensor([i for text, _, _ in texts for i in text], dtype=torch.long)
    types = torch.tensor([t for _, kinds, _ in texts for t in kinds], dtype=torch.long)
    lengths = torch.tensor([len(text) for text, _, _ in texts], dtype=torch.long)
    return Packed.of(ids, lengths, types, torch.tensor([p for _, _, p in texts], dtype=torch.long))


def unpack(packed):
    bounds = packed.cu_seqlens.tolist()
    ids, types, prompts = packed.input_ids.tolist(), packed.token_type_ids.tolist(), packed.prompt_lengths.tolist()
    return [(ids[a:b], types[a:b], p) for a, b, p in zip(bounds, bounds[1:], prompts, strict=False)]


def test_fields_of_the_example_in_the_docstring():
    packed = Packed.of(torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([3, 1, 2]))
    assert packed.text_ids.tolist() == [0, 0, 0, 1, 2, 2]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert packed.cu_seqlens.dtype == torch.int32  # the varlen attention kernels take no other
    assert packed.token_type_ids.tolist() == [0] * 6
    assert packed.prompt_lengths.tolist() == [0, 0, 0]
    assert (packed.max_seqlen, packed.n, packed.lengths.tolist()) == (3, 3, [3, 1, 2])


@pytest.mark.parametrize("seed", range(5))
def test_fields_against_loops(seed):
    texts = random_texts(seed)
    packed = pack(texts)
    assert packed.text_ids.tolist() == [i for i, (ids, _, _) in enumerate(texts) for _ in ids]
    assert packed.position_ids.tolist() == [p for ids, _, _ in texts for p in range(len(ids))]
    assert packed.max_seqlen == max(len(ids) for ids, _, _ in texts)
    assert unpack(packed) == texts


@pytest.mark.parametrize("seed", range(5))
def test_take_slice_cat(seed):
    texts = random_texts(seed)
    packed, rows = pack(texts), [3, 0, 3, 11, 5]
    assert unpack(packed.take(torch.tensor(rows))) == [texts[i] for i in rows]
    assert unpack(packed.slice(2, 7)) == texts[2:7]
    assert unpack(packed.slice(4, 4)) == []
    assert unpack(Packed.cat([packed.slice(0, 5), packed.slice(5, 5), packed.slice(5, 12)])) == texts


def test_cat_counts_texts_and_positions_anew():
    both = Packed.cat([Packed.of(torch.arange(3), torch.tensor([2, 1])), Packed.of(torch.arange(2), torch.tensor([2]))])
    assert both.text_ids.tolist() == [0, 0, 1, 2, 2]
    assert both.position_ids.tolist() == [0, 1, 0, 0, 1]


@pytest.mark.parametrize("max_tokens", [1, 5, 11, 1000])
def test_split_is_greedy_and_loses_nothing(max_tokens):
    texts = random_texts(7, 40)
    parts = pack(texts).split(max_tokens)
    assert [text for part in parts for text in unpack(part)] == texts
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        tokens = len(part.input_ids)
        assert tokens <= max_tokens or part.n == 1
        if following is not None:
            assert tokens + int(following.lengths[0]) > max_tokens  # the next text did not fit


def test_no_texts():
    packed = Packed.of(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    assert (packed.n, packed.max_seqlen, packed.split(10)) == (0, 0, [])


def test_split_points():
    assert split_points([3, 3, 3], 6) == [0, 2, 3]
    assert split_points([9, 1], 4) == [0, 1, 2]
    assert split_points([], 4) == [0]


def test_ranges():
    assert ranges(torch.tensor([5, 0, 7]), torch.tensor([2, 0, 3])).tolist() == [5, 6, 7, 8, 9]


def test_torch_looks_inside():
    packed = tree_map(lambda x: x + 1 if isinstance(x, torch.Tensor) else x, pack(random_texts(0)))
    assert isinstance(packed, Packed)
    assert packed.cu_seqlens[0] == 1


def test_to_the_same_device_copies_nothing():
    packed = pack(random_texts(0))
    assert packed.to(torch.device("cpu")) is packed
    assert packed.to(torch.device("meta")).input_ids.is_meta
    assert packed.to(torch.device("meta")).max_seqlen == packed.max_seqlen


def test_lengths_must_add_up():
    with pytest.raises(AssertionError, match="add up"):
        Packed.of(torch.arange(4), torch.tensor([2, 1]))
