"""Evaluations at several sizes of a model: its first dimensions, its first layers."""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from test_distributed import family, static, two_towers
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, tiny_model, write_jsonl

from minist import CrossEncoder, evaluation
from minist.encoders.families import ENCODERS
from minist.training.config import EvalConfig
from minist.training.sizes import Once, SizedEvaluation, first_layers, sized, sizes_of, table

ROWS = list(zip(sentences(30, 1), sentences(30, 2), strict=True))
LOSS = 'loss = { name = "Matryoshka2dLoss", loss = "MultipleNegativesRankingLoss", matryoshka_dims = [16, 4] }'
CONFIG = f"""output = "run"
{FROM_SCRATCH}
[[data]]
files = ["rows.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
{LOSS}
[train]
batch_size = 8
max_steps = 6
lr = 1e-2
eval_every = 3
save_every = 3
[[eval]]
name = "held"
evaluator = "EmbeddingSimilarityEvaluator"
files = ["rows.jsonl"]
columns = {{ text1 = "q", text2 = "d", score = "s" }}
dimensions = [16, 4]
layers = [2, 1]
[expect]
held_spearman_cosine = -1
"""


def entry(**given):
    return EvalConfig(name="held", **given)


def search(truncate_dim=None):
    queries, documents = ({str(i): row[side] for i, row in enumerate(ROWS)} for side in (0, 1))
    relevant = {i: {i} for i in queries}
    return evaluation.InformationRetrievalEvaluator(queries, documents, relevant, "held", truncate_dim=truncate_dim)


# ------------------------------------------------------------ what is measured


def test_names():
    assert sizes_of(entry()) == {}
    assert sizes_of(entry(dimensions=[8, 4])) == {"held_8_": (0, 8), "held_4_": (0, 4)}
    assert sizes_of(entry(layers=[2])) == {"held_2_layers_": (2, 0)}
    both = sizes_of(entry(layers=[2, 1], dimensions=[8, 4]))
    assert list(both) == ["held_2_layers_8_", "held_2_layers_4_", "held_1_layers_8_", "held_1_layers_4_"]
    assert sizes_of(EvalConfig(name="", dimensions=[8])) == {"8_": (0, 8)}


@pytest.mark.parametrize("model_type", ENCODERS)
def test_the_first_layers_are_a_model_that_kept_no_others(model_type):
    model = family(model_type)
    smaller, texts, whole = copy.deepcopy(model), sentences(9), model.encode(sentences(9))
    smaller.keep_layers(range(1))
    with pytest.raises(KeyError), first_layers(model, 1):
        assert (model.encode(texts) == smaller.encode(texts)).all()
        assert abs(model.encode(texts) - whole).max() > 1e-3
        raise KeyError
    assert (model.encode(texts) == whole).all()  # as it was, also after an error


def test_each_size_is_what_a_model_of_that_size_reaches():
    model, given = tiny_model(), entry(dimensions=[16, 5], layers=[2, 1])
    found = SizedEvaluation(given, search(), model)(model)
    expected = dict(search()(model))
    for prefix, (layers, dimension) in sizes_of(given).items():
        smaller = copy.deepcopy(model)
        smaller.keep_layers(range(layers))
        measured = search(dimension)(smaller)
        expected |= {prefix + name.removeprefix("held_"): value for name, value in measured.items()}
    assert found == expected
    assert len({found[f"{prefix}cosine_mrr@10"] for prefix in sizes_of(given)}) == 4  # the sizes do differ


