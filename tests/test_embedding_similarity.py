"""EmbeddingSimilarityEvaluator against recorded values."""

from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model, write_jsonl

from minist.data.rows import Place
from minist.evaluation import EmbeddingSimilarityEvaluator
from minist.training.config import EvalConfig
from minist.training.evaluations import make_evaluator

# recorded from sentence-transformers 6.2, on 12 pairs of random vectors
RECORDED = {
    "pearson_cosine": -0.07385029421479496,
    "spearman_cosine": -0.08620720798422529,
    "pearson_dot": -0.0818835005621789,
    "spearman_dot": -0.1400867129743661,
    "pearson_euclidean": 0.4495593012420685,
    "spearman_euclidean": 0.3160930959421594,
    "pearson_manhattan": 0.28676887851900207,
    "spearman_manhattan": 0.2945412939461031,
    "pearson_max": 0.4495593012420685,
    "spearman_max": 0.3160930959421594,
}
FIRST, SECOND = [f"s{i}" for i in range(12)], [f"s{i}" for i in range(12, 24)]
SCORES = np.round(np.random.RandomState(50).rand(12), 1).tolist()


class Table:
    """A model that looks its embeddings up; text s<i> has the random vector of seed 100 + i."""

    similarity_name = "cosine"

    def encode(self, texts):
        return np.stack([np.random.RandomState(100 + int(text[1:])).randn(6).astype(np.float32) for text in texts])


def test_recorded():
    names = ["cosine", "dot", "euclidean", "manhattan"]
    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, similarity_fn_names=names)(Table())
    assert found == pytest.approx(RECORDED, abs=1e-6)  # similarities are single precision


def test_the_models_own_similarity_and_a_name():
    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, "sts")(Table())
    assert found == pytest.approx(
        {f"sts_{kind}_cosine": RECORDED[f"{kind}_cosine"] for kind in ("pearson", "spearman")}
    )


def test_impossible_arguments():
    with pytest.raises(ValueError, match="12 pairs and 11 second texts: must be equal, and not 0"):
        EmbeddingSimilarityEvaluator(FIRST, SECOND[:11], SCORES)
    with pytest.raises(ValueError, match="similarity is 'cos', known are cosine"):
        EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, similarity_fn_names=["cos"])


@pytest.mark.parametrize("scores", [[0.1] * 12, [3.0] * 12])
def test_a_constant_has_no_correlation(scores):
    """0.1 is no sum of powers of two: the mean of twelve is another number than 0.1."""
    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, scores, "sts")(Table())
    assert list(found) == ["sts_pearson_cosine", "sts_spearman_cosine"] and np.isnan(list(found.values())).all()
    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, scores, "", ["cosine", "dot"])(Table())
    assert np.isnan([found["pearson_max"], found["spearman_max"]]).all()


def test_embeddings_that_are_no_numbers_have_no_correlation():
    class Broken(Table):
        def encode(self, texts):
            return np.where(np.arange(len(texts))[:, None] == 3, np.float32(np.nan), super().encode(texts))

    assert np.isnan(list(EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES)(Broken()).values())).all()


def test_the_largest_of_those_that_are_numbers():
    class Equal(Table):
        def encode(self, texts):
            return np.abs(super().encode(texts)[:, :1])  # of one dimension: all cosines are 1

    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, "", ["cosine", "dot"])(Equal())
    assert np.isnan(found["pearson_cosine"])
    assert found["pearson_max"] == found["pearson_dot"] and found["spearman_max"] == found["spearman_dot"]


def of_rows(rows, **more):
    return EmbeddingSimilarityEvaluator(**EmbeddingSimilarityEvaluator.of_rows(rows), **more)


def test_from_rows():
    cells = zip(FIRST, SECOND, map(str, SCORES), strict=True)
    rows = [
        Place(Path("a"), i, dict(zip(("text1", "text2", "score"), row, strict=True))) for i, row in enumerate(cells)
    ]
    found = of_rows(rows, name="sts", similarity_fn_names=["dot", "manhattan"])(Table())
    assert found["sts_spearman_dot"] == pytest.approx(RECORDED["spearman_dot"], abs=1e-6)
    assert found["sts_spearman_max"] == found["sts_spearman_manhattan"]
    for broken in ("nan", "4,5", "inf"):
        with pytest.raises(ValueError, match=f"a, row 3: 'score' is \"{broken}\", but a number is"):
            of_rows([rows[0], rows[3]._replace(row=rows[3].row | {"score": broken})])


COLUMNS = {"text1": "a", "text2": "b", "score": "s"}


def entry(tmp_path, scores, ending="jsonl"):
    pairs = [("read", "sort"), ("file", "file list"), ("wait", "open socket")]
    rows = [{"a": a, "b": b, "s": s} for (a, b), s in zip(pairs, scores, strict=True)]
    file = tmp_path / f"sts.{ending}"
    if ending == "jsonl":
        write_jsonl(file, rows)
    else:
        file.write_text("a,b,s\n" + "".join(f"{row['a']},{row['b']},{row['s']}\n" for row in rows))
    return EvalConfig(
        columns=COLUMNS, evaluator={"name": "EmbeddingSimilarityEvaluator"}, name="sts", files=[str(file)]
    )


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_entry(tmp_path, ending):
    evaluator = make_evaluator(entry(tmp_path, [0, 1, 0.5], ending))
    assert evaluator.sentences1 == ["read", "file", "wait"]
    assert evaluator.sentences2 == ["sort", "file list", "open socket"]
    assert evaluator.scores.tolist() == [0.0, 1.0, 0.5]
    assert -1 <= evaluator(tiny_model())["sts_spearman_cosine"] <= 1


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_rows_without_a_score_are_left_out(tmp_path, ending):
    """As in the files of STS15; how many there are is said."""
    evaluator = make_evaluator(entry(tmp_path, [0, None if ending == "jsonl" else "", 0.5], ending))
    assert (evaluator.sentences1, evaluator.sentences2) == (["read", "wait"], ["sort", "open socket"])
    assert evaluator.scores.tolist() == [0.0, 0.5]
    assert evaluator.note == "1 rows of 3 left out: their score is empty"
    assert make_evaluator(entry(tmp_path, [0, 1, 0.5], ending)).note == ""
    with pytest.raises(ValueError, match="0 pairs"):
        make_evaluator(entry(tmp_path, [""] * 3, ending))


@pytest.mark.parametrize("score", ["high", [1]])
def test_a_score_that_is_no_number(tmp_path, score):
    with pytest.raises(ValueError, match=r"row 2: 's' is .*, but a number is wanted"):
        make_evaluator(entry(tmp_path, [0, score, 1]))
