"""Rows in, a Batch of pairs out: which pairs, their labels and counts, the share of each rank, and wrong files."""

import warnings

import pytest
import torch
from tiny import sentences, tiny_model, write_jsonl

from minist import CrossEncoder, distributed
from minist.data.rows import read_rows
from minist.losses.base import Loss
from minist.training.config import Config, DataConfig
from minist.training.entries import make_rows
from minist.training.pair_rows import PairRows

TEXTS = sentences(60, seed=4)
ROWS = [
    {
        "q": TEXTS[i],
        "d": TEXTS[10 + 5 * i : 11 + 5 * i + i % 4],
        "n": TEXTS[-i - 1],
        "s": [j - i / 10 for j in range(1 + i % 4)],
        "y": i % 3,
        "word": ["no", "maybe", "yes"][i % 3],
    }
    for i in range(8)
]
LISTS = {"query": "q", "documents": "d"}
N_TUPLES = {"query": "q", "positive": "n", "negatives": "d"}


class Example(Loss):
    def __init__(self, negatives=0, label_lists=False, classes=0):
        super().__init__()
        self.negatives, self.label_lists, self.classes, self.class_names = negatives, label_lists, classes, classes > 0

    def num_classes(self, width):
        return self.classes

    def forward(self, embeddings, batch):
        return embeddings[0].sum()


