"""Evaluators of embeddings: recorded numbers, their rules by hand, rows that make them, and sparse models."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import write_jsonl

from minist.data.rows import Place
from minist.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    LabelAccuracyEvaluator,
    MSEEvaluator,
    NanoBEIREvaluator,
    ParaphraseMiningEvaluator,
    RerankingEvaluator,
    SequentialEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from minist.evaluation.beir import collections_in
from minist.losses import SoftmaxLoss
from minist.training.config import EvalConfig
from minist.training.evaluations import make_evaluator

RECORDED = json.loads((Path(__file__).parent / "data" / "evaluators.json").read_text("utf-8"))  # of version 6.2
ALL = ["cosine", "dot", "euclidean", "manhattan"]


class Table:
    """A model that looks its embeddings up; text s<i> has the random vector of seed 100 + i."""

    similarity_name, gives = "cosine", "embeddings"

    def vector(self, text):
        return np.random.RandomState(100 + int(text[1:])).randn(6).astype(np.float32)

    def encode(self, texts, truncate_dim=None):
        return np.stack([self.vector(text) for text in texts])[:, :truncate_dim]

    encode_query = encode_document = encode


class Numbers(Table):
    """A text is its vector of one dimension."""

    similarity_name = "euclidean"

    def vector(self, text):
        return np.array([text], np.float32)


class Sparse(Table):
    """The positive numbers alone."""

    gives = "sparse"

    def encode(self, texts, max_active_dims=None):
        return torch.from_numpy(super().encode(texts)).clamp(min=0).to_sparse().coalesce()

    encode_query = encode_document = encode


def s(low, high):
    return [f"s{i}" for i in range(low, high)]


def places(*rows):
    return [Place(Path("a.jsonl"), i, row) for i, row in enumerate(rows, 1)]


LABELS = [1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1]
LISTS = [
    {"query": f"s{i}", "positive": [f"s{10 + i}", f"s{20 + i}"], "negative": [f"s{30 + i}", f"s{40 + i}", f"s{50 + i}"]}
    for i in range(8)
]


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [
        ("binary", BinaryClassificationEvaluator(s(0, 12), s(12, 24), LABELS, similarity_fn_names=ALL)),
        ("triplet", TripletEvaluator(s(0, 12), s(12, 24), s(24, 36), similarity_fn_names=ALL)),
        ("mse", MSEEvaluator(s(0, 4), s(4, 8), Table())),
        ("translation", TranslationEvaluator(s(0, 8), s(0, 6) + s(8, 10))),
        ("reranking", RerankingEvaluator(LISTS, at_k=3)),
    ],
)
def test_recorded(name, evaluator):
    found = evaluator(Table())
    assert found == pytest.approx(RECORDED[f"ev_{name}"], abs=1e-5)
    assert evaluator.primary_metric in found


# ---------------------------------------------------------------- thresholds


def test_thresholds_of_distances_by_hand():
    """Distances 1 2 3 4 with labels 1 0 1 0: the best F1 takes three, the best accuracy one or three."""
    evaluator = BinaryClassificationEvaluator(["0"] * 4, ["1", "2", "3", "4"], [1, 0, 1, 0], "x")
    found = evaluator(Numbers())
    assert (found["x_euclidean_accuracy"], found["x_euclidean_accuracy_threshold"]) == (0.75, 1.5)  # the strictest
    assert (found["x_euclidean_f1"], found["x_euclidean_f1_threshold"]) == (pytest.approx(0.8), 3.5)
    assert found["x_euclidean_mcc"] == pytest.approx((2 * 1 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1))
    assert evaluator.primary_metric == "x_euclidean_ap" and found["x_euclidean_ap"] == pytest.approx((1 + 2 / 3) / 2)


def test_constant_scores_and_nan():
    class Constant(Table):
        def vector(self, text):
            return np.ones(2, np.float32)

    class Broken(Table):
        def vector(self, text):
            return np.full(2, np.nan, np.float32)

    evaluator = BinaryClassificationEvaluator(s(0, 4), s(4, 8), [1, 0, 0, 0])
    found = evaluator(Constant())
    assert (found["cosine_accuracy"], found["cosine_mcc"], found["cosine_ap"]) == (0.75, 0, 0.25)
    evaluators = [evaluator, TripletEvaluator(s(0, 3), s(3, 6), s(6, 9)), RerankingEvaluator(LISTS)]
    for one in [*evaluators, MSEEvaluator(s(0, 4), s(4, 8), Broken())]:
        assert np.isnan(list(one(Broken()).values())).all()


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="a label is 2: use 1 for pairs that belong together, 0 for others"):
        BinaryClassificationEvaluator(["a"], ["b"], [2])
    with pytest.raises(ValueError, match="1 pairs and 0 labels"):
        BinaryClassificationEvaluator(["a"], ["b"], [])


# ---------------------------------------------------------------- triplets


def test_margins():
    texts = (["0", "0"], ["1", "1"], ["2", "3"])  # the positive is nearer by 1, and by 2
    assert TripletEvaluator(*texts)(Numbers())["euclidean_accuracy"] == 1
    assert TripletEvaluator(*texts, margin=1)(Numbers())["euclidean_accuracy"] == 0.5  # not: more than that
    several = TripletEvaluator(*texts, margin={"manhattan": 2}, similarity_fn_names=["euclidean", "manhattan"])
    assert list(several(Numbers()).values()) == [1, 0, 1]
    with pytest.raises(ValueError, match="similarity is 'cos'"):
        TripletEvaluator(*texts, margin={"cos": 1})


# ---------------------------------------------------------------- precision and dimensions


def test_precisions():
    scores = np.random.RandomState(50).rand(12).tolist()
    plain = EmbeddingSimilarityEvaluator(s(0, 12), s(12, 24), scores)(Table())["spearman_cosine"]
    found = [
        EmbeddingSimilarityEvaluator(s(0, 12), s(12, 24), scores, precision=name)(Table())["spearman_cosine"]
        for name in ("float32", "int8", "uint8", "binary", "ubinary")
    ]
    assert found[0] == plain and len(set(found[:4])) == 4
    assert found[3] == found[4] != plain
    with pytest.raises(ValueError, match="precision is 'bits', known are float32"):
        EmbeddingSimilarityEvaluator(s(0, 2), s(2, 4), [0, 1], precision="bits")
    with pytest.raises(ValueError, match="precision is 'int8': sparse embeddings have none"):
        EmbeddingSimilarityEvaluator(s(0, 2), s(2, 4), [0, 1], precision="int8")(Sparse())


def test_fewer_dimensions():
    class Cut(Table):
        def vector(self, text):
            return super().vector(text)[:3]

    for evaluator in (TripletEvaluator, BinaryClassificationEvaluator):
        last = LABELS if evaluator is BinaryClassificationEvaluator else s(24, 36)
        given = (s(0, 12), s(12, 24), last)
        assert evaluator(*given, truncate_dim=3)(Table()) == evaluator(*given)(Cut()) != evaluator(*given)(Table())


def test_figures_of_sparse_embeddings():
    for kind, last in ((BinaryClassificationEvaluator, LABELS), (EmbeddingSimilarityEvaluator, LABELS)):
        found = kind(s(0, 12), s(12, 24), last)(Sparse())
        assert found["active_dims"] == pytest.approx(6 * (1 - found["sparsity_ratio"]))
    found = TripletEvaluator(s(0, 12), s(12, 24), s(24, 36))(Sparse())
    assert {"anchor_active_dims", "positive_sparsity_ratio", "negative_active_dims"} < found.keys()
    assert "query_active_dims" in RerankingEvaluator(LISTS)(Sparse())


def test_figures_do_not_depend_on_the_size_of_chunks():
    collection = ({f"q{i}": f"s{i}" for i in range(5)}, {f"d{i}": f"s{i}" for i in range(5, 45)}, {"q1": {"d7", "d9"}})
    whole, parts = (InformationRetrievalEvaluator(*collection, corpus_chunk_size=n)(Sparse()) for n in (50, 7))
    assert whole == pytest.approx(parts, abs=1e-7) and whole["avg_flops"] > 0  # the same in another order of summation


# ---------------------------------------------------------------- translations, teachers, classes


def test_equal_translations_are_right():
    evaluator = TranslationEvaluator(["1", "5", "9"], ["1", "9", "9"])  # by cosine all are alike: the first is taken
    assert list(evaluator(Numbers()).values()) == [1 / 3, 1 / 3, 1 / 3]
    found = TranslationEvaluator(["s1", "s2", "s1"], ["s1", "s2", "s1"])(Table())
    assert set(found.values()) == {1}


def test_a_teacher_of_another_width():
    evaluator = MSEEvaluator(s(0, 2), s(0, 2), Table())
    assert evaluator(Table())["negative_mse"] == 0
    with pytest.raises(ValueError, match="the teacher's embeddings have 6 numbers, these 1"):
        MSEEvaluator(s(0, 2), ["1", "2"], Table())(Numbers())


def test_label_accuracy():
    """W = [-1, 1, 0] of [u; v; |u - v|] says class 1 where v > u."""
    loss = SoftmaxLoss(1, 2)
    with torch.no_grad():
        loss.classifier.weight.copy_(torch.tensor([[0.0, 0, 0], [-1, 1, 0]]))
        loss.classifier.bias.zero_()
    rows = [{"text1": a, "text2": b, "label": label} for a, b, label in (("1", "2", "up"), ("3", "1", "down"))]
    rows.append({"text1": "5", "text2": "1", "label": "up"})
    given = LabelAccuracyEvaluator.of_rows(places(*rows))
    found = LabelAccuracyEvaluator(**given, softmax_model=loss, classes=["down", "up"], name="x")(Numbers())
    assert found == {"x_accuracy": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="the labels have 2, but the model has 2 classes"):
        LabelAccuracyEvaluator([("1", "2")], [2], loss)


def test_label_accuracy_in_a_config(tmp_path):
    file = write_jsonl(tmp_path / "p.jsonl", [{"a": "1", "b": "2", "c": "up"}])
    loss = SoftmaxLoss(1, 2)
    task = SimpleNamespace(name="nli", loss=loss, rows=SimpleNamespace(dataset=SimpleNamespace(classes=["down", "up"])))
    columns = {"text1": "a", "text2": "b", "label": "c"}
    evaluator = {"name": "LabelAccuracyEvaluator", "softmax_model": "nli"}
    entry = EvalConfig(columns=columns, evaluator=evaluator, name="x", files=[str(file)])
    made = make_evaluator(entry, [task])
    assert made.loss is loss and made.labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"softmax_model in .* x, a .* entry, is 'nli', known are none"):
        make_evaluator(entry)


# ---------------------------------------------------------------- duplicates


def test_duplicates_by_hand():
    """Directions at 0, 1, 3 and 90 degrees: pairs in order are ab, bc, ac, and those with d."""

    class Directions(Table):
        def vector(self, text):
            angle = math.radians(float(text))
            return np.array([math.cos(angle), math.sin(angle)], np.float32)

    texts = {"a": "0", "b": "1", "c": "3", "d": "90"}
    found = ParaphraseMiningEvaluator(texts, [("b", "a"), ("c", "d"), ("a", "elsewhere")], name="x")(Directions())
    assert (found["x_precision"], found["x_recall"]) == (1, 0.5) and found["x_f1"] == pytest.approx(2 / 3)
    assert math.cos(math.radians(2)) < found["x_threshold"] < math.cos(math.radians(1))
    assert found["x_average_precision"] == pytest.approx((1 + 2 / 4) / 2)  # cd is the fourth of all
    few = ParaphraseMiningEvaluator(texts, [("b", "a"), ("c", "d")], max_pairs=2)(Directions())
    assert few["average_precision"] == 1 / 2 and few["recall"] == 0.5  # what was not found is missing
    joined = ParaphraseMiningEvaluator(texts, [("a", "b"), ("b", "c")], add_transitive_closure=True)(Directions())
    assert joined["average_precision"] == joined["recall"] == 1
    none = ParaphraseMiningEvaluator(texts, [])(Directions())
    assert set(none.values()) == {0}
    with pytest.raises(ValueError, match="is for models that give dense embeddings"):
        ParaphraseMiningEvaluator({"s1": "s1", "s2": "s2"}, [])(Sparse())
    with pytest.raises(ValueError, match="number of sentences is 1: use a number at least 2"):
        ParaphraseMiningEvaluator({"a": "0"}, [])


def test_duplicates_from_rows():
    rows = [{"text1": "s1", "text2": "s2", "label": 1}, {"text1": "s2", "text2": "s3", "label": "0"}]
    found = ParaphraseMiningEvaluator.of_rows(places(*rows))
    assert found == {"sentences_map": {t: t for t in ("s1", "s2", "s3")}, "duplicates_list": [("s1", "s2")]}


# ---------------------------------------------------------------- several at once


def test_similarities_of_an_entry(tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", [{"a": f"s{i}", "b": f"s{i + 5}", "s": i} for i in range(5)])
    evaluator = {"name": "EmbeddingSimilarityEvaluator", "similarity_fn_names": ["dot", "cosine"]}
    columns = {"text1": "a", "text2": "b", "score": "s"}
    made = make_evaluator(EvalConfig(columns=columns, evaluator=evaluator, name="x", files=[str(file)]))
    assert made(Table())["x_spearman_max"] == max(made(Table())[f"x_spearman_{name}"] for name in ("dot", "cosine"))


def test_sequential():
    given = [TripletEvaluator(s(0, 12), s(12, 24), s(24, 36), "t"), TranslationEvaluator(s(0, 8), s(0, 8), "x")]
    found = SequentialEvaluator(given)(Table())
    assert found == given[0](Table()) | given[1](Table()) | {"sequential_score": 1.0}
    assert SequentialEvaluator(given, main_score_function=min)(Table())["sequential_score"] == 0.5


def collection(folder, relevant):
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"s{i}"} for i in range(3)])
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": f"s{i}"} for i in range(9)])
    lines = "".join(f"q{q}\td{d}\n" for q, d in relevant)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\n" + lines)  # as NanoBEIR has it


def test_nano_beir(tmp_path):
    """Each document is the query's own text, or never found."""
    collection(tmp_path / "NanoMSMARCO", [(0, 0), (1, 1)])
    collection(tmp_path / "my files", [(2, 2), (2, 99)])
    with (tmp_path / "my files" / "corpus.jsonl").open("a") as stream:
        stream.write('{"_id": "d10", "text": ""}\n')  # is left out: the model could not look it up
    assert list(collections_in(tmp_path, None, ["msmarco"])) == ["my files"]
    found = NanoBEIREvaluator(tmp_path, ndcg_at_k=[1, 10], name="x")(Table())
    assert found["x_NanoMSMARCO_cosine_recall@1"] == 1 and found["x_my files_cosine_recall@1"] == 0.5
    assert found["x_NanoBEIR_mean_cosine_recall@1"] == 0.75 and found["x_NanoBEIR_mean_cosine_ndcg@1"] == 1
    cut = NanoBEIREvaluator(tmp_path, ["msmarco"], truncate_dim=2)
    assert cut(Table())["NanoMSMARCO_2_cosine_ndcg@10"] == cut(Table())["NanoBEIR_mean_2_cosine_ndcg@10"]
    assert cut.primary_metric == "NanoBEIR_mean_2_cosine_ndcg@10"
    entry = EvalConfig(evaluator={"name": "NanoBEIREvaluator", "folder": str(tmp_path)}, name="nano")
    assert "such as d99" in make_evaluator(entry).note


# ---------------------------------------------------------------- as [[eval]] entries


@pytest.mark.parametrize(
    ("evaluator", "columns", "metric"),
    [
        ("BinaryClassificationEvaluator", {"text1": "a", "text2": "b", "label": "n"}, "x_cosine_ap"),
        ("TripletEvaluator", {"anchor": "a", "positive": "a", "negative": "b"}, "x_cosine_accuracy"),
        ("RerankingEvaluator", {"query": "a", "positive": "a", "negative": "d"}, "x_ndcg@10"),
        ("TranslationEvaluator", {"source": "a", "target": "a"}, "x_mean_accuracy"),
    ],
)
def test_entries(tmp_path, evaluator, columns, metric):
    """Which all but the triplets' are perfect where what belongs together is equal, or the only pair there is."""
    rows = [{"a": f"s{i}", "b": f"s{i if i % 2 else i + 10}", "d": f"s{i + 20}", "n": i % 2} for i in range(1, 9)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    entry = EvalConfig(columns=columns, evaluator={"name": evaluator}, name="x", files=[str(file)])
    found = make_evaluator(entry)(Table())
    assert found[metric] == (0.5 if evaluator == "TripletEvaluator" else 1)
