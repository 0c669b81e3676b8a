"""InformationRetrievalEvaluator against recorded values, and the [[eval]] entry that makes one."""

from pathlib import Path

import numpy as np
import pytest
from tiny import sentences, tiny_model, write_jsonl

from minist.data.rows import Place
from minist.evaluation import InformationRetrievalEvaluator
from minist.retrieval.bm25 import BM25
from minist.training.config import EvalConfig
from minist.training.evaluations import bm25_metrics, evaluate, make_evaluator, report

# recorded from sentence-transformers 6.2; metrics of 5 queries on 40 documents
RECORDED = {
    "cosine_accuracy@1": 0.0,
    "cosine_accuracy@3": 0.2,
    "cosine_accuracy@5": 0.2,
    "cosine_accuracy@10": 0.4,
    "cosine_precision@1": 0.0,
    "cosine_precision@3": 0.06666666666666667,
    "cosine_precision@5": 0.04,
    "cosine_precision@10": 0.06000000000000001,
    "cosine_recall@1": 0.0,
    "cosine_recall@3": 0.1,
    "cosine_recall@5": 0.1,
    "cosine_recall@10": 0.2333333333333333,
    "cosine_ndcg@10": 0.14041084353673533,
    "cosine_mrr@10": 0.13333333333333333,
    "cosine_map@100": 0.12831557331557333,
}
RELEVANT = {"q0": {"d5"}, "q1": {"d12", "d15"}, "q2": {"d19", "d22", "d25"}, "q3": {"d26"}, "q4": {"d33", "d36"}}


class Table:
    """A model that looks its embeddings up; text s<i> has the random vector of seed 100 + i."""

    similarity_name = "cosine"

    def encode(self, texts):
        return np.stack([np.random.RandomState(100 + int(text[1:])).randn(6).astype(np.float32) for text in texts])

    encode_query = encode_document = encode


class Prompted(Table):
    """Queries and documents must not be embedded alike."""

    def encode_query(self, texts):
        return -self.encode(texts)


def from_pairs(pairs, **depths):
    rows = (Place(Path("a.jsonl"), i, {"query": q, "document": d}) for i, (q, d) in enumerate(pairs, 1))
    return InformationRetrievalEvaluator(**InformationRetrievalEvaluator.of_rows(rows), **depths)


def of_files(*files, **more):
    return InformationRetrievalEvaluator(**InformationRetrievalEvaluator.of_files(*files), **more)


KINDS = ["ndcg@3", "ndcg@7", "mrr@10", "map@2"]


def recorded_evaluator(name=""):
    queries = {f"q{i}": f"s{i}" for i in range(5)}
    return InformationRetrievalEvaluator(queries, {f"d{i}": f"s{i}" for i in range(5, 45)}, RELEVANT, name)


def test_recorded():
    assert recorded_evaluator()(Table()) == pytest.approx(RECORDED, abs=1e-12)
    named = recorded_evaluator("held")(Table())
    assert named == pytest.approx({f"held_{key}": value for key, value in RECORDED.items()}, abs=1e-12)


def test_each_side_has_its_own_prompt():
    assert recorded_evaluator()(Prompted())["cosine_ndcg@10"] != recorded_evaluator()(Table())["cosine_ndcg@10"]


def test_of_equal_scores_the_lower_id_is_first():
    class Constant(Table):
        def encode_document(self, texts):
            return np.ones((len(texts), 6), np.float32)

    corpus = {"b": "s1", "c": "s2", "a": "s3"}  # not in order
    for document, rank in (("a", 1), ("b", 2), ("c", 3)):
        found = InformationRetrievalEvaluator({"q": "s0"}, corpus, {"q": {document}})(Constant())
        assert found["cosine_mrr@10"] == pytest.approx(1 / rank, abs=1e-12)


def test_a_query_without_relevant_documents_is_left_out():
    queries = {f"q{i}": f"s{i}" for i in range(9)}
    corpus = {f"d{i}": f"s{i}" for i in range(5, 45)}
    found = InformationRetrievalEvaluator(queries, corpus, RELEVANT | {"q7": set()})(Table())
    assert found == pytest.approx(RECORDED, abs=1e-12)


