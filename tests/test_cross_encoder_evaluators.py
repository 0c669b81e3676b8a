"""Evaluators of cross-encoders: by hand and against loops, from rows and files, and as [[eval]] entries."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import write_jsonl

from minist.data.rows import Place
from minist.evaluation import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    CrossEncoderNanoBEIREvaluator,
    CrossEncoderRerankingEvaluator,
)
from minist.evaluation.cross_encoder_pairs import class_numbers
from minist.retrieval.bm25 import BM25
from minist.training.config import Config, EvalConfig, load_config
from minist.training.evaluations import make_evaluator, report


class Fake:
    """A model whose score is a function of two texts; it counts how often it is asked."""

    def __init__(self, score, id2label=("LABEL_0",)):
        self.score, self.id2label, self.calls = score, dict(enumerate(id2label)), 0

    def predict(self, pairs):
        self.calls += 1
        return np.array([self.score(a, b) for a, b in pairs], dtype=np.float32)


def written(a, b):
    """Of texts that are numbers: their distance, and the second."""
    return float(b) - float(a)


CONSTANT = Fake(lambda a, b: 0.5)
ZERO_PAIRS = [("0", str(score)) for score in (0.9, 0.8, 0.4, 0.2)]


def places(*rows):
    return [Place(Path("a.jsonl"), i, row) for i, row in enumerate(rows, 1)]


def of_rows(kind, rows, **more):
    return kind(**kind.of_rows(places(*rows)), **more)


# ---------------------------------------------------------------- classification


def test_two_classes_by_hand():
    """In order of score the labels are 1 0 1 0: the best F1 takes three, and the best accuracy takes one or three."""
    model = Fake(written)
    found = CrossEncoderClassificationEvaluator(ZERO_PAIRS, [1, 0, 1, 0], "dev")(model)
    assert found == pytest.approx(
        {
            "dev_accuracy": 3 / 4,
            "dev_accuracy_threshold": (0.9 + 0.8) / 2,  # the higher one
            "dev_f1": 0.8,
            "dev_f1_threshold": (0.4 + 0.2) / 2,
            "dev_precision": 2 / 3,
            "dev_recall": 1.0,
            "dev_average_precision": (1 / 1 + 2 / 3) / 2,
        },
        abs=1e-6,
    )


def test_two_classes_with_constant_scores():
    found = CrossEncoderClassificationEvaluator(ZERO_PAIRS, [1, 0, 0, 0])(CONSTANT)
    assert (found["accuracy"], found["f1"], found["precision"], found["recall"]) == (0.75, 0.4, 0.25, 1)
    assert found["accuracy_threshold"] == np.nextafter(np.float32(0.5), np.float32(1)) and found["f1_threshold"] == 0.5
    assert found["average_precision"] == 0.25


def test_several_classes_by_hand():
    """The scores of a pair are one-hot, so that its second text names the class."""
    model = Fake(lambda a, b: np.eye(3)[int(b)], ["LABEL_0", "LABEL_1", "LABEL_2"])
    evaluator = CrossEncoderClassificationEvaluator([("", c) for c in "00110"], [0, 0, 1, 0, 1])
    f1 = {0: 4 / 6, 1: 2 / 4}  # class 2 is neither a label nor predicted
    wanted = {"f1_macro": (f1[0] + f1[1]) / 2, "f1_weighted": (3 * f1[0] + 2 * f1[1]) / 5}
    assert evaluator(model) == pytest.approx(wanted | {"f1_micro": 3 / 5, "accuracy": 3 / 5}, abs=1e-12)
    assert model.calls == 1


NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
UNNAMED = {i: f"LABEL_{i}" for i in range(3)}


@pytest.mark.parametrize(
    ("labels", "id2label", "numbers"),
    [
        (["entailment", "neutral", "entailment"], NLI, [2, 1, 2]),  # as the model has it
        (["2", "0", "2.0"], UNNAMED, [2, 0, 2]),  # the cells of a table
        (["2", "1"], {0: "1", 1: "2", 2: "3"}, [1, 0]),  # names that look like numbers
        ([2, 1], {0: "1", 1: "2", 2: "3"}, [2, 1]),  # numbers that look like names
        (["LABEL_2", "LABEL_0"], UNNAMED, [2, 0]),
    ],
)
def test_numbers_of_classes(labels, id2label, numbers):
    assert class_numbers(labels, id2label, 3).tolist() == numbers


@pytest.mark.parametrize(
    ("labels", "id2label", "message"),
    [
        ([0, 3, 1], NLI, "the labels have 3, but the model has 3 classes: 0 to 2"),
        ([0, -1], NLI, "the labels have -1"),
        ([0, 0.7], NLI, "the labels have 0.7"),
        (["0", "5"], UNNAMED, "the labels have '5', but the model has 3 classes"),
        (
            ["entailment", "neutral", "contradiction"],
            UNNAMED,
            "a label, .*, is 'entailment', known are LABEL_0, LABEL_1",
        ),
        (["neutral", "maybe"], NLI, "a label, .*, is 'maybe', known are contradiction, neutral, entailment"),
    ],
)
def test_labels_that_are_no_classes(labels, id2label, message):
    with pytest.raises(ValueError, match=message):
        class_numbers(labels, id2label, 3)


def test_a_model_of_one_score_has_two_classes():
    with pytest.raises(ValueError, match="the labels have 2, but the model has 2 classes: 0 to 1"):
        CrossEncoderClassificationEvaluator(ZERO_PAIRS, [0, 1, 2, 0])(Fake(written))


def test_classes_from_rows():
    def evaluator(*labels):
        rows = [{"text1": a, "text2": b, "label": label} for (a, b), label in zip(ZERO_PAIRS, labels, strict=False)]
        return of_rows(CrossEncoderClassificationEvaluator, rows)

    wanted = CrossEncoderClassificationEvaluator(ZERO_PAIRS, [1, 0, 1, 0])(Fake(written))
    for labels in (
        [1, 0, 1, 0],
        [True, False, True, False],
        [1.0, 0.0, 1.0, 0],
        ["1.0", "0", "1", "0"],
    ):
        assert evaluator(*labels)(Fake(written)) == wanted
    for label in (0.5, "0.5", None, "", [1], math.nan, math.inf, "nan"):
        with pytest.raises(ValueError, match=r"a.jsonl, row 2: 'label' is .*, but a "):
            evaluator(1, label)
    with pytest.raises(ValueError, match=r"a label, a number or a name in the model's id2label, is 'y', known are"):
        evaluator(*"ynyn")(Fake(written))
    with pytest.raises(ValueError, match=r"row 3: 'label' is \"x\", but a class is .*, as in the first row"):
        evaluator(1, 0, "x")
    with pytest.raises(ValueError, match=r"row 2: 'label' is 1, but a class is .*, as in the first row"):
        evaluator("x", 1)
    with pytest.raises(ValueError, match=r"row 1: 'text1' is 5, but a text is wanted"):
        CrossEncoderClassificationEvaluator.of_rows(places({"text1": 5, "text2": "x", "label": 1}))


@pytest.mark.parametrize("kind", [CrossEncoderClassificationEvaluator, CrossEncoderCorrelationEvaluator])
def test_pairs_and_values_that_do_not_fit(kind):
    for pairs, values in ((ZERO_PAIRS, [1, 0]), ([], [])):
        with pytest.raises(ValueError, match=f"{len(pairs)} pairs and {len(values)} .*: must be equal, and not 0"):
            kind(pairs, values)
    for lost in (None, math.nan):
        with pytest.raises(ValueError, match=rf"\[2\] is {lost}: leave such pairs out"):
            kind(ZERO_PAIRS, [1, 0, lost, 0])


# ---------------------------------------------------------------- correlation


def test_correlation():
    found = CrossEncoderCorrelationEvaluator(ZERO_PAIRS, [5, 4, 3, 1], "sts")(Fake(written))
    assert found["sts_spearman"] == pytest.approx(1, abs=1e-12)
    assert found["sts_pearson"] == pytest.approx(np.corrcoef([5, 4, 3, 1], [0.9, 0.8, 0.4, 0.2])[0, 1], abs=1e-6)
    assert np.isnan(list(CrossEncoderCorrelationEvaluator(ZERO_PAIRS, [5, 4, 3, 1])(CONSTANT).values())).all()


def test_correlation_from_rows():
    rows = [{"text1": a, "text2": b, "score": s} for (a, b), s in zip(ZERO_PAIRS, (5, "", "3", 1), strict=True)]
    evaluator = of_rows(CrossEncoderCorrelationEvaluator, rows)
    assert evaluator.pairs == [ZERO_PAIRS[0], *ZERO_PAIRS[2:]] and evaluator.scores.tolist() == [5, 3, 1]
    assert evaluator.note == "1 rows of 4 left out: their score is empty"
    with pytest.raises(ValueError, match=r"row 1: 'score' is \"high\", but a number is wanted"):
        of_rows(CrossEncoderCorrelationEvaluator, [rows[0] | {"score": "high"}])


# ---------------------------------------------------------------- re-ranking


def sample(positive, query="0", **others):
    return {"query": query, "positive": positive, **others}


def test_negatives_by_hand():
    """Second of four, and first and third of four."""
    samples = [sample("0.8", negative=["0.9", "0.1", "0.2"]), sample(["0.7", "0.9"], negative=["0.8", "0.1"])]
    model = Fake(written)
    found = CrossEncoderRerankingEvaluator(samples, name="dev")(model)
    second = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    wanted = {
        "dev_map": (1 / 2 + (1 + 2 / 3) / 2) / 2,
        "dev_mrr@10": (1 / 2 + 1) / 2,
        "dev_ndcg@10": (1 / math.log2(3) + second) / 2,
    }
    assert found == pytest.approx(wanted, abs=1e-12) and model.calls == 1
    at_1 = CrossEncoderRerankingEvaluator(samples, at_k=1)(model)
    assert at_1 == pytest.approx({"map": wanted["dev_map"], "mrr@1": 0.5, "ndcg@1": 0.5}, abs=1e-12)


def test_documents_by_hand():
    """The first stage has one positive at rank 2 and misses the other one, which the model would put first."""
    given = sample(["0.5", "0.9"], documents=["0.8", "0.5", "0.1"])
    always = CrossEncoderRerankingEvaluator([given])(Fake(written))
    base = {"base_map": (1 / 2 + 2 / 4) / 2, "base_mrr@10": 1 / 2}  # the missing one is the fourth
    base["base_ndcg@10"] = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    reranked = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))  # 0.9 0.8 0.5 0.1
    assert always == pytest.approx({"map": (1 + 2 / 3) / 2, "mrr@10": 1, "ndcg@10": reranked} | base, abs=1e-12)
    retrieved = CrossEncoderRerankingEvaluator([given], always_rerank_positives=False)(Fake(written))
    assert retrieved == pytest.approx({"map": 1 / 2, "mrr@10": 1 / 2, "ndcg@10": 1 / math.log2(3)} | base, abs=1e-12)


def test_none_retrieved():
    given = sample(["0.9"], documents=["0.8", "0.5"])
    always = CrossEncoderRerankingEvaluator([given])(Fake(written))
    assert always == {"map": 1, "mrr@10": 1, "ndcg@10": 1, "base_map": 0, "base_mrr@10": 0, "base_ndcg@10": 0}
    retrieved = CrossEncoderRerankingEvaluator([given], always_rerank_positives=False)(Fake(written))
    assert set(retrieved.values()) == {0.0}


def test_a_query_without_positives_counts_0():
    samples = [sample(["0.9"], negative=["0.1"]), sample([], negative=["0.2", "0.3"])]
    evaluator = CrossEncoderRerankingEvaluator(samples, note="of old")
    assert evaluator(Fake(written)) == {"map": 0.5, "mrr@10": 0.5, "ndcg@10": 0.5}
    assert evaluator.note == "of old; 1 queries of 2 have no positive and count 0"
    assert CrossEncoderRerankingEvaluator(samples[:1]).note == ""


@pytest.mark.parametrize("size", [3, 17, 120])
def test_constant_scores(size):
    """6.2's numbers: MAP is the share of positives, MRR takes the last first, nDCG is the mean over orders."""
    samples = [sample(["p"], negative=[f"n{i}" for i in range(size - 1)])]
    discounts = 1 / np.log2(np.arange(2, min(size, 10) + 2))
    wanted = {"map": 1 / size, "mrr@10": 1 / size if size <= 10 else 0, "ndcg@10": discounts.sum() / size}
    assert CrossEncoderRerankingEvaluator(samples)(CONSTANT) == pytest.approx(wanted, abs=1e-12)


