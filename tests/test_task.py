"""Rows in, a Batch out: labels, roles, prompts, what is drawn anew each epoch, and the guide."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import sentences, tiny_model, write_jsonl

from minist.data.samplers import balance
from minist.data.transforms import word_starts
from minist.losses import CoSENTLoss, GISTEmbedLoss, MultipleNegativesRankingLoss
from minist.training.config import DataConfig
from minist.training.entries import check_roles, open_dataset
from minist.training.guide import Guide
from minist.training.task import TrainingRows

CPU = torch.device("cpu")
TEXTS = zip(sentences(12, 1), sentences(12, 2), strict=True)
ROWS = [{"q": q, "d": [d, q][: 1 + i % 2], "s": i / 10} for i, (q, d) in enumerate(TEXTS)]
MODEL = tiny_model()


def open_rows(tmp_path, columns, label="", model=MODEL, roles=(), prompts=()):
    file = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    entry = DataConfig(columns=columns, files=[str(file)], label=label, roles=dict(roles))
    return open_dataset(entry, model, dict(prompts), tmp_path / "cache")


def texts(packed, model=MODEL):
    ids = packed.input_ids.split(packed.lengths.tolist())
    return [model.tokenizer.backend.decode(text.tolist()) for text in ids]


def test_batch(tmp_path):
    dataset = open_rows(tmp_path, {"anchor": "q", "documents": "d"}, "s", prompts={"anchor": "read: "})
    data = TrainingRows(dataset, {"anchor": "query"}, CPU)
    rows = torch.tensor([5, 0, 3])
    batch = data.batch(rows, epoch=0, step=7, progress=0.5)
    assert texts(batch.columns[0]) == texts(MODEL.tokenizer([ROWS[i]["q"] for i in rows], "read: ").packed())
    assert texts(batch.columns[1]) == [text for i in rows for text in ROWS[i]["d"]]
    assert batch.columns[0].prompt_lengths.tolist() == [MODEL.tokenizer.prompt_length("read: ")] * 3
    assert batch.roles == ("query", None)
    assert batch.labels.tolist() == pytest.approx([0.5, 0.0, 0.3])
    assert batch.counts[0] is None
    assert batch.counts[1].tolist() == [2, 1, 2]
    assert dataset.tokens(rows).tolist() == [
        len(batch.columns[0].slice(i, i + 1).input_ids) + len(batch.columns[1].slice(*place).input_ids)
        for i, place in enumerate([(0, 2), (2, 3), (3, 5)])
    ]
    assert (batch.step, batch.progress, batch.guide) == (7, 0.5, ())


def test_words_are_deleted_anew_in_each_epoch(tmp_path):
    dataset = open_rows(tmp_path, {"noisy": "q", "text": "q"})
    data = TrainingRows(dataset, {}, CPU, seed=3)
    data.deleted["noisy"] = (0.6, *word_starts(MODEL.tokenizer))
    rows = torch.arange(12)
    epochs = [data.batch(rows, epoch, 0, 0.0).columns for epoch in (0, 1, 0)]
    assert texts(epochs[0][1]) == [row["q"] for row in ROWS]
    assert texts(epochs[0][0]) == texts(epochs[2][0]) != texts(epochs[1][0])
    assert len(epochs[0][0].input_ids) < len(epochs[0][1].input_ids)
    one = data.batch(torch.tensor([4]), 0, 0, 0.0).columns[0]  # whatever the batch
    assert texts(one)[0] == texts(epochs[0][0])[4]


def test_two_columns_of_one_text_lose_other_words(tmp_path):
    data = TrainingRows(open_rows(tmp_path, {"a": "d", "b": "d"}), {}, CPU)
    data.deleted = dict.fromkeys("ab", (0.5, *word_starts(MODEL.tokenizer)))
    a, b = (texts(column) for column in data.batch(torch.arange(12), 0, 0, 0.0).columns)
    assert sum(x != y for x, y in zip(a, b, strict=True)) > 6
    data = TrainingRows(open_rows(tmp_path, {"text": "d"}), {}, CPU, pairs=1)  # each with itself
    data.deleted = {"text": (0.5, *word_starts(MODEL.tokenizer))}
    assert [texts(column) for column in data.batch(torch.arange(12), 0, 0, 0.0).columns] == [a, b]


def test_pairs(tmp_path):
    data = TrainingRows(open_rows(tmp_path, {"text": "q"}), {"text": "query"}, CPU, pairs=4)
    batch = data.batch(torch.arange(12), 0, 0, 0.0)
    a, b = (texts(column) for column in batch.columns)
    assert a == [row["q"] for row in ROWS]
    assert [x == y for x, y in zip(a, b, strict=True)] == batch.labels.bool().tolist()
    assert batch.labels.sum() == 3
    assert batch.roles == ("query", "query")
    assert texts(data.batch(torch.arange(12), 1, 0, 0.0).columns[1]) != b


def test_a_loss_is_tried_before_the_run(tmp_path):
    dataset = open_rows(tmp_path, {"anchor": "q", "documents": "q"})
    TrainingRows(dataset, {}, CPU).check(MultipleNegativesRankingLoss(), MODEL, 4)
    with pytest.raises(ValueError, match=r"^CoSENTLoss takes .* got 2 columns and no labels"):
        TrainingRows(dataset, {}, CPU).check(CoSENTLoss(), MODEL, 4)
    TrainingRows(open_rows(tmp_path, {"text": "q"}), {}, CPU, pairs=3).check(CoSENTLoss(), MODEL, 4)
    guided = TrainingRows(dataset, {}, CPU)
    with pytest.raises(ValueError, match=r"set \[guide\] in the config"):
        guided.check(GISTEmbedLoss(), MODEL, 4)
    (tmp_path / "g").mkdir()
    guided.guide = guide(tmp_path, {"anchor": "q", "documents": "q"})
    guided.check(GISTEmbedLoss(), MODEL, 4)


def test_roles_of_a_model_with_routes():
    towers, plain = SimpleNamespace(routes=("query", "document")), tiny_model()
    check_roles(plain, {}, ["a"], "x")
    check_roles(plain, {"a": "query"}, ["a"], "x")
    with pytest.raises(ValueError, match="the role is 'qery', known are query, document"):
        check_roles(plain, {"a": "qery"}, ["a"], "x")
    check_roles(towers, {"a": "query"}, ["a", "b"], "x")
    with pytest.raises(ValueError, match=r'must say who takes which: roles = \{ a = "query", b = "document" \}'):
        check_roles(towers, {}, ["a", "b"], "x")
    with pytest.raises(ValueError, match="roles in x: the route is 'doc', known are query, document"):
        check_roles(towers, {"a": "doc"}, ["a"], "x")


# ---------------------------------------------------------------- guide


def guide(tmp_path, columns):
    """Another vocabulary and another width."""
    model = tiny_model(seed=5, encoder={"hidden_size": 8})
    return Guide(model, open_rows(tmp_path / "g", columns, model=model), [None] * len(columns))


@pytest.mark.parametrize("cached", [False, True])
def test_guide(tmp_path, cached):
    (tmp_path / "g").mkdir()
    columns = {"anchor": "q", "documents": "d"}
    data = TrainingRows(open_rows(tmp_path, columns), {}, CPU)
    data.guide = guide(tmp_path, columns)
    if cached:
        data.guide.keep_on_disk(tmp_path / "kept")
        assert len(list((tmp_path / "kept").glob("*.npy"))) == 2
    rows = torch.tensor([5, 0, 3])
    a, b = data.batch(rows, 0, 0, 0.0).guide
    model = data.guide.model
    expected = [model.encode([ROWS[i]["q"] for i in rows]), model.encode([text for i in rows for text in ROWS[i]["d"]])]
    np.testing.assert_allclose(a, expected[0], atol=1e-6, rtol=0)
    np.testing.assert_allclose(b, expected[1], atol=1e-6, rtol=0)
    assert a.shape == (3, 8)


def test_what_is_kept_is_used_again_but_not_for_another_model(tmp_path):
    (tmp_path / "g").mkdir()
    columns = {"anchor": "q"}
    first = guide(tmp_path, columns)
    first.keep_on_disk(tmp_path / "kept")
    (file,) = (tmp_path / "kept").glob("*.npy")
    written = file.stat().st_mtime_ns
    guide(tmp_path, columns).keep_on_disk(tmp_path / "kept")
    assert file.stat().st_mtime_ns == written
    first.model.stack[0].layers[0].up.bias.data += 1
    first.keep_on_disk(tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2


# ---------------------------------------------------------------- shares


@pytest.mark.parametrize(("n", "world"), [(64, 2), (7, 3), (1, 2), (0, 2), (5, 8), (64, 1)])
def test_shares_are_balanced(n, world):
    tokens = torch.randint(3, 256, (n,), generator=torch.Generator().manual_seed(n))
    order = balance(tokens, world)
    assert sorted(order.tolist()) == list(range(n))
    if world == 1:
        assert order.tolist() == list(range(n))
    if n == 64 and world == 2:
        a, b = (tokens[share].sum().item() for share in order.tensor_split(2))
        assert abs(a - b) < 0.02 * (a + b)
        x, y = (tokens[share].sum().item() for share in torch.arange(n).tensor_split(2))
        assert abs(x - y) > 2 * abs(a - b)