def cross_encoder(num_labels=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CrossEncoder(tiny_model().content(), num_labels=num_labels)


def open_rows(tmp_path, columns, label="", loss=None, model=None, rows=ROWS, **entry):
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    entry = DataConfig(columns=columns, files=[str(file)], label=label, **entry)
    config = Config(data=[entry], output=str(tmp_path / "run"))
    return make_rows(config, entry, loss or Example(), model or MODEL, {})


MODEL = cross_encoder()


def pairs(batch, model=MODEL):
    column = batch.columns[0]
    ids = column.input_ids.split(column.lengths.tolist())
    return [
        tuple(part.strip() for part in model.tokenizer.backend.decode(i.tolist(), False).split("[SEP]")[:2])
        for i in ids
    ]


def pair(query, document):
    return f"[CLS] {query}", document


def test_single_pairs(tmp_path):
    batch = open_rows(tmp_path, {"a": "q", "b": "n"}, "y", Example(classes=3)).batch(torch.tensor([5, 0, 3]), 0, 7, 0.5)
    assert pairs(batch) == [pair(ROWS[i]["q"], ROWS[i]["n"]) for i in (5, 0, 3)]
    assert batch.counts == (None,) and batch.labels.tolist() == [2, 0, 0] and batch.roles == (None,)
    assert (batch.step, batch.progress) == (7, 0.5)
    assert batch.columns[0].token_type_ids.sum() > 0


def test_lists_of_documents(tmp_path):
    rows = open_rows(tmp_path, LISTS, "s", Example(label_lists=True))
    batch = rows.batch(torch.tensor([5, 0, 3]), 0, 0, 0.0)
    assert pairs(batch) == [pair(ROWS[i]["q"], d) for i in (5, 0, 3) for d in ROWS[i]["d"]]
    assert batch.counts[0].tolist() == [2, 1, 4]
    assert batch.labels.tolist() == pytest.approx([s for i in (5, 0, 3) for s in ROWS[i]["s"]])


def test_columns_side_by_side(tmp_path):
    batch = open_rows(tmp_path, N_TUPLES).batch(torch.tensor([2, 6]), 0, 0, 0.0)
    assert pairs(batch) == [pair(ROWS[i]["q"], d) for i in (2, 6) for d in [ROWS[i]["n"], *ROWS[i]["d"]]]
    assert batch.counts[0].tolist() == [4, 4] and batch.labels is None


def test_margins_stay_as_they_are(tmp_path):
    batch = open_rows(tmp_path, N_TUPLES, "s").batch(torch.tensor([0, 2]), 0, 0, 0.0)
    assert batch.labels.shape == (2, 3) and batch.labels.isnan().sum() == 2


@pytest.mark.parametrize("most", [2, None])
def test_texts_of_other_rows(tmp_path, most):
    rows, chosen = open_rows(tmp_path, LISTS, loss=Example(most)), torch.tensor([6, 1, 4])
    batch = rows.batch(chosen, 0, 3, 0.0)
    own = [ROWS[i]["d"] for i in chosen.tolist()]
    total = sum(map(len, own))
    assert batch.counts[0].tolist() == [len(d) + (most or total - len(d)) for d in own]
    found = iter(pairs(batch))
    for i, n in zip(chosen.tolist(), batch.counts[0].tolist(), strict=True):
        mine = [next(found) for _ in range(n)]
        assert mine[: len(ROWS[i]["d"])] == [pair(ROWS[i]["q"], d) for d in ROWS[i]["d"]]
        others = [d for j in chosen.tolist() if j != i for d in ROWS[j]["d"]]
        drawn = [b for _, b in mine[len(ROWS[i]["d"]) :]]
        assert all(a == f"[CLS] {ROWS[i]['q']}" for a, _ in mine)
        assert sorted(drawn) == sorted(others) if most is None else (len(drawn) == 2 and set(drawn) <= set(others))


@pytest.mark.parametrize("negatives", [0, 3])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_ranks_share_the_pairs(tmp_path, monkeypatch, negatives, n):
    """What two ranks hold together is what one holds, query by query; counts and labels are those of all."""
    rows, chosen = (
        open_rows(tmp_path, LISTS, "s", Example(negatives, label_lists=True)),
        torch.tensor([6, 1, 4, 0, 2, 7, 3])[:n],
    )
    alone = rows.batch(chosen, 0, 5, 0.0)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(rows.batch(chosen, 0, 5, 0.0))
    assert sorted(pairs(shares[0]) + pairs(shares[1])) == sorted(pairs(alone))
    assert shares[0].counts[0].equal(shares[1].counts[0]) and shares[0].labels.equal(shares[1].labels)
    assert int(shares[0].counts[0].sum()) == len(pairs(shares[0]) + pairs(shares[1])) == int(alone.counts[0].sum())
    firsts = [a for a, _ in pairs(shares[0]) + pairs(shares[1])]
    assert [len(list(group)) for group in grouped(firsts)] == shares[0].counts[0].tolist()


def grouped(values):
    groups = []
    for value in values:
        if not groups or groups[-1][0] != value:
            groups.append([])
        groups[-1].append(value)
    return groups


def test_how_many_pairs_are_cut(tmp_path):
    shorter = cross_encoder()
    shorter.max_length = 9
    rows = open_rows(tmp_path, LISTS, loss=Example(3), model=shorter)
    assert type(rows) is PairRows
    chosen = torch.tensor([6, 1, 4])
    pairs = [(ROWS[i]["q"], d) for i in chosen.tolist() for d in ROWS[i]["d"]]
    assert rows.cut(chosen) == {"pairs": shorter.read(pairs, "", None)[1]} != {"pairs": 0}


def test_the_cache_does_not_depend_on_the_maximum_length(tmp_path):
    shorter = cross_encoder()
    shorter.max_length = 9
    folders = [open_rows(tmp_path, LISTS, model=model).dataset.folder for model in (MODEL, shorter)]
    assert folders[0] == folders[1]
    assert open_rows(tmp_path, LISTS, model=shorter).batch(torch.arange(8), 0, 0, 0.0).columns[0].max_seqlen == 9


def test_words_as_labels_name_the_classes(tmp_path):
    model = cross_encoder(3)
    rows = open_rows(tmp_path, {"a": "q", "b": "n"}, "word", Example(classes=3), model)
    assert model.id2label == {0: "maybe", 1: "no", 2: "yes"}
    assert rows.batch(torch.arange(3), 0, 0, 0.0).labels.tolist() == [1, 0, 2]
    model.id2label = {0: "yes", 1: "no", 2: "maybe"}  # a model that has names keeps their order
    rows = open_rows(tmp_path, {"a": "q", "b": "n"}, "word", Example(classes=3), model)
    assert rows.batch(torch.arange(3), 0, 0, 0.0).labels.tolist() == [1, 2, 0]
    with pytest.raises(
        ValueError, match="the labels are maybe, no, yes, the model's LABEL_0, LABEL_1: set num_labels to 3"
    ):
        open_rows(tmp_path, {"a": "q", "b": "n"}, "word", Example(classes=2), cross_encoder(2))


BAD = [dict(ROWS[0]), dict(ROWS[2])]


@pytest.mark.parametrize(
    ("columns", "label", "loss", "changes", "message"),
    [
        (LISTS, "s", Example(label_lists=True), {"s": [1, 0]},
         r"rows.jsonl, row 2: 's' is \[1, 0\], but the row has 3 documents: give a list with a number for each"),
        (LISTS, "y", Example(label_lists=True), {}, r"row 2: 'y' is 2, but the row has 3 documents"),
        (LISTS, "", None, {"d": []}, r"rows.jsonl, row 2: 'd' is \[\], but a query without documents teaches nothing"),
        ({"a": "q", "b": "n"}, "y", Example(classes=2), {},
         "the label of row 2 is 2, classes are the whole numbers from 0 to 1: set num_labels to more"),
        ({"a": "q", "b": "n"}, "y", Example(classes=3), {"y": -1}, "the label of row 2 is -1"),
        ({"a": "q", "b": "n"}, "y", Example(classes=3), {"y": 0.5}, "the label of row 2 is 0.5"),
        ({"a": "q"}, "", None, {}, "name a: a CrossEncoder takes pairs"),
    ],
)  # fmt: skip
def test_wrong_rows(tmp_path, columns, label, loss, changes, message):
    with pytest.raises(ValueError, match=message):
        open_rows(tmp_path, columns, label, loss, rows=[BAD[0], BAD[1] | changes])
    assert list(read_rows(tmp_path / "rows.jsonl", ["q"]))  # the file itself can be read


@pytest.mark.parametrize("entry", [{"draw_pairs": 2}, {"delete_words": {"query": 0.5}}, {"roles": {"query": "query"}}])
def test_what_is_for_texts_alone(tmp_path, entry):
    with pytest.raises(ValueError, match=f"{next(iter(entry))} in .* is not for a CrossEncoder"):
        open_rows(tmp_path, LISTS, **entry)


def test_a_query_is_one_text(tmp_path):
    with pytest.raises(ValueError, match="the column documents holds lists: the first one has a single query"):
        open_rows(tmp_path, {"documents": "d", "query": "q"})
