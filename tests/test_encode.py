"""encode.py on inputs and outputs of all kinds, shared among processes, killed and resumed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import ROOT, run_script, sentences, tiny_model

from minist.models.sentence_transformer import CHUNK, SentenceTransformer
from minist.quantization import find_ranges, quantize

TEXTS = [*sentences(40, seed=3), "", "a,b", 'say "read"', "  sort  "]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = tiny_model()
    model.prompts |= {"query": "find: ", "topic": "sort: "}
    folder = tmp_path_factory.mktemp("saved") / "m"
    model.save(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("".join(text + "\n" for text in TEXTS))
    return tmp_path


def encode(saved, *arguments, output="out.npy"):
    """Runs encode.py here, which must succeed: the result, and what was printed."""
    code, printed, err = run_script("encode.py", *arguments, "--model", saved, "--output", output)
    assert (code, err) == (0, "")
    return np.load(output) if output.endswith(".npy") else None, printed


def check_close(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- inputs


def test_lines(saved, here):
    found, printed = encode(saved, "t.txt")
    check_close(found, SentenceTransformer(saved).encode(TEXTS))
    assert printed.startswith(f"{len(TEXTS)} texts, 16 dimensions, ")
    assert printed.endswith(" s, none cut, in out.npy\n")
    assert sorted(path.name for path in here.iterdir()) == ["out.npy", "t.txt"]


def test_says_how_many_were_cut(saved, here):
    Path("t.txt").write_text("read file\n" + "sort list " * 40 + "\n")
    assert "1 cut at 32 tokens" in encode(saved, "t.txt")[1]


def test_several_files_in_order(saved, here):
    with gzip.open("more.txt.gz", "wt") as stream:
        stream.write("socket\r\nkey")
    found, _ = encode(saved, "more.txt.gz", "t.txt")
    check_close(found, SentenceTransformer(saved).encode(["socket", "key", *TEXTS]))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_jsonl(saved, here, suffix):
    lines = "".join(json.dumps({"n": 1, "body": text}) + "\n" for text in TEXTS).encode()
    Path(f"t.jsonl{suffix}").write_bytes(gzip.compress(lines) if suffix else lines)
    check_close(encode(saved, f"t.jsonl{suffix}", "--field", "body")[0], SentenceTransformer(saved).encode(TEXTS))


def test_csv(saved, here):
    Path("t.csv").write_text('n,text\n1,"read, sort"\n2,"two\nlines"\n')
    check_close(
        encode(saved, "t.csv", "--column", "text")[0], SentenceTransformer(saved).encode(["read, sort", "two\nlines"])
    )


def test_parquet(saved, here):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": TEXTS}), "t.parquet")
    check_close(encode(saved, "t.parquet", "--column", "text")[0], SentenceTransformer(saved).encode(TEXTS))


def test_standard_input(saved, here):
    command = [sys.executable, ROOT / "encode.py", "-", "--model", saved, "--output", "out.npy"]
    subprocess.run(command, input=Path("t.txt").read_bytes(), check=True, cwd=here)
    check_close(np.load("out.npy"), SentenceTransformer(saved).encode(TEXTS))


# ---------------------------------------------------------------- options


def test_options_are_those_of_the_model(saved, here):
    model = SentenceTransformer(saved)
    for options, expected in [
        (["--prompt", "key: "], model.encode(TEXTS, prompt="key: ")),
        (["--prompt-name", "topic"], model.encode(TEXTS, prompt_name="topic")),
        (["--role", "query"], model.encode_query(TEXTS)),
        (["--truncate-dim", "5", "--normalize"], model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)),
        (["--keep-layers", "1"], SentenceTransformer(saved, keep_layers=[1]).encode(TEXTS)),
        (["--precision", "ubinary"], model.encode(TEXTS, precision="ubinary")),
        (["--batch-tokens", "20"], model.encode(TEXTS)),
    ]:
        check_close(encode(saved, "t.txt", *options)[0], expected)


def test_dtype_auto_says_what_it_took(saved, here):
    _, printed = encode(saved, "t.txt", "--dtype", "auto")
    assert printed.startswith("--dtype auto: ")
    assert "float" in printed.splitlines()[0]


def test_int8_finds_ranges_and_uses_them_again(saved, here):
    rows = SentenceTransformer(saved).encode(TEXTS)
    found, printed = encode(saved, "t.txt", "--precision", "int8")
    ranges = np.load("out.ranges.npy")
    check_close(ranges, find_ranges(rows))
    assert "out.ranges.npy" in printed
    assert found.dtype == np.int8
    assert np.abs(found.astype(int) - quantize(rows, "int8")).max() <= 1  # a last bit may cross a step
    Path("t.txt").write_text("read file\n")
    found, _ = encode(saved, "t.txt", "--precision", "uint8", "--ranges", "out.ranges.npy", output="q.npy")
    wanted = SentenceTransformer(saved).encode(["read file"], precision="uint8", ranges=ranges)
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("precision", ["float32", "uint8", "binary"])
def test_other_formats_hold_the_same(saved, here, precision):
    wanted, _ = encode(saved, "t.txt", "--precision", precision)
    encode(saved, "t.txt", "--precision", precision, output="out.safetensors")
    found = load_file("out.safetensors")
    assert list(found) == ["embeddings"]
    assert np.array_equal(found["embeddings"], wanted)
    encode(saved, "t.txt", "--precision", precision, output="out.jsonl")
    rows = [json.loads(line)["embedding"] for line in Path("out.jsonl").read_text().splitlines()]
    assert np.array_equal(np.array(rows, wanted.dtype), wanted)


# ---------------------------------------------------------------- many texts


@pytest.fixture
def many(here):
    """Texts for several blocks, the last one not full."""
    texts = [f"{text} {i}" for i, text in enumerate(sentences(3 * CHUNK + 77, seed=9))]
    Path("t.txt").write_text("".join(text + "\n" for text in texts))
    return texts


def command(saved, *arguments):
    return [sys.executable, ROOT / "encode.py", "t.txt", "--model", saved, "--output", "out.npy", *arguments]


def run(arguments, **environment):
    return subprocess.run(arguments, capture_output=True, text=True, env=os.environ | environment)


def test_two_processes_make_one_result(saved, many):
    wanted = encode(saved, "t.txt")[0]
    done = run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *command(saved)[1:]])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{len(many)} texts, ")
    check_close(np.load("out.npy"), wanted)


def test_more_processes_than_texts(saved, here):
    Path("t.txt").write_text("sort\n")
    done = run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *command(saved)[1:]])
    assert done.returncode == 0, done.stderr
    check_close(np.load("out.npy"), SentenceTransformer(saved).encode(["sort"]))


def test_killed_and_resumed(saved, many):
    wanted = encode(saved, "t.txt", output="whole.npy")[0]
    progress = Path(".out.npy.unfinished/done.json")
    with subprocess.Popen(command(saved)) as running:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (progress.exists() and json.loads(progress.read_text())["blocks"]):
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert 0 < json.loads(progress.read_text())["blocks"] < 4
    assert not Path("out.npy").exists()
    refused = run(command(saved, "--resume", "--normalize"))
    assert refused.returncode == 2
    assert "--resume: normalize is true, but out.npy was begun with false" in refused.stderr
    assert run(command(saved, "--resume")).returncode == 0
    assert Path("out.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert np.array_equal(np.load("out.npy"), wanted)
    assert not progress.parent.exists()


def test_interrupted_keeps_what_is_done(saved, many):
    progress = Path(".out.npy.unfinished/done.json")
    # a shell starts its background jobs deaf to SIGINT, and children inherit that: hear it again
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command(saved), stderr=subprocess.PIPE, text=True, preexec_fn=hear) as running:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (progress.exists() and json.loads(progress.read_text())["blocks"]):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "texts are done and kept: --resume goes on from there" in err
    assert err.endswith("interrupted\n")
    assert progress.exists()


def test_started_again_without_resume(saved, many):
    Path(".out.npy.unfinished").mkdir()
    Path(".out.npy.unfinished/done.json").write_text('{"blocks": 2, "rows": 5, "cut": 0}')
    found, _ = encode(saved, "t.txt")
    assert len(found) == len(many)