def test_the_base_is_that_of_the_documents_alone():
    """Samples of both kinds: only those with documents have a base."""
    samples = [sample("0.9", negative=["0.1"]), sample("0.5", documents=["0.5", "0.8"])]
    found = CrossEncoderRerankingEvaluator(samples)(Fake(written))
    assert (found["base_map"], found["map"]) == (1, 0.75)


def test_the_report_has_the_first_stage_and_bm25_on_the_same_lists(tmp_path):
    """BM25 finds the word of the query; the first stage had it second or third, and this reranker has it last."""
    row = {"query": "sort", "positive": "sort a list", "documents": ["read a file", "sort a list", "wait"]}
    row |= {"scores": [5, 4.9, 0]}
    files = [str(write_jsonl(tmp_path / "r.jsonl", [row, row | {"query": "wait", "positive": "wait"}]))]
    columns = {name: name for name in row}
    about = {"name": "CrossEncoderRerankingEvaluator", "always_rerank_positives": False}
    entry, lines = EvalConfig(name="held", files=files, columns=columns, evaluator=about, bm25=True), list[str]()
    evaluator, model = make_evaluator(entry), Fake(lambda a, b: -float(a in b))
    model.gives = "scores"
    report(entry, evaluator, model, evaluator(model), lines.append)
    first = (1 / math.log2(3) + 1 / 2) / 2
    assert lines == [
        f"\nnDCG@10 on held: 0.5000   first stage: {first:.4f}   both fused: 0.5000   BM25 on the same lists: 1.0000"
    ]


