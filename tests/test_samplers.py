"""Which rows make up each batch."""

from functools import partial

import numpy as np
import pytest
import torch

from minist.data.dataset import text_hash
from minist.data.samplers import SAMPLERS, Batches, no_duplicates, permutation, shuffled

# recorded from sentence-transformers 6.2: NoDuplicatesBatchSampler on 12 rows, batch_size 4, seed 7
RECORDED = [
    [[3, 4, 0, 7], [5, 9, 11, 2], [6, 8, 10], [1]],
    [[3, 10, 6, 9], [0, 4, 7, 8], [1, 2, 5], [11]],
]


def random_hashes(seed, n=60, distinct=25):
    return np.random.RandomState(seed).randint(0, distinct, (n, 2)).astype(np.uint64)


def lists(batches):
    return [batch.tolist() for batch in batches]


@pytest.mark.parametrize("epoch", [0, 1])
def test_no_duplicates_as_recorded(epoch):
    hashes = np.array([[text_hash(f"a{i // 2}"), text_hash(f"p{i % 5}")] for i in range(12)], np.uint64)
    assert lists(no_duplicates(hashes, 4, 7, epoch, drop_last=False)) == RECORDED[epoch]
    full = [batch for batch in RECORDED[epoch] if len(batch) == 4]
    assert lists(no_duplicates(hashes, 4, 7, epoch, drop_last=True)) == full


@pytest.mark.parametrize("seed", range(4))
def test_no_duplicates_on_random_rows(seed):
    hashes = random_hashes(seed)
    batches = lists(no_duplicates(hashes, 8, seed, 0, drop_last=False))
    assert sorted(row for batch in batches for row in batch) == list(range(60))
    for batch in batches:
        assert len(batch) <= 8
        texts = [text for row in batch for text in set(hashes[row].tolist())]  # a row may repeat its own text
        assert len(texts) == len(set(texts))


def test_a_row_never_conflicts_with_itself():
    assert lists(no_duplicates(np.array([[5, 5]], np.uint64), 4, 0, 0, drop_last=False)) == [[0]]


def test_all_rows_the_same():
    batches = lists(no_duplicates(np.zeros((3, 2), np.uint64), 2, 0, 0, drop_last=False))
    assert [len(batch) for batch in batches] == [1, 1, 1]
    assert no_duplicates(np.zeros((3, 2), np.uint64), 2, 0, 0, drop_last=True) == []


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [8, 8, 4]), (True, [8, 8])])
def test_shuffled(drop_last, sizes):
    batches = lists(shuffled(np.zeros((20, 1)), 8, 3, 1, drop_last))
    assert [len(batch) for batch in batches] == sizes
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4)).tolist()  # seed + epoch
    assert [row for batch in batches for row in batch] == order[: sum(sizes)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_depends_on_seed_and_epoch_alone(name):
    hashes = random_hashes(0)
    torch.manual_seed(1)
    first = lists(SAMPLERS[name](hashes, 8, 5, 2, False))
    torch.manual_seed(2)
    assert lists(SAMPLERS[name](hashes, 8, 5, 2, False)) == first
    assert lists(SAMPLERS[name](hashes, 8, 5, 3, False)) != first
    assert lists(SAMPLERS[name](hashes, 8, 9, 2, False)) != first


def test_sampling_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    permutation(10, 1, 2)
    assert torch.equal(torch.rand(3), expected)


def batches_of(n=20, epochs=3, max_steps=0):
    return Batches(partial(shuffled, np.zeros((n, 1)), 8, 7, drop_last=False), epochs, max_steps)


def test_batches_count_all_epochs():
    batches = batches_of()
    steps = list(batches.start_at(0))
    assert batches.total == len(steps) == 9
    assert [step for step, _ in steps] == list(range(9))
    rows = [row for _, part in steps for row in part.tolist()]
    assert rows == [row for epoch in range(3) for row in permutation(20, 7, epoch).tolist()]


@pytest.mark.parametrize("max_steps", [2, 7, 20])
def test_max_steps_counts_instead_of_epochs(max_steps):
    assert [step for step, _ in batches_of(max_steps=max_steps).start_at(0)] == list(range(max_steps))


@pytest.mark.parametrize("first", [0, 1, 3, 8, 9])
def test_a_resumed_run_sees_the_same_batches(first):
    whole = [(step, rows.tolist()) for step, rows in batches_of().start_at(0)]
    assert [(step, rows.tolist()) for step, rows in batches_of().start_at(first)] == whole[first:]


def test_no_full_batch():
    with pytest.raises(ValueError, match="batch_size is larger than the data, and drop_last is set"):
        Batches(partial(shuffled, np.zeros((3, 1)), 8, 0, drop_last=True), 1, 0)
