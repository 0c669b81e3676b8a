"""What holds for every loss there is: it is on the shelf, has a slow definition, and says what it takes."""

import pytest
import torch
from shelf import OF_AUTOENCODER, OF_TOKENS, OTHER_NAMES, SHELF, WRAPPER_LOSSES, random_columns
from slow_losses import SLOW

from minist import Batch, losses
from minist.losses.base import Loss, check_columns, counts_of, text_rows, total

ELSEWHERE = WRAPPER_LOSSES | OF_TOKENS | OF_AUTOENCODER | OTHER_NAMES


def test_every_loss_has_a_slow_definition():
    assert set(SLOW) == set(losses.__all__) - ELSEWHERE  # their formulas are in test_invariances.py


def test_every_loss_is_on_the_shelf():
    assert {example.loss for example in SHELF} | ELSEWHERE == set(losses.__all__)


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_examples_are_taken(example):
    embeddings = random_columns(example.columns)
    value = total(example.make().double()(embeddings, example.batch(4)))
    assert value.shape == ()
    value.backward()
    assert all(column.grad is not None and column.grad.abs().max() > 0 for column in embeddings)


@pytest.mark.parametrize("example", SHELF, ids=str)
def test_mistakes_are_answered_with_what_is_taken(example):
    loss, batch = example.make(), example.batch(4)
    says = f"{type(loss).__name__} takes {loss.columns}, labels {loss.labels}; got "
    with pytest.raises(ValueError) as no_columns:
        loss([], batch)
    assert str(no_columns.value).startswith(says + "0 columns and ")
    with pytest.raises(ValueError) as odd_labels:
        loss(random_columns(example.columns), batch._replace(labels=torch.zeros(4, 1, 1, 1)))
    assert str(odd_labels.value).startswith(says)
    assert str(odd_labels.value).endswith("and labels of shape [4, 1, 1, 1]")


def test_losses_of_numbers_say_so_with_an_example():
    """Words are classes only where the loss has classes; all others name the numbers that they take."""
    takes_words = {example.loss for example in SHELF if example.make().class_names}
    batch_losses = {name for name in losses.__all__ if name.startswith("Batch")}
    assert takes_words == batch_losses | {"SoftmaxLoss"} and len(batch_losses) == 4
    for example in SHELF:
        words = example.make().labels
        assert words == "none" or any(part in words for part in ("such as", "0 or 1", "from 0 to 1", "embeddings"))


@pytest.mark.parametrize("example", [example for example in SHELF if example.columns > 1], ids=str)
def test_columns_have_the_same_rows(example):
    embeddings = random_columns(example.columns)
    with pytest.raises(ValueError, match="3 embeddings for 4 rows"):
        example.make().double()([*embeddings[:-1], embeddings[-1][:3]], example.batch(4))


# ---------------------------------------------------------------- the check itself


class Takes(Loss):
    columns = "two texts"
    labels = "numbers [rows], or none"


def check(columns, labels=None, counts=(), **options):
    batch = Batch(labels=labels, counts=counts)
    check_columns(Takes(), [torch.zeros(n, 2) for n in columns], batch, least=2, most=3, **options)


def test_what_is_allowed_passes():
    check([4, 4])
    check([4, 4, 4], labels=torch.zeros(4), label_dims=(0, 1))
    check([4, 4], label_dims=(0, 1))
    check([2, 2, 5], counts=(None, None, torch.tensor([0, 5])), lists_from=2)
    check([5, 2], counts=(torch.tensor([1, 4]), None), labels=torch.zeros(2, 3), label_dims=(2,), lists_from=0)


@pytest.mark.parametrize(
    ("says", "columns", "options"),
    [
        ("Takes takes two texts, labels numbers .rows., or none; got 1 column and no labels", [4], {}),
        ("got 4 columns and no labels", [4] * 4, {}),
        (r"got 2 columns and labels of shape \[4\]$", [4, 4], {"labels": torch.zeros(4)}),
        ("got 2 columns and no labels", [4, 4], {"label_dims": (1,)}),
        (r"labels of shape \[4, 1\]$", [4, 4], {"labels": torch.zeros(4, 1), "label_dims": (0, 1)}),
        ("there are 3 labels for 4 rows", [4, 4], {"labels": torch.zeros(3), "label_dims": (1,)}),
        ("column 2 has 3 embeddings for 4 rows", [4, 3], {}),
        ("one text per cell in column 2, not a list", [2, 5], {"counts": (None, torch.tensor([0, 5]))}),
        ("column 2, not a list", [2, 5], {"counts": (None, torch.tensor([0, 5])), "lists_from": 2}),
        ("column 2 has 5 embeddings for 3 rows", [3, 5], {"counts": (None, torch.tensor([0, 5])), "lists_from": 1}),
    ],
)
def test_what_is_not_is_said(says, columns, options):
    with pytest.raises(ValueError, match=says):
        check(columns, **options)


def test_rows_of_texts():
    assert text_rows(torch.zeros(3, 2), None).tolist() == [0, 1, 2]
    assert text_rows(torch.zeros(6, 2), torch.tensor([2, 0, 3, 1])).tolist() == [0, 0, 2, 2, 2, 3]
    assert counts_of(Batch(), 1) is None
    assert counts_of(Batch(counts=(None, torch.tensor([1]))), 1).tolist() == [1]
