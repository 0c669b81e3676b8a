"""EmbeddingSimilarityEvaluator against recorded values."""

import numpy as np
import pytest
from tiny import tiny_model, write_jsonl

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
    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, similarities=names)(Table())
    assert found == pytest.approx(RECORDED, abs=1e-6)  # similarities are single precision


def test_the_models_own_similarity_and_a_name():
    found = EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, "sts")(Table())
    assert found == pytest.approx(
        {f"sts_{kind}_cosine": RECORDED[f"{kind}_cosine"] for kind in ("pearson", "spearman")}
    )


def test_impossible_arguments():
    with pytest.raises(ValueError, match="12 first texts, 11 second texts, 12 scores: must be equal"):
        EmbeddingSimilarityEvaluator(FIRST, SECOND[:11], SCORES)
    with pytest.raises(ValueError, match="'cos' is not known, there are cosine"):
        EmbeddingSimilarityEvaluator(FIRST, SECOND, SCORES, similarities=["cos"])


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
    assert evaluator.texts1 == ["read", "file", "wait"]
    assert evaluator.texts2 == ["sort", "file list", "open socket"]
    assert evaluator.scores.tolist() == [0.0, 1.0, 0.5]
    assert -1 <= evaluator(tiny_model())["sts_spearman_cosine"] <= 1


@pytest.mark.parametrize("score", ["high", None, [1]])
def test_a_score_that_is_no_number(tmp_path, score):
    with pytest.raises(ValueError, match=r"row 2: 's' is .*, but a number is wanted"):
        make_evaluator(entry(tmp_path, [0, score, 1]))