def test_fused_with_the_first_stage_by_hand():
    """Each alone has the positive second; their sum has it first. Scores of another scale count the same."""
    given = sample("0.5", documents=["0.8", "0.5", "0.1"])
    for scores in ([0.5, 1.5, 2.0], [105, 115, 120]):  # -1.34, 0.27, 1.07, and of the model 1.16, 0.12, -1.28
        samples = [given | {"scores": scores}]
        found = CrossEncoderRerankingEvaluator(samples, always_rerank_positives=False)(Fake(written))
        assert (found["fused_map"], found["fused_mrr@10"], found["fused_ndcg@10"]) == (1, 1, 1)
        assert found["map"] == found["base_map"] == 1 / 2
    constant = CrossEncoderRerankingEvaluator(samples, always_rerank_positives=False)(CONSTANT)
    assert constant["fused_map"] == 1 / 2, "a model that says nothing leaves the first stage's order"
    undefined = CrossEncoderRerankingEvaluator(samples, always_rerank_positives=False)(Fake(lambda a, b: math.nan))
    assert math.isnan(undefined["fused_map"])


def test_scores_of_rows():
    """Of equal queries the lists are joined, best first; numbers may be spelled as text."""
    rows = [sample("0.5", documents=["0.8", "0.5"], scores=["3", 1]), sample("0.4", documents=["0.4"], scores=[2])]
    evaluator = of_rows(CrossEncoderRerankingEvaluator, rows, always_rerank_positives=False)
    assert [scores.tolist() for scores in evaluator.first] == [[3, 2, 1]]
    assert [[document for _, document in pairs] for pairs, *_ in evaluator.lists] == [["0.8", "0.4", "0.5"]]
    twice = sample("0.5", documents=["0.8", "0.5", "0.8"], scores=[3, 2, 1])
    given = CrossEncoderRerankingEvaluator.of_rows(places(twice))["samples"][0]
    assert (given["documents"], given["scores"]) == (["0.8", "0.5"], [3, 2]), "where it was best"
    for wrong, message in (
        (0.5, "'scores' is 0.5, but a list of 2 numbers is wanted"),
        ([1], r"'scores' is \[1\], but a list of 2 numbers"),
        ([1, "x"], "'scores' is \"x\", but a number is wanted"),
        ([1, math.nan], "'scores' is NaN, but a number is finite"),
    ):
        with pytest.raises(ValueError, match=f"a.jsonl, row 1: {message}"):
            of_rows(CrossEncoderRerankingEvaluator, [rows[0] | {"scores": wrong}], always_rerank_positives=False)


