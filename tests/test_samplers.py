"""Which rows make up each batch, and whose turn it is, against recorded batches and slow definitions."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from minist.data import samplers
from minist.data.dataset import text_hashes
from minist.data.samplers import (
    MIXINGS,
    SAMPLERS,
    Batches,
    Keys,
    Shuffled,
    group_by_label,
    no_duplicates,
    permutation,
    proportional,
    round_robin,
)

# by sentence-transformers 6.2, seed 7: two columns of 12 rows, 20 rows of 3 labels, three sets of 10, 4 and 7 rows
RECORDED = json.loads((Path(__file__).parent / "data" / "samplers.json").read_text())


def keys_of(rows, labels=None):
    """`rows`: the texts of each row, strings or numbers."""
    hashes = [int(text_hashes([text])[0]) if isinstance(text, str) else text for row in rows for text in row]
    offsets = np.cumsum([0, *map(len, rows)])
    return Keys(np.array(hashes, np.uint64), offsets, None if labels is None else np.array(labels))


def lists(batches):
    return [batch.tolist() for batch in batches]


PAIRS = keys_of([(f"a{i // 2}", f"p{i % 5}") for i in range(12)])
PLAIN = keys_of([(f"t{i}",) for i in range(20)], labels=[i % 3 for i in range(20)])

# ---------------------------------------------------------------- shuffled


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [8, 8, 4]), (True, [8, 8])])
def test_shuffled(drop_last, sizes):
    batches = Shuffled(PLAIN, 8, 3, 1, drop_last)
    assert len(batches) == len(sizes)
    assert [len(batch) for batch in batches] == sizes
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4)).tolist()  # seed + epoch
    assert [row for batch in batches for row in batch.tolist()] == order[: sum(sizes)]


def test_shuffled_draws_no_order_to_count(monkeypatch):
    monkeypatch.setattr(samplers, "permutation", lambda *_: pytest.fail("an order was drawn"))
    assert len(Shuffled(PLAIN, 8, 3, 1, False)) == 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_depends_on_seed_and_epoch_alone(name):
    keys = keys_of(np.random.RandomState(0).randint(0, 25, (60, 2)).tolist(), labels=[i % 4 for i in range(60)])
    torch.manual_seed(1)
    first = lists(SAMPLERS[name](keys, 8, 5, 2, False))
    torch.manual_seed(2)
    assert lists(SAMPLERS[name](keys, 8, 5, 2, False)) == first
    assert lists(SAMPLERS[name](keys, 8, 5, 3, False)) != first
    assert lists(SAMPLERS[name](keys, 8, 9, 2, False)) != first


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_leaves_the_global_random_state_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    lists(SAMPLERS[name](PLAIN, 4, 1, 2, False))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["shuffled", "no_duplicates"])
def test_no_rows(name):
    assert lists(SAMPLERS[name](keys_of([]), 4, 0, 0, False)) == []


# ---------------------------------------------------------------- no_duplicates


def slow_no_duplicates(keys, batch_size, seed, epoch):
    """Its definition: one pass over all rows left for every batch."""
    waiting = permutation(keys.rows, seed, epoch).tolist()
    while waiting:
        batch, seen, deferred = [], set(), []
        for row in waiting:
            texts = set(keys.hashes[keys.offsets[row] : keys.offsets[row + 1]].tolist())
            if len(batch) < batch_size and not texts & seen:
                batch.append(row)
                seen |= texts
            else:
                deferred.append(row)
        waiting = deferred
        yield batch


@pytest.mark.parametrize("epoch", [0, 1])
def test_no_duplicates_as_recorded(epoch):
    recorded = RECORDED["sampler_nodup"]["epochs"][epoch]
    assert lists(no_duplicates(PAIRS, 4, 7, epoch, drop_last=False)) == recorded


@pytest.mark.parametrize("epoch", [0, 1])
def test_drop_last_leaves_out_what_is_not_full(epoch):
    """The recorded library then draws further batches from rows that it has used already. We do not."""
    full = [batch for batch in RECORDED["sampler_nodup"]["epochs"][epoch] if len(batch) == 4]
    assert lists(no_duplicates(PAIRS, 4, 7, epoch, drop_last=True)) == full
    assert RECORDED["sampler_nodup_droplast"]["epochs"][epoch][: len(full)] == full


@pytest.mark.parametrize("distinct", [2, 5, 30, 300, 5000])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_no_duplicates_equals_its_definition(distinct, batch_size):
    """From hardly any duplicate to hardly anything else; rows of no text, of one, and of several."""
    draw = np.random.RandomState(distinct + batch_size)
    for seed in range(8):
        rows = [draw.randint(0, distinct, draw.choice([0, 1, 2, 2, 2, 5])).tolist() for _ in range(draw.randint(1, 90))]
        keys = keys_of(rows)
        batches = list(slow_no_duplicates(keys, batch_size, seed, 1))
        expected = [b for i, b in enumerate(batches, 1) if len(b) > 1 or batch_size == 1 or i == len(batches)]
        assert lists(no_duplicates(keys, batch_size, seed, 1, False)) == expected
        full = [batch for batch in expected if len(batch) == batch_size]
        assert lists(no_duplicates(keys, batch_size, seed, 1, True)) == full


def test_an_answer_that_most_rows_share():
    """40 of 60 rows have one answer: that used to make 33 batches of one row, whose loss is 0."""
    keys = keys_of([(f"q{i}", "yes" if i < 40 else f"a{i}") for i in range(60)])
    sampler = partial(no_duplicates, keys, 4, 1, drop_last=False)
    batches = lists(sampler(0))
    assert [len(batch) for batch in batches[:-1] if len(batch) < 2] == []
    assert len(batches) < 15
    assert {row for batch in batches for row in batch} >= set(range(40, 60)), "all rows that others can be told from"
    assert lists(sampler(1)) != batches
    batches = Batches([partial(Shuffled, keys, 4, 1, drop_last=False), sampler], "proportional", 1, 1, 0)
    assert batches.rows(0) == 60
    assert batches.rows(1) == sum(map(len, sampler(0))) < 60, "for the log: how many are left out"


def test_a_row_never_conflicts_with_itself():
    assert lists(no_duplicates(keys_of([[5, 5]]), 4, 0, 0, drop_last=False)) == [[0]]


def test_any_column_against_any_other():
    batches = no_duplicates(keys_of([["a", "b"], ["c", "a"]]), 2, 0, 0, drop_last=False)
    assert [len(batch) for batch in batches] == [1], "a batch of one row has nothing to compare it with"


def test_all_rows_the_same():
    keys = keys_of([[0, 0]] * 3)
    assert [len(batch) for batch in no_duplicates(keys, 2, 0, 0, drop_last=False)] == [1]
    assert [len(batch) for batch in no_duplicates(keys, 1, 0, 0, drop_last=False)] == [1, 1, 1]
    assert no_duplicates(keys, 2, 0, 0, drop_last=True) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "looks"),
    [(lambda i: f"b{i}", 1), (lambda i: f"b{i % 3}", 3), (lambda i: "yes" if i % 2 else f"b{i}", 3)],
    ids=["no duplicate", "three classes", "half of the rows alike"],
)
def test_no_row_is_looked_at_again_and_again(monkeypatch, second, looks):
    """`looks`: in a run, alone, and once more after waiting. The work does not grow as rows times batches."""
    n, count, texts_in_order = 3000, [0], samplers._texts_in_order

    def counting(keys, order):
        def texts_between(start, end):
            count[0] += end - start
            return texts(start, end)

        texts = texts_in_order(keys, order)
        return texts_between

    monkeypatch.setattr(samplers, "_texts_in_order", counting)
    keys = keys_of([(f"a{i}", second(i)) for i in range(n)])
    batches = no_duplicates(keys, 16, 0, 0, False)
    alone = sum(len(b) == 1 for b in slow_no_duplicates(keys, 16, 0, 0))  # all but the last of them are left out
    assert sum(map(len, batches)) == n - max(0, alone - 1)
    assert count[0] <= looks * n


# ---------------------------------------------------------------- group_by_label


def test_group_by_label_as_recorded():
    recorded = RECORDED["sampler_group_by_label"]["batches"]
    assert lists(group_by_label(PLAIN, 6, 7, 0, drop_last=False)) == recorded


@pytest.mark.parametrize("recorded", RECORDED["sampler_group_by_label_more"])
def test_group_by_label_as_recorded_for_labels_of_different_size(recorded):
    keys = keys_of([()] * len(recorded["labels"]), recorded["labels"])
    found = group_by_label(keys, recorded["batch_size"], 7, recorded["epoch"], drop_last=False)
    assert lists(found) == recorded["batches"]


@pytest.mark.parametrize("seed", range(30))
def test_every_row_has_a_partner_and_an_opponent(seed):
    draw = np.random.RandomState(seed)
    labels = draw.choice([0.0, 1.0, 2.5, 7.0], draw.randint(20, 90), p=[0.5, 0.3, 0.15, 0.05])
    batch_size = int(draw.choice([4, 6, 8]))
    batches = lists(group_by_label(keys_of([()] * len(labels), labels), batch_size, seed, 0, drop_last=False))
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for batch in batches:
        counts = np.unique(labels[batch], return_counts=True)[1]
        assert len(counts) > 1
        assert (counts % 2 == 0).all()
    # all pairs of all labels are used, but those of the largest beyond the second largest
    pairs = sorted(np.unique(labels, return_counts=True)[1] // 2)
    pairs[-1] = pairs[-2]
    assert 2 * sum(pairs) - len(rows) in (0, 2)  # two rows alone make no batch
    full = [batch for batch in batches if len(batch) == batch_size]
    assert lists(group_by_label(keys_of([()] * len(labels), labels), batch_size, seed, 0, drop_last=True)) == full


def test_labels_may_be_of_any_kind():
    numbers, names = ([kinds[i % 3] for i in range(20)] for kinds in ((2.5, 0.5, 1.0), ("no", "yes", "maybe")))
    expected = lists(group_by_label(PLAIN, 4, 1, 2, False))
    assert lists(group_by_label(PLAIN._replace(labels=np.array(numbers)), 4, 1, 2, False)) == expected
    assert lists(group_by_label(PLAIN._replace(labels=np.array(names)), 4, 1, 2, False)) == expected


@pytest.mark.parametrize(
    ("labels", "batch_size", "message"),
    [
        (None, 4, "the data has no class per row: name the column"),
        (PLAIN.labels, 5, "batch_size is 5, it must be even and 4 or more"),
        (PLAIN.labels, 2, "batch_size is 2, it must be even and 4 or more"),
        (np.arange(20) / 20, 4, "of 20 labels 0 have two rows or more, it takes two such labels"),
        (np.array([0] * 19 + [1]), 4, "of 2 labels 1 have two rows or more"),
    ],
)
def test_what_cannot_be_grouped(labels, batch_size, message):
    with pytest.raises(ValueError, match=message):
        group_by_label(PLAIN._replace(labels=labels), batch_size, 0, 0, False)


# ---------------------------------------------------------------- mixing


def in_order(rows, batch_size=2):
    return list(torch.arange(rows).split(batch_size))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_mixing_as_recorded(mixing):
    """There the rows of each set come in order, and are numbered from one set to the next."""
    sizes, starts = (10, 4, 7), (0, 10, 14)
    batches = Batches([lambda _, n=n: in_order(n) for n in sizes], mixing, seed=7, epochs=1, max_steps=0)
    found = [(place.rows + starts[place.dataset]).tolist() for place in batches.start_at(0)]
    assert found == RECORDED[f"sampler_{mixing}"]["batches"]
    assert batches.total == RECORDED[f"sampler_{mixing}"]["len"]


def test_proportional_takes_every_batch_once():
    turns = proportional([5, 0, 3], 1, 2)
    assert sorted(turns) == [0] * 5 + [2] * 3
    assert turns != proportional([5, 0, 3], 1, 3)


def test_round_robin_ends_with_the_shortest():
    assert round_robin([3, 2, 9], 0, 0) == [0, 1, 2, 0, 1, 2]


# ---------------------------------------------------------------- the batches of a run


class Counted:
    """A sampler that says for which epochs it was asked. Epoch e has 3 + e % 2 batches."""

    def __init__(self, name):
        self.name, self.asked = name, []

    def __call__(self, epoch):
        self.asked.append(epoch)
        return [torch.tensor([self.name, epoch, i]) for i in range(3 + epoch % 2)]


def counted(epochs=3, max_steps=0, mixing="proportional"):
    sets = [Counted(0), Counted(1)]
    return Batches(sets, mixing, 5, epochs, max_steps), sets[0].asked


def run(batches, first=0):
    return [(*place[:3], place.rows.tolist()) for place in batches.start_at(first)]


@pytest.mark.parametrize("mixing", MIXINGS)
def test_places_count_through_all_epochs(mixing):
    batches, _ = counted(mixing=mixing)
    found = run(batches)
    assert batches.total == len(found) == 2 * (3 + 4 + 3)
    assert [step for step, _, _, _ in found] == list(range(20))
    expected, step = [], 0
    for epoch in range(3):
        used = [0, 0]
        for dataset in MIXINGS[mixing]([3 + epoch % 2] * 2, 5, epoch):
            expected.append((step, epoch, dataset, [dataset, epoch, used[dataset]]))
            used[dataset] += 1
            step += 1
    assert found == expected


@pytest.mark.parametrize("max_steps", [1, 6, 7, 45])
def test_max_steps_counts_instead_of_epochs(max_steps):
    batches, _ = counted(epochs=1, max_steps=max_steps)
    assert batches.total == max_steps
    assert [step for step, _, _, _ in run(batches)] == list(range(max_steps))


@pytest.mark.parametrize("first", [0, 1, 5, 6, 7, 13, 14, 19, 20])
@pytest.mark.parametrize("max_steps", [0, 20])
def test_a_resumed_run_sees_the_same_batches(first, max_steps):
    assert run(counted(max_steps=max_steps)[0], first) == run(counted()[0])[first:]


def test_no_epoch_is_drawn_in_vain():
    batches, asked = counted()
    assert asked == [2, 1, 0]  # to count them
    run(batches)
    assert asked == [2, 1, 0, 1, 2]
    run(batches, 15)
    assert asked == [2, 1, 0, 1, 2]  # the last one was kept
    batches, asked = counted(max_steps=5)
    run(batches)
    assert asked == [0]
    batches, asked = counted(max_steps=15)
    run(batches, 7)
    assert asked == [0, 1, 2]


def test_counting_shuffled_epochs_draws_no_order(monkeypatch):
    samples = [partial(Shuffled, PLAIN, size, 7, drop_last=False) for size in (8, 3)]
    monkeypatch.setattr(samplers.Shuffled, "__getitem__", lambda *_: pytest.fail("a batch was made"))
    assert Batches(samples, "round_robin", 7, 3, 0).total == 3 * 2 * 3


def test_one_shuffled_set():
    batches = Batches([partial(Shuffled, PLAIN, 8, 7, drop_last=False)], "proportional", 7, 3, 0)
    rows = [row for _, _, _, part in run(batches) for row in part]
    assert rows == [row for epoch in range(3) for row in permutation(20, 7, epoch).tolist()]


def test_epochs_of_no_duplicates_may_differ_in_length():
    keys = keys_of(np.random.RandomState(0).randint(0, 40, (60, 2)).tolist())
    sampler = partial(no_duplicates, keys, 8, 3, drop_last=False)
    lengths = [len(sampler(epoch)) for epoch in range(6)]
    assert len(set(lengths)) > 1  # else this test shows nothing
    batches = Batches([sampler], "proportional", 3, 6, 0)
    assert batches.total == sum(lengths) == len(run(batches))
    for (_, _, _, a), (_, epoch, _, b) in pairwise(run(batches, sum(lengths[:2]))):
        assert epoch >= 2
        assert a != b


@pytest.mark.parametrize(("names", "shown"), [((), "data set 1"), (("pairs", "tiny"), "data set tiny")])
def test_a_set_without_a_batch(names, shown):
    samples = [partial(Shuffled, keys, 8, 0, drop_last=True) for keys in (PLAIN, PAIRS, keys_of([(1,)] * 3))]
    with pytest.raises(ValueError, match=f"{shown}: no batch is full: batch_size is larger than the data"):
        Batches([samples[0], samples[2]], "proportional", 0, 1, 0, names)
    Batches(samples[:2], "proportional", 0, 1, 0, names)


def test_unknown_mixing():
    with pytest.raises(ValueError, match="mixing is 'random', known are proportional, round_robin"):
        Batches([Counted(0)], "random", 0, 1, 0)