def test_from_pairs():
    """The document is the query's own text, so each is found first; precision@3 of one relevant is 1/3."""
    found = from_pairs([(f"s{i}", f"s{i}") for i in range(12)])(Table())
    assert found["cosine_accuracy@1"] == found["cosine_ndcg@10"] == 1
    assert found["cosine_precision@3"] == pytest.approx(1 / 3, abs=1e-12)


def test_equal_documents_are_one():
    """Four questions with the same answer: whichever row it is found in, it is the right one."""
    evaluator = from_pairs([(f"s{i}", "s7" if i < 8 else f"s{i}") for i in range(4, 12)])
    assert evaluator.documents == [f"s{i}" for i in range(7, 12)]

    class Perfect(Table):
        def encode_query(self, texts):
            return self.encode(["s7" if int(text[1:]) < 8 else text for text in texts])

    found = evaluator(Perfect())
    assert found["cosine_accuracy@1"] == found["cosine_ndcg@10"] == found["cosine_map@100"] == 1


def test_equal_queries_are_one_with_several_relevant_documents():
    evaluator = from_pairs([("s1", "s20"), ("s2", "s21"), ("s1", "s22"), ("s1", "s20")])
    assert evaluator.queries == ["s1", "s2"] and evaluator.documents == ["s20", "s21", "s22"]

    class Perfect(Table):
        def encode_query(self, texts):
            return np.stack([self.encode([f"s{d}" for d in {"s1": (20, 22), "s2": (21,)}[t]]).sum(0) for t in texts])

    found = evaluator(Perfect())
    assert found["cosine_recall@1"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["cosine_recall@3"] == found["cosine_ndcg@10"] == 1
    assert found["cosine_precision@3"] == pytest.approx((2 + 1) / 6)


def test_other_depths_of_rows():
    found = from_pairs([(f"s{i}", f"s{i}") for i in range(12)], ndcg_at_k=[3, 7], accuracy_at_k=[], map_at_k=[2])(
        Table()
    )
    kinds = sorted(key.split("_")[1] for key in found)
    assert kinds == sorted([*(f"{m}@{k}" for m in ("precision", "recall") for k in (1, 3, 5, 10)), *KINDS])
    for k, says in ((0, "k of ndcg is 0: use a number at least 1"), ("10", "k of ndcg is '10'")):
        with pytest.raises(ValueError, match=says):
            from_pairs([("a", "b")], ndcg_at_k=[k])


# ---------------------------------------------------------------- BEIR's files


def beir(folder, judgements):
    """Queries q0 .. q4 and documents d5 .. d44 as files; the titles are half of the documents' texts."""
    queries = write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"s{i}"} for i in range(5)])
    titles = [{}, {"title": ""}, {"title": None}, {"title": "a title"}]
    rows = [{"_id": f"d{i}", "text": f"s{i}", "metadata": {}} | titles[i % 4] for i in range(5, 45)]
    corpus = write_jsonl(folder / "corpus.jsonl", rows)
    qrels = folder / "test.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{s}\n" for q, d, s in judgements), "utf-8")
    return queries, corpus, qrels


class Titled(Table):
    def encode_document(self, texts):
        assert sum(text.startswith("a title s") for text in texts) == 10
        return self.encode([text.removeprefix("a title ") for text in texts])


def test_from_files(tmp_path):
    """Judgements of 0 and less are not relevant, and of those above the score is the gain in nDCG alone."""
    judgements = [(q, d, 2) for q, ids in RELEVANT.items() for d in sorted(ids)]
    judgements += [("q0", "d6", 0), ("q1", "d7", -1)]
    evaluator = of_files(*beir(tmp_path, judgements))
    assert evaluator(Titled()) == pytest.approx(RECORDED, abs=1e-12)
    assert evaluator.note == ""
    judgements = [(q, d, 1 + i) for q, ids in RELEVANT.items() for i, d in enumerate(sorted(ids))]
    graded = of_files(*beir(tmp_path, judgements))(Titled())
    assert graded.pop("cosine_ndcg@10") == pytest.approx(0.08942263884, abs=1e-9)
    assert graded == pytest.approx({k: v for k, v in RECORDED.items() if "ndcg" not in k}, abs=1e-12)
    named = of_files(*beir(tmp_path, judgements), name="x", ndcg_at_k=[5])
    assert "x_cosine_ndcg@5" in named(Titled())