def slow_metrics(ranked, relevant, k):
    """Of texts, best first, without equal scores."""
    at = [rank for rank, text in enumerate(ranked, 1) if text in relevant]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(at)) + 1))
    return [
        sum(sum(r <= rank for r in at) / rank for rank in at) / len(at),
        1 / at[0] if at[0] <= k else 0,
        sum(1 / math.log2(rank + 1) for rank in at if rank <= k) / ideal,
    ]


@pytest.mark.parametrize("seed", range(3))
def test_ragged_lists_against_loops(seed):
    draw, k, wanted, samples = np.random.RandomState(seed), 4, [], []
    for query in map(str, range(20)):
        texts = [f"{value:.4f}" for value in draw.choice(10000, draw.randint(2, 15), replace=False) / 100]
        positive = texts[: draw.randint(1, len(texts))]
        samples.append(sample(positive, query, negative=texts[len(positive) :]))
        wanted.append(slow_metrics(sorted(texts, key=lambda b, q=query: -written(q, b)), set(positive), k))
    found = CrossEncoderRerankingEvaluator(samples, at_k=k)(Fake(written))
    assert list(found) == ["map", "mrr@4", "ndcg@4"]
    assert list(found.values()) == pytest.approx(np.mean(wanted, axis=0), abs=1e-9)


