"""python -m minist evaluate: what the data is, the table and the file, models of all kinds, and what it refuses."""

import json
import subprocess
import sys

import pytest
from models import DATA
from tiny import ROOT, run_script, sentences, tiny_model, write_jsonl

from minist.commands.evaluate import find_columns
from minist.commands.evaluate import table as draw
from minist.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from minist.models.cross_encoder import CrossEncoder

A, B, C = (sentences(12, seed) for seed in (1, 2, 3))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_model().save(folder / "dense")
    tiny_model(1).save(folder / "other")
    with pytest.warns(UserWarning, match="a new head"):
        CrossEncoder(tiny_model().content(), num_labels=1).save(folder / "judge")
    return folder


def evaluate(*arguments):
    return run_script("minist/__main__.py", "evaluate", *arguments)


def beir(folder, qrels=("test",), judged=None):
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": text} for i, text in enumerate(A)])
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(A + B)])
    lines = "".join(f"{q}\t{d}\t1\n" for q, d in (judged or [(f"q{i}", f"d{i}") for i in range(12)]))
    for name in qrels:
        (folder / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


def test_a_collection_and_two_models(models, tmp_path):
    output = tmp_path / "results.json"
    folder = beir(tmp_path / "set", ("test", "dev"))
    code, printed, err = evaluate("--model", models / "dense", models / "other", "--data", folder, "--output", output)
    assert (code, err) == (0, "")
    lines = [line.split() for line in printed.splitlines()]
    assert lines[0] == ["dense", "other"] and ["accuracy@1", "1.0000", "1.0000"] in lines  # a query is its document
    found = json.loads(output.read_text())
    assert found["evaluator"] == dict.fromkeys(
        map(str, (models / "dense", models / "other")), "InformationRetrievalEvaluator"
    )
    given = InformationRetrievalEvaluator.of_files(
        *(folder / x for x in ("queries.jsonl", "corpus.jsonl", "qrels/dev.tsv"))
    )
    assert found["metrics"][str(models / "dense")] == InformationRetrievalEvaluator(**given)(tiny_model())


def test_models_of_the_same_name():
    lines = draw({"runs/a/model": {"ndcg@10": 0.5}, "runs/b/model": {"map": 0.25}})
    assert lines == [
        "         runs/a/model  runs/b/model",
        "ndcg@10        0.5000              ",
        "map                          0.2500",
    ]


def test_a_cross_encoder_beside_a_dense_model(models, tmp_path):
    """It re-ranks, of the candidates of BM25; the name of the similarity is not in the way."""
    code, printed, _ = evaluate("--model", models / "dense", models / "judge", "--data", beir(tmp_path / "set"))
    assert code == 0 and printed.startswith("note: the candidates are the first 100 of BM25\n")
    ndcg = next(line.split() for line in printed.splitlines() if line.startswith("ndcg@10"))
    assert len(ndcg) == 3 and 0 < float(ndcg[2]) <= 1


def test_a_folder_of_collections(models, tmp_path):
    beir(tmp_path / "NanoNQ")
    beir(tmp_path / "own")
    for model, metric in (("dense", "NanoBEIR_mean_ndcg@10"), ("judge", "NanoBEIR_R100_mean_ndcg@10")):
        code, printed, _ = evaluate("--model", models / model, "--data", tmp_path)
        assert code == 0 and f"\n{metric} " in printed


@pytest.mark.slow
def test_two_processes(models, tmp_path):
    """The same numbers, printed once."""
    arguments = ["--model", str(models / "dense"), "--data", str(beir(tmp_path / "set")), "--output"]
    alone, both = tmp_path / "alone.json", tmp_path / "both.json"
    assert evaluate(*arguments, alone)[0] == 0
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "minist"]
    command = [*start, "evaluate", *arguments, str(both)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.count("ndcg@10") == 1
    one, two = (json.loads(file.read_text())["metrics"][str(models / "dense")] for file in (alone, both))
    assert one == pytest.approx(two, abs=1e-6)


def table(file, *columns):
    """A csv file, a column each: its name, and the cells."""
    names, cells = zip(*columns, strict=True)
    rows = [",".join(map(str, row)) for row in (names, *zip(*cells, strict=True))]
    file.write_text("\n".join(rows) + "\n", "utf-8")
    return file


NUMBERS, LABELS = [i / 12 for i in range(12)], [i % 2 for i in range(12)]


@pytest.mark.parametrize(
    ("columns", "model", "metric"),
    [
        ([("Sentence1", A), ("sentence2", B), ("score", NUMBERS)], "dense", "spearman"),
        ([("text1", A), ("text2", B), ("labels", LABELS)], "dense", "mcc"),
        ([("anchor", A), ("positive", B), ("negative", C)], "dense", "accuracy"),
        ([("query", A), ("answer", B)], "dense", "ndcg@10"),
        ([("source", A), ("target", B)], "dense", "mean_accuracy"),
        ([("sentence1", A), ("sentence2", B), ("score", NUMBERS)], "judge", "spearman"),
        ([("text1", A), ("text2", B), ("label", LABELS)], "judge", "average_precision"),
        ([("anchor", A), ("positive", B), ("negative", C)], "judge", "mrr@10"),
    ],
)
def test_tables(models, tmp_path, columns, model, metric):
    code, printed, err = evaluate("--model", models / model, "--data", table(tmp_path / "t.csv", *columns))
    assert (code, err) == (0, "") and f"\n{metric} " in printed


def test_a_table_without_a_header(models, tmp_path):
    file = tmp_path / "sts.tsv"
    file.write_text("".join(f"{score}\t{a}\t{b}\n" for score, a, b in zip(NUMBERS, A, B, strict=True)))
    output = tmp_path / "o.json"
    options = ("--similarity", "dot", "manhattan", "--truncate-dim", 5, "--precision", "int8", "--output", output)
    code, printed, _ = evaluate("--model", models / "dense", "--data", file, *options)
    assert code == 0 and "\nspearman_max " in printed
    assert find_columns(file) == {"text1": 1, "text2": 2, "score": 0}
    wanted = EmbeddingSimilarityEvaluator(A, B, NUMBERS, "", ["dot", "manhattan"], "int8", 5)(tiny_model())
    assert json.loads(output.read_text())["metrics"][str(models / "dense")] == wanted


@pytest.mark.parametrize(
    ("table", "note"),
    [
        (
            "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n1\ta\tb\t3.6\tNEUTRAL\n2\tc\td\t1\tNO\n",
            "scored pairs: 'sentence_A' is text1, 'sentence_B' is text2, 'relatedness_score' is score; "
            "not used: pair_ID, entailment_judgment",
        ),
        (
            "question1\tquestion2\tis_duplicate\na\tb\t1\nc\td\t0\n",
            "labelled pairs: 'question1' is text1, 'question2' is text2, 'is_duplicate' is score",
        ),
        (
            "query\tdocument\tmine\na\tb\t0.3\nc\td\t0.1\n",
            "queries and answers: 'query' is text1, 'document' is text2; not used: mine",
        ),
    ],
)
def test_what_columns_were_taken_for_is_said(models, tmp_path, table, note):
    """SICK, Quora's duplicates, and a score under a name that nobody knows: a reader sees that it is not used."""
    (tmp_path / "table.tsv").write_text(table)
    code, printed, _ = evaluate("--model", models / "dense", "--data", tmp_path / "table.tsv")
    assert code == 0 and printed.splitlines()[0] == f"note: read as {note}"


def test_a_sparse_model(tmp_path):
    sparse = DATA / "folders" / "st6" / "sparse"
    code, printed, _ = evaluate("--model", sparse, "--data", beir(tmp_path / "set"), "--truncate-dim", 3)
    rows = dict(line.split() for line in printed.splitlines()[1:])
    assert code == 0 and 0 < float(rows["query_active_dims"]) <= 3 and {"avg_flops", "ndcg@10"} < rows.keys()


def test_another_evaluator(models, tmp_path):
    file = table(tmp_path / "t.csv", ("text1", A), ("text2", B), ("label", LABELS))
    code, printed, _ = evaluate("--model", models / "dense", "--data", file, "--evaluator", "ParaphraseMiningEvaluator")
    assert code == 0 and "\naverage_precision " in printed


def wrong(*arguments):
    code, _, err = evaluate(*arguments)
    assert code == 2 and len(err.splitlines()) == 1
    return err


def test_collections_that_cannot_be(models, tmp_path):
    model, folder = models / "dense", beir(tmp_path / "a", judged=[("1", "2"), ("3", "4"), ("5", "6"), ("7", "8")])
    message = wrong("--model", model, "--data", folder)
    assert "has a relevant document in" in message and "do the ids agree" in message
    assert "names 4 ids that" in message and "such as 1, 3, 5" in message
    (folder / "corpus.jsonl").write_text("")
    assert "corpus.jsonl is empty" in wrong("--model", model, "--data", folder)
    assert "split of" in wrong("--model", model, "--data", beir(tmp_path / "b", ("x", "y")))
    misspelt = ("--data", beir(tmp_path / "d", ("dev",)), "--split", "test")
    assert "is 'test', known are dev" in wrong("--model", model, *misspelt), "the only split, but not the one asked for"
    code, printed, _ = evaluate("--model", model, "--data", beir(tmp_path / "c", judged=[("q1", "d1"), ("q2", "d77")]))
    assert code == 0 and "names 1 ids that" in printed and "such as d77" in printed
    (tmp_path / "empty").mkdir()
    assert "a data set is a folder in it with a corpus.jsonl" in wrong("--model", model, "--data", tmp_path / "empty")


def test_what_does_not_go_together(models, tmp_path):
    dense, judge = models / "dense", models / "judge"
    assert "no file" in wrong("--model", dense, "--data", tmp_path / "none.csv")
    file = table(tmp_path / "t.csv", ("left", A), ("right", B))
    assert "has the columns left, right: rename some" in wrong("--model", dense, "--data", file)
    file = table(tmp_path / "u.csv", ("source", A), ("target", B))
    message = "TranslationEvaluator is for models that give embeddings, this one gives scores of width 1"
    assert message in wrong("--model", judge, "--data", file)
    assert "--evaluator is 'Judge', known are" in wrong("--model", dense, "--data", file, "--evaluator", "Judge")
    assert "TripletEvaluator takes anchor, positive, negative" in wrong(
        "--model", dense, "--data", file, "--evaluator", "TripletEvaluator"
    )
    assert "an argument of TranslationEvaluator is 'precision'" in wrong(
        "--model", dense, "--data", file, "--precision", "int8"
    )
    assert "truncate_dim is 0: use a number" in wrong("--model", dense, "--data", file, "--truncate-dim", 0)
    assert "in a folder that is there" in wrong(
        "--model", dense, "--data", file, "--output", tmp_path / "no" / "o.json"
    )
    both = ("--model", dense, judge, "--data", file, "--write-predictions", tmp_path / "p.jsonl")
    assert "--write-predictions is of one model" in wrong(*both)
    folder = beir(tmp_path / "set")
    assert "the evaluator of" in wrong("--model", dense, "--data", folder, "--evaluator", "TripletEvaluator")