def test_each_text_is_embedded_once_for_all_dimensions():
    model, evaluator, calls = tiny_model(), search(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    evaluator(model)
    once = len(calls)
    SizedEvaluation(entry(dimensions=[8, 4, 2], layers=[1]), evaluator, model)(model)
    assert len(calls) == 3 * once  # the whole model, and one layer of it


def test_the_own_truncate_dim_of_a_model_counts_where_no_other_is_given():
    model = tiny_model()
    model.truncate_dim = 6
    once = Once(model)
    assert once.encode(["a"]).shape == (1, 6)
    once.dimensions = 9
    assert once.encode(["a"]).shape == (1, 9)
    assert not torch.equal(once.encode(["read", "a"]), once.encode(["a", "read"]))


def test_an_evaluator_of_evaluators(tmp_path):
    """A number given to it alone would not reach those inside."""
    (tmp_path / "NanoX/qrels").mkdir(parents=True)
    for name, side in (("queries", 0), ("corpus", 1)):
        rows = [{"_id": str(i), "text": row[side]} for i, row in enumerate(ROWS)]
        write_jsonl(tmp_path / f"NanoX/{name}.jsonl", rows)
    lines = ["query-id\tcorpus-id\tscore", *(f"{i}\t{i}\t1" for i in range(len(ROWS)))]
    (tmp_path / "NanoX/qrels/test.tsv").write_text("\n".join(lines) + "\n")
    model, nano = tiny_model(), {"folder": str(tmp_path), "name": "held"}
    found = SizedEvaluation(entry(dimensions=[3]), evaluation.NanoBEIREvaluator(**nano), model)(model)
    expected = evaluation.NanoBEIREvaluator(**nano, truncate_dim=3)(model)
    expected = {name.replace("_3_cosine", "_cosine").replace("held_", "held_3_"): v for name, v in expected.items()}
    assert expected.items() <= found.items()
    assert evaluation.NanoBEIREvaluator(**nano)(model).items() <= found.items()


def test_towers_of_different_depths():
    model = two_towers()
    model.encoders[0].keep_layers([0])
    assert SizedEvaluation(entry(layers=[1]), search(), model)(model).items() >= search()(model).items()


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        (tiny_model, {"dimensions": [17]}, "dimensions in .*held is 17: use a number at least 1 and at most 16"),
        (tiny_model, {"dimensions": [0]}, "dimensions in .*held is 0"),
        (tiny_model, {"layers": [3]}, "layers in .*held is 3: use a number at least 1 and at most 2"),
        (tiny_model, {"layers": [0]}, "layers in .*held is 0"),
        (static, {"layers": [1]}, "layers in .*held is 1"),
        (
            lambda: CrossEncoder.from_encoder(tiny_model().stack[0], tiny_model().tokenizer, "cls"),
            {"layers": [1]},
            "gives is 'scores', known are embeddings",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_sizes_that_a_model_has_not(model, given, words):
    with pytest.raises(ValueError, match=words):
        SizedEvaluation(entry(**given), search(), model())


def test_both_towers_end_behind_that_layer():
    model = two_towers()
    with first_layers(model, 1):
        assert [len(encoder.layers) for encoder in model.encoders] == [1, 1]


# ------------------------------------------------------------ what is shown


def test_the_table():
    given = entry(dimensions=[384, 32])
    after = {"held_384_x": 9.0, "held_384_cosine_ndcg@10": 0.8, "held_32_cosine_ndcg@10": 0.4}
    before = {"held_384_cosine_ndcg@10": 0.5, "held_32_cosine_ndcg@10": 0.1}
    lines = [
        f"            384 dimensions  0.5000 -> 0.8000 {'█' * 24}",
        f"{'32 dimensions':>26}  0.1000 -> 0.4000 {'█' * 12}",
    ]
    assert list(table(given, before, after)) == ["\ncosine_ndcg@10 of held", *lines]
    assert list(table(given, {}, after))[1:] == [line.replace(line[28:38], "") for line in lines]
    assert list(table(entry(), before, after)) == list(table(given, before, {})) == []
    nothing = {name: float("nan") for name in after}
    assert [line.strip() for line in table(given, {}, nothing)][1:] == ["384 dimensions  nan", "32 dimensions  nan"]


def test_the_table_of_layers_and_dimensions():
    given = entry(dimensions=[8, 4], layers=[2, 1])
    values = {f"{prefix}mrr@10": value for prefix, value in zip(sizes_of(given), (0.8, 0.4, 0.2, -1.0), strict=True)}
    assert [line.strip() for line in table(given, {}, values)] == [
        "mrr@10 of held",
        f"2 layers, 8 dimensions  0.8000 {'█' * 24}",
        f"2 layers, 4 dimensions  0.4000 {'█' * 12}",
        f"1 layers, 8 dimensions  0.2000 {'█' * 6}",
        "1 layers, 4 dimensions  -1.0000",
    ]
    shown = list(table(entry(layers=[2]), {}, {"held_2_layers_mse": 0.1, "held_2_layers_negative_mse": -0.1}))
    assert [line.split()[0] for line in shown] == ["negative_mse", "2"]  # whose ending in HEADLINES has a _
    assert list(table(entry(layers=[2]), {}, {"held_2_layers_mine": 0.5})) == []


# ------------------------------------------------------------ runs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"q": q, "d": d, "s": len(q) / 9} for q, d in ROWS])
    (tmp_path / "c.toml").write_text(CONFIG)
    mine = "from minist.evaluation import EmbeddingSimilarityEvaluator as E\n"
    mine += "class Mine(E):\n    def __init__(self, sentences1, sentences2, scores, name, note):\n        pass\n"
    (tmp_path / "mine.py").write_text(mine)
    return tmp_path


def run(*arguments, code=0):
    found, out, err = run_script("train.py", "--config", "c.toml", *arguments)
    assert found == code, err
    return out if code == 0 else err


def records(output="run"):
    lines = open(f"{output}/metrics.jsonl", encoding="utf-8").read().splitlines()  # noqa: SIM115
    return [record for record in map(json.loads, lines) if "held_spearman_cosine" in record]


def test_a_run_and_one_that_goes_on(folder):
    out = run()
    found = records()
    assert [record["step"] for record in found] == [0, 3, 6]  # before the first step, too
    cell = "{:.4f} -> {:.4f}".format(*(found[i]["held_1_layers_4_spearman_cosine"] for i in (0, 2)))
    shown = out.partition("\nspearman_cosine of held\n")[2].partition("\nsaved")[0]
    assert f"1 layers, 4 dimensions  {cell}" in shown and shown.count(" -> ") == 4
    assert "eval   held_spearman_cosine 0." in out and "held_2_layers" not in out
    page = (folder / "run/report.html").read_text()
    assert "run: spearman_cosine by dimensions</title>" in page and "1 layers, step 6</text>" in page

    shutil.rmtree("run/model")
    shutil.rmtree("run/checkpoint-6")
    again = run("--resume")
    assert records() == found and shown in again


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("eval.0.dimensions=[99]", "one of dimensions in [[eval]] held is 99"),
        ('eval.0.evaluator={name="EmbeddingSimilarityEvaluator", truncate_dim=4}', "an evaluator without truncate_dim"),
        ("eval.0.layers=[2.5]", "a list (a whole number each)"),
        ("eval.0.evaluator=mine.py:Mine", "an argument of its evaluator is 'truncate_dim', known are"),
    ],
)
def test_mistakes(folder, given, words):
    error = run("--set", given, code=2)
    assert words in error and error.count("\n") == 1
    assert not (folder / "run").exists()


def test_two_metrics_of_one_name():
    other = EvalConfig(name="held_4", evaluator={"name": "InformationRetrievalEvaluator"})
    with pytest.raises(ValueError, match=r"'held_4' names an .* and a size of another"):
        sized([entry(dimensions=[8, 4]), other], [search(), search()], tiny_model())
    assert len(sized([entry(dimensions=[8]), other], [search(), search()], tiny_model())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_two_ranks_are_one(folder, fsdp):
    low = ("--set", "train.lr=1e-3")
    run(*low, "--set", "output=one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "train.py"]
    command += ["--config", "c.toml", *low, "--set", "output=two", "--set", f"train.fsdp={fsdp}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for one, two in zip(records("one"), records("two"), strict=True):
        assert two == pytest.approx(one, abs=1e-4)
