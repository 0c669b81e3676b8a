"""encode.py with a cross-encoder: which columns are pairs, what is written, going on after a kill, what is refused."""

import csv
import json
import re
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_encode import ROOT, run
from tiny import run_script, sentences, tiny_model, write_jsonl
from torch import nn

from minist import CrossEncoder
from minist.data import texts
from minist.data.embedding_file import EmbeddingFile
from minist.data.texts import BLOCK_TEXTS

PAIRS = [*zip(sentences(20, seed=1), sentences(20, seed=2), strict=True), ("", "read"), ('say "sort"', "a,b")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Number of labels -> the folder of a model."""
    found = {}
    for n in (1, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = CrossEncoder(tiny_model().content(), num_labels=n)
        nn.init.normal_(model.head.classifier.weight, generator=torch.Generator().manual_seed(0))
        found[n] = tmp_path_factory.mktemp("models") / str(n)
        model.save(found[n])
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def encode(model, *arguments, output="out.npy"):
    code, printed, err = run_script("encode.py", *arguments, "--model", model, "--output", output)
    assert (code, err) == (0, "")
    return np.load(output) if output.endswith(".npy") else None, printed


def refusal(model, *arguments, output="out.npy"):
    code, _, err = run_script("encode.py", *arguments, "--model", model, "--output", output)
    assert code == 2 and err.count("\n") == 1
    assert not Path(output).exists()
    return err


def close(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


def table(file, rows):
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return file


def tsv(file, rows):
    Path(file).write_text("".join("\t".join(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("n", [1, 3])
def test_two_columns_without_a_header(models, here, n):
    found, printed = encode(models[n], tsv("pairs.tsv", PAIRS))
    close(found, CrossEncoder(models[n]).predict(PAIRS))
    assert found.shape == ((len(PAIRS),) if n == 1 else (len(PAIRS), 3))
    assert printed.startswith("pairs are the columns 0 and 1, without a header: the first line is a pair too\n")
    assert f"\n{len(PAIRS)} pairs, {n} scores of each, " in printed


@pytest.mark.parametrize("names", [("query", "document"), ("sentence1", "sentence2"), ("premise", "hypothesis")])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
def test_usual_names(models, here, names, kind):
    rows = [{"id": str(i), names[1]: b, names[0]: a} for i, (a, b) in enumerate(PAIRS)]
    if kind in ("csv", "tsv"):
        file = (table if kind == "csv" else tsv)(f"p.{kind}", [list(rows[0]), *(list(row.values()) for row in rows)])
    else:
        file = here / f"p.{kind}"
        write_jsonl(file, rows) if kind == "jsonl" else file.write_text(json.dumps(rows))
    found, printed = encode(models[1], file)
    close(found, CrossEncoder(models[1]).predict(PAIRS))
    assert printed.startswith(f"pairs are the columns {names[0]} and {names[1]}\n")


def test_columns_that_are_named(models, here):
    file = write_jsonl(here / "p.jsonl", [{"question": a, "answer": b, "other": "x"} for a, b in PAIRS])
    found, printed = encode(models[1], file, "--column", "other", "--field", "answer")
    close(found, CrossEncoder(models[1]).predict([("x", b) for _, b in PAIRS]))
    assert "pairs are" not in printed
    wide = tsv("p.tsv", [(b, "x", a) for a, b in PAIRS])
    close(
        encode(models[1], wide, "--column-number", 2, "--column-number", 0)[0], CrossEncoder(models[1]).predict(PAIRS)
    )


def test_other_outputs(models, here):
    file, expected = tsv("pairs.tsv", PAIRS), {n: CrossEncoder(models[n]).predict(PAIRS) for n in (1, 3)}
    encode(models[1], file, output="one.jsonl")
    close(np.float32([json.loads(line)["score"] for line in Path("one.jsonl").read_text().splitlines()]), expected[1])
    encode(models[3], file, output="three.jsonl")
    close(np.float32([json.loads(line)["score"] for line in Path("three.jsonl").read_text().splitlines()]), expected[3])
    encode(models[1], file, output="one.safetensors")
    close(load_file("one.safetensors")["scores"], expected[1])
    encode(models[3], file, output="three.safetensors")
    close(load_file("three.safetensors")["scores"], expected[3])


def test_prompts_and_lengths(models, here):
    found, printed = encode(models[1], tsv("pairs.tsv", PAIRS), "--prompt", "file ", "--max-length", 12)
    model = CrossEncoder(models[1], max_length=12)
    close(found, model.predict(PAIRS, prompt="file "))
    cut = model.read(PAIRS, "file ", None)[1]
    assert cut > 3 and f" {cut} cut at 12 tokens" in printed


def test_a_killed_run_goes_on(models, here):
    file, write = tsv("pairs.tsv", PAIRS), EmbeddingFile.write
    done = []

    def dies(self, block, first, rows, cut):
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        done.append(block)
        write(self, block, first, rows, cut)

    with mock.patch.object(texts, "BLOCK_TEXTS", 5):
        with mock.patch.object(EmbeddingFile, "write", dies):
            code, _, err = run_script("encode.py", file, "--model", models[1], "--output", "out.npy")
        assert code == 2 and "10 texts are done and kept" in err
        computed = []
        read = CrossEncoder.read
        with mock.patch.object(CrossEncoder, "read", lambda self, *a: computed.extend(a[0]) or read(self, *a)):
            found, _ = encode(models[1], file, "--resume")
    close(found, CrossEncoder(models[1]).predict(PAIRS))
    assert computed == PAIRS[10:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--normalize"], "--normalize is for embeddings, but .* gives scores"),
        (["--truncate-dim", 1], "--truncate-dim is for embeddings"),
        (["--precision", "int8"], "--precision of scores"),
        (["--role", "query"], "--role is for embeddings"),
        (["--column", "a"], "--column is given 1 times: once for texts, twice for pairs"),
    ],
)
def test_what_is_for_embeddings(models, here, options, message):
    assert re.search(message, refusal(models[1], tsv("pairs.tsv", PAIRS), *options))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2 * BLOCK_TEXTS + 77, 1])
def test_two_processes_make_the_file_of_one(models, here, count):
    firsts, seconds = (sentences(count, seed=seed) for seed in (3, 4))
    file, start = tsv("pairs.tsv", zip(firsts, seconds, strict=True)), [sys.executable, "-m", "torch.distributed.run"]
    for output, processes in (("one.npy", []), ("two.npy", [*start, "--nproc_per_node=2"])):
        arguments = [ROOT / "encode.py", file, "--model", models[3], "--output", output]
        done = run([*(processes or [sys.executable]), *arguments], OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    assert np.load("two.npy").shape == (count, 3)
    assert Path("two.npy").read_bytes() == Path("one.npy").read_bytes()


def test_files_without_pairs(models, here):
    Path("t.txt").write_text("a\n")
    assert "t.txt has no columns that can be looked at: name the two of a pair by --column, twice" in refusal(
        models[1], "t.txt"
    )
    assert "name the two of a pair by --column" in refusal(models[1], "-")
    wide = tsv("wide.tsv", [("a", "b", "c")])
    assert "wide.tsv has the columns a, b, c: name the two of a pair by --column, twice" in refusal(models[1], wide)
    other = write_jsonl(here / "o.jsonl", [{"a": "x", "b": "y"}])
    assert "o.jsonl has the columns a, b: name the two of a pair" in refusal(models[1], other)
    one = tsv("one.tsv", [("a",)])
    assert "one.tsv, row 1: there is no column 1" in refusal(models[1], one)
    bad = write_jsonl(here / "bad.jsonl", [{"query": "x", "document": "y"}, {"query": "x", "document": None}])
    assert "bad.jsonl, row 2: 'document' is null, but a text is wanted" in refusal(models[1], bad)
    Path("empty.tsv").write_text("")
    assert "empty.tsv is empty" in refusal(models[1], "empty.tsv")
    assert "there is no file none.tsv" in refusal(models[1], "none.tsv")