@pytest.mark.parametrize(
    ("samples", "more", "message"),
    [
        ([], {}, "number of samples is 0: use a number at least 1"),
        ([{"query": "q", "positive": "p"}], {}, "sample 0 has query, positive: it takes query, positive, and one of"),
        ([sample("p", negative="n"), {"query": "q", "negative": "n"}], {}, "sample 1 has query, negative: it takes"),
        ([sample("p", documents=["d"], scores=[1])], {}, "scores are .*, with always_rerank_positives = false"),
        (
            [sample("p", documents=["d"], scores=[1, 2])],
            {"always_rerank_positives": False},
            "scores are a number for each of the documents",
        ),
        (
            [sample("p", documents=["d"], scores=[1]), sample("p", documents=["d"])],
            {"always_rerank_positives": False},
            "scores are a number for each of the documents",
        ),
        ([sample("p", negative="n", documents="d")], {}, "it takes query, positive, and one of negative and documents"),
        (
            [sample("p", negative=[])],
            {},
            "sample 0 has query, positive, negative: it takes .* negative and documents, not empty",
        ),
        ([sample("p", documents=[])], {}, "sample 0 has query, positive, documents: it takes .*, not empty"),
        ([sample("p", negative="n")], {"at_k": 0}, "at_k is 0: use a number at least 1"),
    ],
)
def test_samples_that_cannot_be(samples, more, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderRerankingEvaluator(samples, **more)


SEVERAL = Fake(lambda a, b: [0.0, 1.0, 0.0], NLI.values())
LOST = Fake(lambda a, b: math.nan if b == "0.4" else written(a, b))


def test_a_model_of_several_labels_orders_nothing():
    evaluators = [
        CrossEncoderCorrelationEvaluator(ZERO_PAIRS, [1, 2, 3, 4]),
        CrossEncoderRerankingEvaluator([sample("1", negative="2")]),
    ]
    for evaluator in evaluators:
        with pytest.raises(ValueError, match="the model gives a pair 3 scores, one for each label: a single one"):
            evaluator(SEVERAL)


def test_scores_that_are_no_numbers():
    """A model that diverged must not look like one that works."""
    found = CrossEncoderClassificationEvaluator(ZERO_PAIRS, [1, 0, 1, 0])(LOST)
    found |= CrossEncoderCorrelationEvaluator(ZERO_PAIRS, [1, 2, 3, 4])(LOST)
    found |= CrossEncoderRerankingEvaluator([sample("0.9", negative=["0.4"])])(LOST)
    one_hot = Fake(lambda a, b: [0.0, math.nan if b == "0.4" else 1.0], ["LABEL_0", "LABEL_1"])
    found |= {"2" + k: v for k, v in CrossEncoderClassificationEvaluator(ZERO_PAIRS, [1, 0, 1, 0])(one_hot).items()}
    assert len(found) == 7 + 2 + 3 + 4 and np.isnan(list(found.values())).all()


# ---------------------------------------------------------------- re-ranking from rows


def test_rows_of_one_query_are_one_sample():
    """A positive of one row is no negative of another, and a text counts once."""
    rows = [
        {"query": "q", "positive": "p1", "negative": "n1"},
        {"query": "r", "positive": ["p"], "negative": ["n", "m", "n"]},
        {"query": "q", "positive": "p2", "negative": ["n2", "p1"]},
        {"query": "q", "positive": "p1", "negative": []},
    ]
    assert CrossEncoderRerankingEvaluator.of_rows(places(*rows))["samples"] == [
        {"query": "q", "positive": ["p1", "p2"], "negative": ["n1", "n2"]},
        {"query": "r", "positive": ["p"], "negative": ["n", "m"]},
    ]


def test_documents_of_rows_keep_their_order_and_positives():
    rows = [{"query": "q", "positive": ["b", "z"], "documents": ["c", "b", "a"]}, sample([], documents="d")]
    assert CrossEncoderRerankingEvaluator.of_rows(places(*rows))["samples"] == [
        {"query": "q", "positive": ["b", "z"], "documents": ["c", "b", "a"]},
        {"query": "0", "positive": [], "documents": ["d"]},
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (sample("p", documents=[]), "'documents' is .., but there is nothing to order for this query but positives"),
        (sample("p", negative=["p"]), "'negative' is .* nothing to order"),
        (sample("p", negative=3), "'negative' is 3, but a text is wanted"),
        (sample(["p", None], negative="n"), "'positive' is null, but a text is wanted"),
        (sample("p", query=["q"], negative="n"), "'query' is .* but a text is wanted"),
    ],
)
def test_rows_that_cannot_be(row, message):
    with pytest.raises(ValueError, match=f"a.jsonl, row 2: {message}"):
        CrossEncoderRerankingEvaluator.of_rows(places(sample("a", query="x", **{list(row)[2]: "b"}), row))


