"""What a person can do wrong ends as one line and exit code 2, with nothing left behind."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, tiny_model, write_jsonl

from minist.cli import describe
from minist.modules.dense import Dense


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a prompt and a dense layer, saved once."""
    model = tiny_model()
    model.prompts["topic"] = "sort: "
    model.stack.append(Dense(16, 8))
    folder = tmp_path_factory.mktemp("saved") / "m"
    model.save(folder)
    return folder


@pytest.fixture
def folder(tmp_path, saved, monkeypatch):
    """A working directory with a model of its own to break, texts, rows and a config."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, tmp_path / "m")
    (tmp_path / "t.txt").write_text("read file\nsort list\n")
    rows = [{"q": text, "d": f"{text} list"} for text in sentences(12, seed=1)]
    write_jsonl(tmp_path / "d.jsonl", rows)
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


CONFIG = f"""
output = "run"
{FROM_SCRATCH}
[[data]]
files = ["d.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
loss = {{ name = "MultipleNegativesRankingLoss", scale = 20.0 }}
[train]
batch_size = 4
max_steps = 2
"""
EVALUATION = """
[[eval]]
evaluator = "{}"
files = ["e.jsonl"]
columns = {{ text1 = "a", text2 = "b", score = "s" }}
"""


def check_refusal(result, words, wanted=2):
    """One line on standard error with all of `words`, and an exit code."""
    code, _, err = result
    assert err.startswith("error: "), err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert code == wanted
    missing = [word for word in words if word not in err]
    assert not missing, f"{missing} not in {err}"


def partial_files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.partial"))


# ---------------------------------------------------------------- encode.py


def edit(file, **changes):
    Path(file).write_text(json.dumps(json.loads(Path(file).read_text()) | changes))


def change_modules(number, **changes):
    modules = json.loads(Path("m/modules.json").read_text())
    modules[number] |= changes
    Path("m/modules.json").write_text(json.dumps(modules))


def change_weights(change, file="m/model.safetensors"):
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def replace_weights(content):
    """Old weights instead of safetensors: raw bytes, or anything torch can save."""
    Path("m/model.safetensors").unlink()
    if isinstance(content, bytes):
        Path("m/pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, "m/pytorch_model.bin")


def shrink_vocabulary():
    """The tokenizer knows more tokens than the encoder has rows."""
    edit("m/config.json", vocab_size=6)
    change_weights(lambda w: w.update({WORD: w[WORD][:6].clone()}))


def begun():
    """A run that was killed before its first block was complete."""
    with (
        mock.patch("minist.models.sentence_transformer.SentenceTransformer.embed", side_effect=SystemExit),
        mock.patch("minist.data.embedding_file.EmbeddingFile.discard", lambda file: None),
    ):
        run_script("encode.py", "t.txt", "--model", "m", "--output", "out.npy")


def finished_before():
    """The output is complete, and then an input was changed."""
    run_script("encode.py", "t.txt", "--model", "m", "--output", "out.npy")
    Path("t.txt").write_text("a\nb\n")


def named(name):
    """The input has this name instead."""

    def rename():
        INPUT[0] = name
        return Path(name)

    return rename


def shards():
    """An index of shards that are not there."""
    Path("m/model.safetensors").unlink()
    index = {"weight_map": {WORD: "model-00001-of-00002.safetensors"}}
    Path("m/model.safetensors.index.json").write_text(json.dumps(index))


INPUT = ["t.txt"]
WORD, KEY = "embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.key.weight"
# name: (what to break, arguments that are added, words of the message)
ENCODE = {
    "no input": (lambda: Path("t.txt").unlink(), (), ["there is no file t.txt"]),
    "empty input": (lambda: Path("t.txt").write_text(""), (), ["t.txt is empty"]),
    "input is a folder": (lambda: (Path("t.txt").unlink(), Path("t.txt").mkdir()), (), ["t.txt is not a file"]),
    "input is not UTF-8": (lambda: Path("t.txt").write_bytes(b"a\nb\n\xff\n"), (), ["t.txt, line 3 is not UTF-8"]),
    "no model": (lambda: shutil.rmtree("m"), (), ["there is no folder m", "offline mode is enabled"]),
    "no model at a path": (lambda: None, ("--model", "runs/x/model"), ["there is no folder 'runs/x/model'"]),
    "revision of a folder": (lambda: None, ("--revision", "main"), ["which has no revision 'main'"]),
    "model is a file": (lambda: (shutil.rmtree("m"), Path("m").touch()), (), ["m is not a folder"]),
    "folder without a model": (lambda: (shutil.rmtree("m"), Path("m").mkdir()), (), ["m is not a model"]),
    "broken config.json": (lambda: Path("m/config.json").write_text('{"a":'), (), ["m/config.json is not JSON"]),
    "config.json is a list": (lambda: Path("m/config.json").write_text("[]"), (), ["config.json"]),
    "no config.json": (lambda: Path("m/config.json").unlink(), (), ["m/config.json"]),
    "unknown model_type": (
        lambda: edit("m/config.json", model_type="gpt"), (), ["model_type is 'gpt', known are bert, mpnet, roberta"]
    ),
    "no model_type": (lambda: edit("m/config.json", model_type=None), (), ["model_type is None"]),
    "text for a number": (lambda: edit("m/config.json", hidden_size="16"), (), ["config.json", "hidden_size"]),
    "heads do not divide": (lambda: edit("m/config.json", num_attention_heads=3), (), ["16", "3"]),
    "unknown hidden_act": (lambda: edit("m/config.json", hidden_act="sine"), (), ["'sine', known are gelu"]),
    "broken modules.json": (lambda: Path("m/modules.json").write_text("[{"), (), ["m/modules.json is not JSON"]),
    "empty modules.json": (lambda: Path("m/modules.json").write_text("[]"), (), ["m/modules.json"]),
    "module without a type": (lambda: Path("m/modules.json").write_text('[{"path": ""}]'), (), ["modules.json"]),
    "unknown module": (
        lambda: change_modules(1, type="a.b.WordWeights"), (), ["'WordWeights', known are Transformer"]
    ),
    "first module is no encoder": (
        lambda: change_modules(0, type="sentence_transformers.models.Normalize"), (), ["modules.json"]
    ),
    "path leaves the folder": (lambda: change_modules(1, path="../x"), (), ["'../x', which leaves the model folder"]),
    "no pooling folder": (lambda: shutil.rmtree("m/1_Pooling"), (), ["m/1_Pooling/config.json"]),
    "pooling without a width": (
        lambda: Path("m/1_Pooling/config.json").write_text("{}"), (), ["1_Pooling", "word_embedding_dimension"]
    ),
    "no weights": (lambda: Path("m/model.safetensors").unlink(), (), ["m: no weights: neither model.safetensors"]),
    "damaged weights": (
        lambda: Path("m/model.safetensors").write_bytes(Path("m/model.safetensors").read_bytes()[:999]),
        (),
        ["m: the weights are damaged"],
    ),
    "damaged old weights": (lambda: replace_weights(b"not a pickle"), (), ["m: the weights are damaged"]),
    "empty old weights": (lambda: replace_weights(b""), (), ["m: the weights are damaged"]),
    "old weights are a list": (lambda: replace_weights([torch.ones(2)]), (), ["the weights are"]),
    "weight of the wrong shape": (
        lambda: change_weights(lambda w: w.update({KEY: torch.ones(16, 15)})), (), [KEY, "[16, 15]", "[16, 16]"]
    ),
    "weight is missing": (lambda: change_weights(lambda w: w.pop(KEY)), (), [KEY, "is missing"]),
    "weight too many": (
        lambda: change_weights(lambda w: w.update({"encoder.layer.7.x.weight": torch.ones(2)})),
        (),
        ["holds encoder.layer.7.x.weight"],
    ),
    "dense weight too many": (
        lambda: change_weights(lambda w: w.update(other=torch.ones(2)), "m/2_Dense/model.safetensors"),
        (),
        ["m/2_Dense", "other"],
    ),
    "dense weights are missing": (lambda: Path("m/2_Dense/model.safetensors").unlink(), (), ["no weights"]),
    "no tokenizer.json": (lambda: Path("m/tokenizer.json").unlink(), (), ["m has no tokenizer.json"]),
    "broken tokenizer.json": (lambda: Path("m/tokenizer.json").write_text("{"), (), ["is not a tokenizer.json"]),
    "tokenizer of a larger vocabulary": (shrink_vocabulary, (), ["token", "6"]),
    "no room for text": (
        lambda: edit("m/sentence_bert_config.json", max_seq_length=2), (), ["max_length", "is 2: use a number at least"]
    ),
    "output is no .npy": (lambda: None, ("--output", "out.txt"), ["--output is out.txt", "end in .npy, .safetensors"]),
    "output below a file": (lambda: None, ("--output", "t.txt/out.npy"), ["t.txt"]),
    "output is a folder": (lambda: Path("out.npy").mkdir(), (), ["out.npy"]),
    "unknown prompt": (lambda: None, ("--prompt-name", "x"), ["prompt name is 'x', known are query, document, topic"]),
    "truncate-dim too large": (lambda: None, ("--truncate-dim", "9"), ["--truncate-dim is 9", "at most 8"]),
    "truncate-dim 0": (lambda: None, ("--truncate-dim", "0"), ["--truncate-dim is 0: use a number at least 1"]),
    "unknown dtype": (lambda: None, ("--dtype", "int3"), ["dtype is 'int3', known are float32, bfloat16"]),
    "unknown device": (lambda: None, ("--device", "toaster"), ["device is 'toaster'"]),
    "a device without numbers": (lambda: None, ("--device", "meta"), ["device is 'meta'"]),
    "no such layer": (lambda: None, ("--keep-layers", "0,2"), ["keep_layers", "[0, 2]", "0 to 1"]),
    "layers are no numbers": (lambda: None, ("--keep-layers", "first"), ["--keep-layers is 'first'", "0,1,2"]),
    "ranges of floats": (lambda: None, ("--ranges", "r.npy"), ["--ranges is for int8 and uint8"]),
    "no ranges file": (lambda: None, ("--precision", "int8", "--ranges", "r.npy"), ["there is no file r.npy"]),
    "ranges of another width": (
        lambda: np.save("r.npy", np.zeros((2, 5))), ("--precision", "int8", "--ranges", "r.npy"), ["[2, 5]", "[2, 8]"]
    ),
    "ranges are no .npy": (
        lambda: Path("r.npy").write_text("x"), ("--precision", "int8", "--ranges", "r.npy"), ["r.npy is not a .npy"]
    ),
    "int8 of one text": (lambda: Path("t.txt").write_text("a\n"), ("--precision", "int8"), ["the number of texts"]),
    "resume of standard input": (lambda: None, ("-", "--resume"), ["standard input is read once"]),
    "resume with other settings": (begun, ("--resume", "--normalize"), ["--resume: normalize is true", "with false"]),
    "resume with another file": (finished_before, ("--resume",), ["--resume: inputs is", "t.txt"]),
    "ranges are an .npz": (
        lambda: np.savez("r.npz", np.zeros((2, 8))),
        ("--precision", "int8", "--ranges", "r.npz"),
        ["r.npz is an .npz, several arrays"],
    ),
    "input is the model folder": (named("m"), (), ["m is not a file, but one is wanted"]),
    "input is a pipe": (lambda: os.mkfifo(named("p.txt")()), (), ["p.txt is not a file, but one is wanted"]),
    "text of many columns": (
        lambda: named("d.csv")().write_text(",".join(f"c{i}" for i in range(3000)) + "\n" + "," * 2999 + "\n"),
        ("--column", "c17x"),
        ["no column 'c17x', it has c17", "and 2,970 more"],
    ),
    "two columns of one name": (
        lambda: named("d.csv")().write_text("q,q\na,b\n"), ("--column", "q"), ["2 columns are called 'q'"]
    ),
    "no format": (lambda: None, ("--format", "tsv"), ["t.txt is read as tsv, which has columns: name the one"]),
    "max-length too small": (lambda: None, ("--max-length", "1"), ["max_length"]),
    "jsonl without a field": (lambda: None, ("d.jsonl",), ["d.jsonl is read as jsonl, which has columns"]),
    "unknown field": (named("d.jsonl"), ("--field", "text"), ["row 1: there is no column 'text', it has q, d"]),
    "field is no text": (
        lambda: write_jsonl(named("d.jsonl")(), [{"q": "a"}, {"q": 3}]), ("--field", "q"), ["d.jsonl, row 2: 'q' is 3"]
    ),
    "jsonl is broken": (
        lambda: named("d.jsonl")().write_text('{"q": "a"}\n{"q"\n'), ("--field", "q"), ["d.jsonl, line 2 is not JSON"]
    ),
    "csv without a column": (lambda: named("d.csv")().write_text("q\na\n"), (), ["is read as csv, which has columns"]),
    "unknown column": (lambda: named("d.csv")().write_text("q\na\n"), ("--column", "x"), ["no column 'x', it has q"]),
    "column of lines": (lambda: None, ("--column", "q"), ["t.txt is read as txt, which has no columns"]),
    "field of lines": (lambda: None, ("--field", "q"), ["t.txt is read as txt, which has no columns"]),
    "damaged gzip": (
        lambda: named("t.gz")().write_bytes(gzip.compress(b"read\n" * 99)[:-9]), (), ["t.gz", "data is damaged"]
    ),
    "no parquet": (lambda: named("d.parquet")().write_text("x"), ("--column", "q"), ["d.parquet"]),
    "missing shard": (shards, (), ["No such file or directory: m/model-00001-of-00002.safetensors"]),
    "negative batch-tokens": (lambda: None, ("--batch-tokens", "-1"), ["--batch-tokens is -1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ENCODE)
def test_encode(folder, case):
    damage, extra, words = ENCODE[case]
    INPUT[0] = "t.txt"
    damage()
    before = sorted(folder.rglob("*"))
    check_refusal(run_script("encode.py", "--model", "m", "--output", "out.npy", INPUT[0], *extra), words)
    assert sorted(folder.rglob("*")) == before


def test_the_folder_is_sound_before_it_is_damaged(folder):
    code, out, err = run_script("encode.py", "t.txt", "--model", "m", "--output", "out.npy")
    assert (code, err) == (0, "")
    assert "2 texts, 8 dimensions" in out


def test_a_failure_keeps_the_old_output(folder):
    (folder / "out.npy").write_bytes(b"old")
    run_script("encode.py", "t.txt", "--model", "none", "--output", "out.npy")
    assert (folder / "out.npy").read_bytes() == b"old"


# ---------------------------------------------------------------- train.py


def replace(old, new):
    text = Path("c.toml").read_text()
    assert old in text
    Path("c.toml").write_text(text.replace(old, new, 1))


def append(text):
    Path("c.toml").write_text(Path("c.toml").read_text() + text)


def add_evaluation(row, name="EmbeddingSimilarityEvaluator"):
    append(EVALUATION.format(name))
    write_jsonl(Path("e.jsonl"), [{"a": "x", "b": "y", "s": 1.0}, row])


def use_csv(text):
    Path("d.csv").write_text(text)
    replace("d.jsonl", "d.csv")


def rows_with(line):
    lines = Path("d.jsonl").read_text().splitlines()
    Path("d.jsonl").write_text("\n".join([*lines[:5], line, *lines[5:]]) + "\n")


def a_folder_of_mine():
    Path("run").mkdir()
    Path("run/thesis.tex").write_text("years of work")


TRAIN = {
    "no config": (lambda: Path("c.toml").unlink(), (), ["there is no config file c.toml"]),
    "broken TOML": (lambda: replace("[train]", "[train"), (), ["c.toml is not TOML", "line"]),
    "unknown key": (lambda: replace("batch_size", "batchsize"), (), ["no key 'batchsize'", "nearest is 'batch_size'"]),
    "wrong type": (lambda: replace("batch_size = 4", 'batch_size = "4"'), (), ["batch_size", "a whole number", "'4'"]),
    "unknown table": (lambda: append("[trian]\nx = 1\n"), (), ["no key 'trian'", "nearest is 'train'"]),
    "unknown loss": (
        lambda: replace('"Multiple', '"Many'),
        (),
        ["'ManyNegativesRankingLoss', known are", "MultipleNegativesRankingLoss"],
    ),
    "loss is a number": (
        lambda: replace('name = "MultipleNegativesRankingLoss"', "name = 3"), (), ["loss in [[data]] train is 3"]
    ),
    "unknown loss argument": (
        lambda: replace("scale", "scael"), (), ["of MultipleNegativesRankingLoss is 'scael', known are scale"]
    ),
    "loss argument of the wrong type": (lambda: replace("20.0", '"high"'), (), ["scale", "high"]),
    "loss argument of no sense": (lambda: replace("20.0", "-1.0"), (), ["scale is -1.0"]),
    "loss file without a part": (
        lambda: (Path("mine.py").write_text("class A:\n    def __init__(self, x): ...\n"),
                 replace('"MultipleNegativesRankingLoss", scale = 20.0', '"mine.py:A"')),
        (),
        ["mine.py:A", "'x'"],
    ),
    "unknown sampler": (
        lambda: replace("[train]", 'sampler = "sorted"\n[train]'), (), ["'sorted', known are shuffled, no_duplicates"]
    ),
    "unknown source": (
        lambda: replace('files = ["d.jsonl"]', 'source = "wiki"'), (), ["source is 'wiki', known are python_docs"]
    ),
    "unknown evaluator": (
        lambda: add_evaluation({}, "Judge"), (), ["'Judge', known are", "InformationRetrievalEvaluator"]
    ),
    "columns of another evaluator": (
        lambda: add_evaluation({}, "InformationRetrievalEvaluator"), (), ["takes query, document"]
    ),
    "score is no number": (
        lambda: add_evaluation({"a": "x", "b": "y", "s": "high"}), (), ["e.jsonl, row 2: 's' is \"high\""]
    ),
    "score is missing": (lambda: add_evaluation({"a": "x", "b": "y"}), (), ["row 2: there is no column 's'"]),
    "no evaluation file": (lambda: append(EVALUATION.format("EmbeddingSimilarityEvaluator")), (), ["no file e.jsonl"]),
    "no data file": (lambda: Path("d.jsonl").unlink(), (), ["there is no file d.jsonl"]),
    "empty data file": (lambda: Path("d.jsonl").write_text(""), (), ["d.jsonl is empty"]),
    "wrong column": (lambda: replace('"d" }', '"doc" }'), (), ["row 1: there is no column 'doc', it has q, d"]),
    "one column": (lambda: replace(', positive = "d"', ""), (), ["takes anchor, positive", "got 1 column"]),
    "no columns": (lambda: replace('anchor = "q", positive = "d"', ""), (), ["columns"]),
    "corrupt line": (lambda: rows_with('{"q": "x", "d":'), (), ["d.jsonl, line 6 is not JSON"]),
    "half a character": (lambda: rows_with('{"q": "x", "d": "\\ud800"}'), (), ["d.jsonl, row 6"]),
    "data is not UTF-8": (lambda: Path("d.jsonl").write_bytes(b'{"q": "\xff"}'), (), ["d.jsonl, line 1 is not UTF-8"]),
    "missing cell": (lambda: use_csv("q,d\na,b\nc\n"), (), ["d.csv, line 3: the row has 1 cells, not 2"]),
    "text is a number": (lambda: rows_with('{"q": "x", "d": 3}'), (), ["row 6: 'd' is 3, but a text is wanted"]),
    "unknown ending": (
        lambda: (Path("d.xml").touch(), replace("d.jsonl", "d.xml")), (), ["its ending is .xml, known are .jsonl"]
    ),
    "path and encoder": (
        lambda: replace("[model.encoder]", '[model]\npath = "m"\n[model.encoder]'), (), ["give one of them"]
    ),
    "no model at path": (lambda: Path("c.toml").write_text(
        CONFIG[: CONFIG.index("[model.enc")] + '[model]\npath = "none"\n' + CONFIG[CONFIG.index("[[data"):]
    ), (), ["there is no folder none"]),
    "keep_layers of a new model": (
        lambda: None, ("--set", "model.keep_layers=[0]"), ["pca and twins in [model] belong to a model"]
    ),
    "keep_layers that are not there": (lambda: Path("c.toml").write_text(
        CONFIG[: CONFIG.index("[model.enc")] + '[model]\npath = "m"\n' + CONFIG[CONFIG.index("[[data"):]
    ), ("--set", "model.keep_layers=[7]"), ["keep_layers: given are [7], allowed are rising numbers from 0 to 1"]),
    "unknown encoder key": (
        lambda: replace("hidden_size", "hidden_sizes"), (), ["[model.encoder] has no key 'hidden_sizes'"]
    ),
    "unknown encoder": (lambda: replace('"bert"', '"gpt"'), (), ["model_type", "'gpt', known are bert, mpnet"]),
    "heads do not divide the width": (
        lambda: replace("num_attention_heads = 2", "num_attention_heads = 3"), (), ["16 is no multiple of"]
    ),
    "no heads": (lambda: replace("num_attention_heads = 2", "num_attention_heads = 0"), (), ["num_attention_heads"]),
    "width is a text": (lambda: replace("hidden_size = 16", 'hidden_size = "16"'), (), ["hidden_size", "'16'"]),
    "negative vocabulary": (lambda: replace("vocab_size = 200", "vocab_size = -1"), (), ["vocab_size", "-1"]),
    "texts too long for the encoder": (lambda: replace("max_length = 32", "max_length = 99"), (), ["is 99", "34"]),
    "unknown type": (lambda: append('[model]\ntype = "Other"\n'), (), ["type in [model] is 'Other', known are "]),
    "unknown pooling": (
        lambda: replace("[[data]]", '[model.pooling]\nmode = "median"\n[[data]]'), (), ["'median', known are cls"]
    ),
    "dropout above 1": (lambda: None, ("--set", "train.dropout=1.5"), ["dropout", "1.5"]),
    "attention dropout above 1": (lambda: None, ("--set", "train.attention_dropout=1.5"), ["attention_dropout", "1.5"]),
    "run exists": (lambda: Path("run").mkdir(), (), ["run exists", "--resume", "--overwrite"]),
    "run is a file": (lambda: Path("run").touch(), ("--overwrite",), ["run has no config.toml"]),
    "overwrite what is no run": (a_folder_of_mine, ("--overwrite",), ["so it is no run and is not deleted"]),
    "nothing to resume": (lambda: None, ("--resume",), ["run has no checkpoint to resume from"]),
    "set without =": (lambda: None, ("--set", "train.lr"), ["--set train.lr: write key=value"]),
    "set an unknown key": (lambda: None, ("--set", "train.rate=1"), ["[train] has no key 'rate'"]),
    "set below a value": (lambda: None, ("--set", "output.a.b=1"), ["--set output.a.b=1"]),
    "too few rows": (
        lambda: replace("batch_size = 4", "batch_size = 99\ndrop_last = true"), (), ["no batch is full", "drop_last"]
    ),
    "expectation is a text": (lambda: append('[expect]\n"loss" = "low"\n'), (), ["expect", "loss"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAIN)
def test_train(folder, case):
    damage, extra, words = TRAIN[case]
    damage()
    before = sorted(folder.rglob("*"))
    check_refusal(run_script("train.py", "--config", "c.toml", *extra), words)
    after = [path for path in sorted(folder.rglob("*")) if "cache" not in path.relative_to(folder).parts]
    assert [path for path in after if path.name != "__pycache__" and path.suffix != ".pyc"] == before
    assert partial_files(folder) == []


def test_expectation_not_reached(folder):
    """The run is done and stays; its exit code is the news."""
    add_evaluation({"a": "read", "b": "file", "s": 0.0})
    append("[expect]\n'eval_spearman_cosine' = 2.0\n")
    result = run_script("train.py", "--config", "c.toml")
    check_refusal(result, ["the run reached eval_spearman_cosine = ", "expected at least 2"], 1)
    assert (folder / "run/model/modules.json").exists()


def test_expectation_of_a_metric_that_nobody_measures(folder):
    """Said before the first step, with nothing left that would block the corrected start."""
    append("[expect]\n'ndcg' = 0.5\n")
    check_refusal(run_script("train.py", "--config", "c.toml"), ["[expect] name metrics", "no [[eval]] entry"])
    add_evaluation({"a": "read", "b": "file", "s": 0.0})
    words = ["a metric in [expect] is 'ndcg', known are eval_pearson_cosine, eval_spearman_cosine"]
    check_refusal(run_script("train.py", "--config", "c.toml"), words)
    assert not (folder / "run").exists()


# ---------------------------------------------------------------- the machine


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of a few KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True
        ).returncode:
            pytest.skip("mounting needs root")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", "--lazy", disk], check=True)  # a memory map may still hold a file there


def process(script, *arguments):
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


@pytest.mark.slow
def test_encode_on_a_full_disk(folder, small_disk):
    """In a process of its own: a memory map on a full disk ends the process by a signal."""
    disk = small_disk("64k")
    (folder / "t.txt").write_text("read file\n" * 5000)
    done = subprocess.run(
        process("encode.py", "t.txt", "--model", "m", "--output", disk / "out.npy"), capture_output=True, text=True
    )
    check_refusal((done.returncode, done.stdout, done.stderr), ["No space left on device"])
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "full"), [("4k", "the token streams"), ("64k", "the model"), ("1200k", "the optimizer")]
)
def test_train_on_a_full_disk(folder, small_disk, size, full):
    """The run, with its token streams beside it, is on a disk that has no room for one of its parts."""
    disk = small_disk(size)
    if full != "the token streams":
        replace("intermediate_size = 24", "intermediate_size = 2048")
    extra = ("--set", f"output={disk}/run", "--set", "train.save_every=1")
    check_refusal(run_script("train.py", "--config", "c.toml", *extra), ["o space left on device"])
    assert partial_files(disk) == []
    assert not (disk / "run/model").exists()
    assert not (disk / "run/checkpoint-1").exists()


def test_a_folder_that_cannot_be_written(folder, small_disk):
    disk = small_disk("64k")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    result = run_script("encode.py", "t.txt", "--model", "m", "--output", disk / "out.npy")
    check_refusal(result, ["Read-only file system"])
    check_refusal(
        run_script("train.py", "--config", "c.toml", "--set", f"output={disk}/run"), ["Read-only file system"]
    )


@pytest.mark.slow
def test_interrupted_while_writing(folder):
    (folder / "t.txt").write_text("read file sort list\n" * 200_000)
    command = process("encode.py", "t.txt", "--model", "m", "--output", "out.npy", "--batch-tokens", "64")
    # a shell starts its background jobs deaf to SIGINT, and children inherit that: hear it again
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear) as running:
        deadline = time.monotonic() + 60
        unfinished = folder / ".out.npy.unfinished"
        while not unfinished.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert unfinished.exists()
        running.send_signal(signal.SIGINT)
        try:
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert err == "interrupted\n"
    assert not (folder / "out.npy").exists()
    assert not unfinished.exists()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["encode.py", "train.py"])
def test_debug_shows_the_traceback(folder, script):
    arguments = {
        "encode.py": ("none.txt", "--model", "m", "--output", "out.npy"),
        "train.py": ("--config", "none.toml"),
    }[script]
    with pytest.raises(ValueError, match="there is no"):
        run_script(script, *arguments, "--debug")
    done = subprocess.run(process(script, *arguments), capture_output=True, text=True)
    check_refusal((done.returncode, done.stdout, done.stderr), ["there is no"])


def test_describe():
    assert describe(FileNotFoundError(2, "No such file or directory", "x/y")) == "x/y: No such file or directory"
    assert describe(OSError(28, "No space left on device")) == "No space left on device"
    assert describe(ValueError("two\n  lines")) == "two lines"