def test_ids_that_no_file_has(tmp_path):
    judgements = [("q1", "d12", 1), ("q1", "d15", 1), *((f"q{i}", f"d{i * 100}", 1) for i in range(1, 6))]
    evaluator = of_files(*beir(tmp_path, judgements))
    queries, documents = evaluator.note.split("; ")
    assert queries.endswith("test.tsv names 1 ids that " + str(tmp_path / "queries.jsonl") + " has not, such as q5")
    assert documents.endswith("corpus.jsonl has not, such as d100, d200, d300")
    assert " 5 ids " in documents
    assert evaluator(Titled())["cosine_recall@10"] <= (2 / 3) / 4  # what is not there is not found
    with pytest.raises(ValueError, match="do the ids agree"):
        of_files(*beir(tmp_path, [("1", "2", 1)]))


def test_files_that_cannot_be(tmp_path):
    files = beir(tmp_path, [("q1", "d12", "high")])
    with pytest.raises(ValueError, match=r"test.tsv, row 1: 'score' is \"high\", but a number is wanted"):
        of_files(*files)
    with files[0].open("a") as stream:
        stream.write('{"_id": "q3", "text": "s8"}\n')
    with pytest.raises(ValueError, match=r"queries.jsonl, row 6: the id 'q3' has another text in a row before"):
        of_files(*files)


def test_no_relevant_document_in_the_corpus():
    with pytest.raises(ValueError, match="no query has a relevant document in the corpus: do the ids agree"):
        InformationRetrievalEvaluator({"1": "q"}, {"1": "d"}, {"1": {"2"}})


# ---------------------------------------------------------------- as an [[eval]] entry


@pytest.fixture
def entry(tmp_path):
    rows = [{"q": text, "d": f"{text} {text}", "n": 1} for text in dict.fromkeys(sentences(30, seed=4))]
    file = write_jsonl(tmp_path / "held.jsonl", rows)
    columns = {"query": "q", "document": "d"}
    about = {
        "columns": columns,
        "evaluator": {"name": "InformationRetrievalEvaluator"},
        "name": "held",
        "files": [str(file)],
    }
    return EvalConfig(**about, bm25=True, searches=["sort list"])


def test_entry(entry):
    evaluator = make_evaluator(entry)
    found = evaluate([evaluator], tiny_model())
    assert 0 < found["held_cosine_ndcg@10"] <= 1
    baseline = bm25_metrics(evaluator)
    index = BM25(evaluator.documents)
    best = [int(index.scores(query).argmax()) == i for i, query in enumerate(evaluator.queries)]
    assert baseline["held_bm25_accuracy@1"] == pytest.approx(np.mean(best), abs=1e-12)


def test_report(entry):
    lines, evaluator, model = [], make_evaluator(entry), tiny_model()
    report(entry, evaluator, model, evaluate([evaluator], model), lines.append)
    ours, theirs = evaluator(model)["held_cosine_ndcg@10"], bm25_metrics(evaluator)["held_bm25_ndcg@10"]
    assert lines[0] == f"\nnDCG@10 on held: {ours:.4f}   BM25: {theirs:.4f}   difference: {ours - theirs:+.4f}"
    assert lines[1] == "\nsearch: sort list"
    assert len(lines) == 2 + 3  # three hits
    assert all(line.split("  ")[-1] in evaluator.documents for line in lines[2:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluator": {"name": "Nothing"}}, "evaluator in .* is 'Nothing', known are .*InformationRetrievalEvaluator"),
        ({"columns": {"query": "q"}}, "InformationRetrievalEvaluator takes query, document"),
        ({"columns": {"query": "q", "document": "x"}}, "there is no column 'x', it has q, d, n"),
        ({"columns": {"query": "q", "document": "n"}}, "row 1: 'n' is 1, but a text is wanted"),
    ],
)
def test_entries_that_cannot_be(entry, changes, message):
    with pytest.raises(ValueError, match=message):
        make_evaluator(EvalConfig(**(vars(entry) | changes)))