# ---------------------------------------------------------------- re-ranking of a collection

TEXTS = ["read a file", "sort a list", "open the socket", "sort the words of a file", "wait", "a file of words"]


def collection(folder, judgements, candidates=None, qrels="test.tsv"):
    """Queries q0 and q1, documents d0 .. d5."""
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "queries.jsonl", [{"_id": "q0", "text": "sort words"}, {"_id": "q1", "text": "read files"}])
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)])
    lines = "".join(f"{q}\t{d}\t{s}\n" for q, d, s in judgements)
    (folder / "qrels" / qrels).write_text("query-id\tcorpus-id\tscore\n" + lines)
    if candidates is not None:
        rows = [{"query-id": q, "corpus-ids": ids} for q, ids in candidates.items()]
        write_jsonl(folder / "bm25.jsonl", rows)
    return folder


JUDGED = [("q0", "d3", 1), ("q0", "d4", 2), ("q1", "d0", 1), ("q1", "d5", 0)]
RANKED = {"q0": ["d1", "d3", "d5"], "q1": ["d2", "d0"]}


def of_files(folder, **more):
    files = (folder / "queries.jsonl", folder / "corpus.jsonl", folder / "qrels" / "test.tsv")
    return CrossEncoderRerankingEvaluator.of_files(*files, **more)


def test_a_collection_with_candidates(tmp_path):
    folder = collection(tmp_path / "x", JUDGED, RANKED)
    found = of_files(folder, candidates=folder / "bm25.jsonl", rerank_k=2)
    assert found["samples"] == [
        {"query": "sort words", "positive": [TEXTS[3], TEXTS[4]], "documents": [TEXTS[1], TEXTS[3]]},
        {"query": "read files", "positive": [TEXTS[0]], "documents": [TEXTS[2], TEXTS[0]]},
    ]
    assert found["note"] == ""


def test_a_collection_without_candidates(tmp_path):
    """Our BM25 makes them; of documents that share no word with the query the earlier ones come first."""
    found = of_files(collection(tmp_path / "x", JUDGED), rerank_k=4)
    scores = BM25(TEXTS).scores("sort words").tolist()
    order = sorted(range(6), key=lambda i: (-scores[i], i))
    assert order[:3] == [3, 1, 5] and found["samples"][0]["documents"] == [TEXTS[i] for i in order[:4]]
    assert found["note"] == "the candidates are the first 4 of BM25"
    assert [len(one["documents"]) for one in of_files(tmp_path / "x")["samples"]] == [6, 6]  # of 100 that it takes


def test_what_a_collection_lacks(tmp_path):
    folder = collection(tmp_path / "x", [*JUDGED[:2], ("q0", "d9", 1)], RANKED)
    found = of_files(folder, candidates=folder / "bm25.jsonl")
    corpus, left_out = found["note"].split("; ")
    assert corpus.endswith("corpus.jsonl has not, such as d9")
    assert left_out == "1 queries of 2 left out: they have no judgement or no candidates"
    assert [one["positive"] for one in found["samples"]] == [[TEXTS[3], TEXTS[4]]]


