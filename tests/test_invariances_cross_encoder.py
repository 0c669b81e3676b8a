"""What holds for every loss of cross-encoders. shelf_cross_encoder.py lists them.

slow        it is what its formula says, written in python loops over lists without padding
gradient    its gradient is that of finite differences
phases      mini-batches through the model give the value and the gradients of one pass
ranks       two processes give those of one
better      better scores lower it
order       rows may change places, and documents in a list too, where it is not the order that is learned
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from shelf_cross_encoder import ARGUMENTS, CLASSES, SHELF, Example, classes
from slow_cross_encoder import SLOW, in_rows
from torch import Tensor, nn
from two_ranks import WORLD, run_ranks

from minist import Batch, Packed, collectives
from minist.losses import cross_encoder
from minist.training.gradcache import gradcache
from minist.training.step import Objective

ROWS = 6  # two ranks have 3 and 3
LISTS = [example for example in SHELF if example.make().label_lists]
FIXED_ORDER = [e for e in LISTS if "MLE" in e.loss and e.options.get("respect_input_order", True)]


def test_every_loss_is_on_the_shelf_and_has_a_slow_definition():
    assert {example.loss for example in SHELF} == set(SLOW) == set(cross_encoder.__all__) - ARGUMENTS


# ---------------------------------------------------------------- equals its definition


def assert_slow(example: Example, logits: Tensor, batch: Batch) -> None:
    found, wanted = example.make()([logits], batch), SLOW[example.loss](logits, batch, **example.options)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    found, wanted = (torch.autograd.grad(value, logits)[0] for value in (found, wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_slow(example):
    for rows in (ROWS, 1):
        for seed in range(2):
            assert_slow(example, example.logits(rows, seed), example.batch(rows))
    value = example.make()([logits := example.logits(ROWS)], example.batch(ROWS))
    assert torch.autograd.grad(value, logits)[0].abs().max() > 1e-3  # there is something to compare


@pytest.mark.parametrize("example", LISTS, ids=str)
@pytest.mark.parametrize(("score", "label"), [(-40, -5), (-40, 0), (40, -5)])
def test_slow_where_padding_would_be_seen(example, score, label):
    """Scores or labels far from the 0 of the cells that are not there: it would win, or lose, against all of them."""
    batch = example.batch(ROWS)
    logits = (example.logits(ROWS).detach() + score).requires_grad_()
    assert_slow(example, logits, batch._replace(labels=batch.labels + label))


@pytest.mark.parametrize("example", [e for e in SHELF if e.lengths and e.loss != "MarginMSELoss"], ids=str)
def test_a_longer_row_changes_no_other(example):
    """The gradient of a row's scores keeps its direction and sign, only the mean is over more rows."""
    counts = example.counts(3)  # 3, 1 or 2, 5 or 1 pairs
    longer = torch.cat([counts, torch.tensor([30])])
    parts = []
    for n in (counts, longer):
        x = torch.linspace(-3, 1, int(n.sum()), dtype=torch.float64).sin()
        x[: int(counts.sum())] = torch.linspace(-1, 2, int(counts.sum()), dtype=torch.float64).cos()
        labels = None if example.labels is None else (torch.arange(len(x)) * 5 % 7 % 3).double()
        leaf = x[:, None].requires_grad_()
        gradient = torch.autograd.grad(example.make()([leaf], Batch(labels=labels, counts=(n,))), leaf)[0]
        parts.append(gradient[: int(counts.sum()), 0])
    alone, beside = parts
    share = (alone @ beside) / (alone @ alone)
    assert 0 < share < 1
    torch.testing.assert_close(beside, share * alone, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- gradients and types


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_gradient(example):
    loss, batch = example.make(), example.batch(ROWS)
    assert torch.autograd.gradcheck(lambda logits: loss([logits], batch), example.logits(ROWS))


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_single_precision(example):
    batch, exact = example.batch(ROWS), example.logits(ROWS)
    single = exact.detach().float().requires_grad_()
    value = example.make()([single], batch)
    assert value.dtype == torch.float32 and value.shape == ()
    wanted = example.make()([exact], batch)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-6)
    found, wanted = torch.autograd.grad(value, single)[0], torch.autograd.grad(wanted, exact)[0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- order


def moved(example: Example, order: Sequence[int], inner: Sequence[Sequence[int]]) -> Tensor:
    """The loss with the rows in that order, and the pairs of each row in those."""
    batch, logits = example.batch(ROWS), example.logits(ROWS)
    counts = batch.counts[0]
    places = in_rows(range(len(logits)), example.counts(ROWS))
    pairs = torch.tensor([places[row][i] for row in order for i in inner[row]])
    per_pair = counts is None or example.make().label_lists
    labels = None if batch.labels is None else batch.labels[pairs if per_pair else torch.tensor(order)]
    counts = None if counts is None else counts[torch.tensor(order)]
    return example.make()([logits[pairs]], Batch(labels=labels, counts=(counts,)))


def same_order(example: Example) -> list[list[int]]:
    return [list(range(n)) for n in example.counts(ROWS).tolist()]


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_rows_may_change_places(example):
    wanted = example.make()([example.logits(ROWS)], example.batch(ROWS))
    torch.testing.assert_close(moved(example, range(ROWS), same_order(example)), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(moved(example, [4, 1, 5, 0, 3, 2], same_order(example)), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("example", LISTS, ids=str)
def test_documents_may_change_places(example):
    """But for losses of the order in which they are given, or of that of their labels, which may be equal."""
    wanted = example.make()([example.logits(ROWS)], example.batch(ROWS))
    found = moved(example, range(ROWS), [order[::-1] for order in same_order(example)])
    if "MLE" in example.loss:
        assert (found - wanted).abs() > 1e-3
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("example", [e for e in LISTS if "activation_fn" not in e.options], ids=str)
def test_only_differences_of_scores_count(example):
    logits, batch, loss = example.logits(ROWS), example.batch(ROWS), example.make()
    lift = torch.arange(1.0, ROWS + 1).repeat_interleave(batch.counts[0])[:, None]  # of each list by another number
    torch.testing.assert_close(loss([logits + lift], batch), loss([logits], batch), rtol=1e-10, atol=0)


# ---------------------------------------------------------------- better scores


def perfect(example: Example, batch: Batch) -> Tensor:
    """Scores that leave nothing to be wished, [P, num_labels]."""
    labels = batch.labels
    if example.loss == "CrossEntropyLoss":
        one_hot = torch.eye(CLASSES, dtype=torch.float64)[labels] if example.labels is classes else labels
        return 6 * one_hot - 3
    if example.loss == "BinaryCrossEntropyLoss":
        return (12 * labels - 6)[:, None] if example.options else labels.clamp(0.01, 0.99).logit()[:, None]
    if example.loss == "MSELoss":
        return (labels.clamp(0.001, 0.999).logit() if example.options else labels)[:, None]
    if example.lengths and not example.make().label_lists:
        return perfect_rows(example, batch)
    if example in FIXED_ORDER:
        labels = torch.tensor([-0.5 * i for row in same_order(example) for i in row]).double()
    if example.options.get("activation_fn") == "Tanh":  # which no label of 1 or more can be
        return (labels / 3).atanh()[:, None]
    return (4 if example.loss != "ListNetLoss" else 1) * labels[:, None]


def perfect_rows(example: Example, batch: Batch) -> Tensor:
    """The positive above the negatives, by the margins of a teacher if there is one."""
    rows = []
    for row, n in enumerate(batch.counts[0].tolist()):
        margins = [4.0] * (n - 1) if batch.labels is None else batch.labels[row].tolist()
        if example.options.get("activation_fn") == "Sigmoid":  # scores of the teacher: as near as a sigmoid comes
            rows += torch.tensor(margins[:n], dtype=torch.float64).clamp(0.05, 0.95).logit().tolist()
        else:
            rows += [1.0, *(1.0 - margin for margin in margins[: n - 1])][:n]
    return torch.tensor(rows, dtype=torch.float64)[:, None]


# in which a good document is pushed above better ones too
NO_ORDER = [example for example in SHELF if example.options.get("weighting_scheme") == "NDCGLoss1Scheme"]


@pytest.mark.parametrize("example", [example for example in SHELF if example not in NO_ORDER], ids=str)
def test_better(example):
    loss, batch, start = example.make(), example.batch(ROWS), example.logits(ROWS).detach()
    end = perfect(example, batch)
    values = [loss([torch.lerp(start, end, share)], batch).item() for share in (0.0, 0.3, 0.6, 1.0)]
    assert all(later < earlier - 1e-6 for earlier, later in pairwise(values)), values


# ---------------------------------------------------------------- mini-batches and ranks


class Scorer(nn.Module):
    """Pairs of some words -> logits [n, num_labels]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(50, 4), nn.Linear(4, width)
        self.double()

    def forward(self, pairs: Packed) -> Tensor:
        sums = torch.zeros(pairs.n, 4).double().index_add(0, pairs.text_ids, self.words(pairs.input_ids))
        return self.head(sums.tanh()) * 3


def step(example: Example, rows: int, budget: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Value and gradients of so many rows; `budget` is the tokens per mini-batch, 0: in one pass."""
    model, draw, counts = Scorer(example.width), torch.Generator().manual_seed(3), example.counts(rows)
    of_rank = torch.arange(rows).tensor_split(world)[rank].tolist()
    own = [pair for row in of_rank for pair in in_rows(range(int(counts.sum())), counts)[row]]
    lengths = torch.arange(int(counts.sum())) % 3 + 1
    pairs = Packed.of(torch.randint(50, (int(lengths.sum()),), generator=draw), lengths).take(torch.tensor(own).long())
    objective = Objective(example.make(), example.batch(rows))
    if budget:
        gradcache(lambda part, c: (model(part),), [pairs], objective, budget, 0)
    else:
        objective([(model(pairs),)]).backward()
    collectives.average_gradients(model.parameters())
    return {"value": objective.value} | {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, x in wanted.items():
        torch.testing.assert_close(found[name], x, atol=1e-12, rtol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_phases(example):
    wanted = step(example, ROWS, 0)
    assert all(x.abs().max() > 1e-6 for name, x in wanted.items() if name != "head.bias")
    for budget in (1, 5, 10**6):
        assert_same(step(example, ROWS, budget), wanted)


RUNS = [(example, rows, budget) for example in SHELF for rows, budget in ((ROWS, 0), (ROWS, 4), (1, 0))]


def run_name(run: tuple[Example, int, int]) -> str:
    example, rows, budget = run
    return f"{example}, {rows} rows" + f", mini-batches of {budget}" * (budget > 0)


def rank_work(rank: int, folder: Path) -> None:
    torch.save({run_name(run): step(*run, rank, WORLD) for run in RUNS}, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found. One spawn serves all runs; an error in one of them is an error of all."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(rank_work, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=run_name)
def test_ranks(ranks, run):
    """A single row leaves the second rank without any pair."""
    example, rows, _ = run
    for found in ranks:
        assert_same(found[run_name(run)], step(example, rows, 0))