def test_collections_that_cannot_be(tmp_path):
    folder = collection(tmp_path / "x", JUDGED, {"q0": ["d1"], "q1": ["d2", "d7"]})
    with pytest.raises(ValueError, match=r"bm25.jsonl, row 2: a corpus-id is 'd7', known are d0, d1"):
        of_files(folder, candidates=folder / "bm25.jsonl")
    folder = collection(tmp_path / "y", JUDGED, {"q0": "d1"})
    with pytest.raises(ValueError, match=r"bm25.jsonl, row 1: 'corpus-ids' is \"d1\", but a list of texts is wanted"):
        of_files(folder, candidates=folder / "bm25.jsonl")
    folder = collection(tmp_path / "z", JUDGED, {"0": ["d1"]})
    with pytest.raises(
        ValueError, match=r"no query of .*queries.jsonl has both a judgement and candidates: do the ids"
    ):
        of_files(folder, candidates=folder / "bm25.jsonl")


# ---------------------------------------------------------------- NanoBEIR


def by_length(a, b):
    return float(len(b))


def test_nano_beir(tmp_path):
    """Each data set as its own evaluator has it, and the mean of all; a set that NanoBEIR has not keeps its name."""
    collection(tmp_path / "NanoMSMARCO", JUDGED, RANKED)
    collection(tmp_path / "my files", JUDGED, {"q0": ["d5", "d3"]}, "dev.tsv")
    for name in ("arguana", "NanoTouche2020"):
        collection(tmp_path / name, JUDGED)
    evaluator = CrossEncoderNanoBEIREvaluator(tmp_path, rerank_k=2, at_k=3)
    found = evaluator(Fake(by_length))
    given = of_files(tmp_path / "NanoMSMARCO", candidates=tmp_path / "NanoMSMARCO" / "bm25.jsonl", rerank_k=2)
    one = CrossEncoderRerankingEvaluator(given["samples"], at_k=3)(Fake(by_length))
    metrics = [kind + metric for kind in ("", "base_") for metric in ("map", "mrr@3", "ndcg@3")]
    assert sorted(one) == sorted(metrics)
    for metric in metrics:
        assert found.pop(f"NanoMSMARCO_R2_{metric}") == one[metric]
        mean = (one[metric] + found.pop(f"my files_R2_{metric}")) / 2
        assert found.pop(f"NanoBEIR_R2_mean_{metric}") == pytest.approx(mean, abs=1e-12)
    assert not found
    assert evaluator.note == "my files: 1 queries of 2 left out: they have no judgement or no candidates"


def test_nano_beir_of_chosen_sets(tmp_path):
    for name in ("msmarco", "NanoTouche2020"):
        collection(tmp_path / name, JUDGED)
    chosen = CrossEncoderNanoBEIREvaluator(
        tmp_path, ["touche2020", "MSMARCO"], aggregate_fn=max, aggregate_key="top", name="x"
    )
    found = chosen(Fake(by_length))
    assert next(iter(found)) == "x_NanoTouche2020_R100_map" and "x_NanoMSMARCO_R100_base_ndcg@10" in found
    assert found["x_NanoBEIR_R100_top_map"] == max(found["x_NanoTouche2020_R100_map"], found["x_NanoMSMARCO_R100_map"])
    assert chosen.note.startswith("NanoTouche2020: the candidates are the first 100 of BM25; NanoMSMARCO: ")


def test_positives_that_were_not_retrieved(tmp_path):
    """d4 is none of the candidates."""
    collection(tmp_path / "x", JUDGED, RANKED)
    always, retrieved = (
        CrossEncoderNanoBEIREvaluator(tmp_path, always_rerank_positives=flag)(Fake(by_length)) for flag in (True, False)
    )
    assert always["x_R100_map"] == ((1 + 2 / 4) / 2 + 1 / 2) / 2 and retrieved["x_R100_map"] == (1 + 1 / 2) / 2


def test_nano_beir_folders_that_cannot_be(tmp_path):
    folder = tmp_path / "sets"
    with pytest.raises(ValueError, match=r"no data set of .*sets is chosen: .* and it has none"):
        CrossEncoderNanoBEIREvaluator(folder)
    folder.mkdir()
    with pytest.raises(
        ValueError, match=r"no data set of .*sets is chosen: a data set is a folder in it with a corpus"
    ):
        CrossEncoderNanoBEIREvaluator(folder)
    collection(folder / "NanoArguAna", JUDGED, RANKED, qrels="a.tsv")
    with pytest.raises(ValueError, match=r"no data set of .*sets is chosen: .* and it has arguana"):
        CrossEncoderNanoBEIREvaluator(folder)
    with pytest.raises(ValueError, match=r"data set in .*sets is 'nq', known are arguana"):
        CrossEncoderNanoBEIREvaluator(folder, ["NQ"])
    (folder / "NanoArguAna" / "qrels" / "b.tsv").write_text("")
    with pytest.raises(ValueError, match=r"split of .*qrels is 'test', known are a, b"):
        CrossEncoderNanoBEIREvaluator(folder, ["ArguAna"])
    with pytest.raises(ValueError, match="rerank_k is 0: use a number at least 1"):
        CrossEncoderNanoBEIREvaluator(folder, rerank_k=0)


# ---------------------------------------------------------------- as [[eval]] entries


def entry(tmp_path, name, columns, rows):
    file = write_jsonl(tmp_path / "held.jsonl", rows)
    return EvalConfig(columns=columns, evaluator={"name": name}, name="held", files=[str(file)])


def test_entries_of_pairs(tmp_path):
    columns = {"text1": "a", "text2": "b", "label": "c"}
    rows = [{"a": a, "b": b, "c": label} for (a, b), label in zip(ZERO_PAIRS, (1, 0, 1, 0), strict=True)]
    found = make_evaluator(entry(tmp_path, "CrossEncoderClassificationEvaluator", columns, rows))(Fake(written))
    assert found["held_f1"] == pytest.approx(0.8, abs=1e-12)
    columns = {"text1": "a", "text2": "b", "score": "c"}
    found = make_evaluator(entry(tmp_path, "CrossEncoderCorrelationEvaluator", columns, rows))(Fake(written))
    assert 0 < found["held_spearman"] < 1


@pytest.mark.parametrize("other", ["negative", "documents"])
def test_an_entry_of_lists(tmp_path, other):
    rows = [{"q": "0", "p": "0.5", "n": ["0.8", "0.5" if other == "documents" else "0.1"]}]
    columns = {"query": "q", "positive": "p", other: "n"}
    evaluator = make_evaluator(entry(tmp_path, "CrossEncoderRerankingEvaluator", columns, rows))
    found = evaluator(Fake(written))
    assert found["held_mrr@10"] == 0.5 and ("held_base_mrr@10" in found) == (other == "documents")


@pytest.mark.parametrize(
    "columns",
    [
        {"query": "q", "positive": "p"},
        {"query": "q", "positive": "p", "negative": "n", "documents": "n"},
        {"query": "q", "negative": "n", "documents": "n"},
        {"query": "q", "positive": "p", "document": "n"},
    ],
)
def test_columns_that_make_no_list(tmp_path, columns):
    wanted = "CrossEncoderRerankingEvaluator takes query, positive, negative or documents, scores .optional.$"
    with pytest.raises(ValueError, match=wanted):
        make_evaluator(entry(tmp_path, "CrossEncoderRerankingEvaluator", columns, [{"q": "q", "p": "p", "n": "n"}]))


def test_an_entry_of_a_collection(tmp_path):
    folder = collection(tmp_path / "x", JUDGED)
    files = {key: str(folder / f"{key}.jsonl") for key in ("queries", "corpus")}
    evaluator = {"name": "CrossEncoderRerankingEvaluator", "at_k": 5}
    made = make_evaluator(EvalConfig(evaluator=evaluator, name="held", qrels=str(folder / "qrels/test.tsv"), **files))
    assert 0 < made(Fake(by_length))["held_base_ndcg@5"] < 1 and made.note == "the candidates are the first 100 of BM25"


CONFIG = """
output = "out"
[model]
path = "m"
[[data]]
columns = { anchor = "a", positive = "b" }
files = ["f.jsonl"]
[[eval]]
name = "beir"
evaluator = { name = "CrossEncoderNanoBEIREvaluator", folder = %s, rerank_k = 3 }
"""


def test_an_entry_of_a_folder(tmp_path):
    collection(tmp_path / "sets" / "scifact", JUDGED, RANKED)
    file = tmp_path / "config.toml"
    file.write_text(CONFIG % json.dumps(str(tmp_path / "sets")))
    config: Config = load_config(file, [])
    assert make_evaluator(config.eval[0])(Fake(by_length))["beir_NanoSciFact_R3_base_mrr@10"] == 0.5
    file.write_text(CONFIG % '"x"' + 'files = ["f.jsonl"]\n')
    with pytest.raises(ValueError, match=r"folder in \[\[eval\]\] beir says where its files are: it takes no files"):
        load_config(file, [])
