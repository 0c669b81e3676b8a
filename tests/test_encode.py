"""encode.py on inputs and outputs of all kinds, shared among processes, killed and resumed."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import ROOT, run_script, sentences, tiny_model

from minist.data.embedding_file import EmbeddingFile
from minist.data.texts import BLOCK_TEXTS
from minist.models import device as device_file
from minist.models.sentence_transformer import SentenceTransformer
from minist.quantization import merge_ranges, quantize

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
    assert sorted(path.name for path in here.iterdir()) == [".out.npy.finished.json", "out.npy", "t.txt"]


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


@pytest.mark.slow
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
    check_close(ranges, merge_ranges([rows]))
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
    texts = [f"{text} {i}" for i, text in enumerate(sentences(3 * BLOCK_TEXTS + 77, seed=9))]
    Path("t.txt").write_text("".join(text + "\n" for text in texts))
    return texts


def command(saved, *arguments):
    return [sys.executable, ROOT / "encode.py", "t.txt", "--model", saved, "--output", "out.npy", *arguments]


def run(arguments, **environment):
    known = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(arguments, capture_output=True, text=True, env=known)


def torchrun(saved, *arguments, script=None):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return run([*start, script or ROOT / "encode.py", *command(saved, *arguments)[2:]], OMP_NUM_THREADS="1")


@pytest.mark.slow
def test_two_processes_make_one_result(saved, many):
    assert run(command(saved), OMP_NUM_THREADS="1").returncode == 0
    wanted = Path("out.npy").read_bytes()
    done = torchrun(saved)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{len(many)} texts, ")
    assert Path("out.npy").read_bytes() == wanted, "the bytes do not depend on how many processes there are"


@pytest.mark.slow
def test_more_processes_than_texts(saved, here):
    Path("t.txt").write_text("sort\n")
    done = torchrun(saved)
    assert done.returncode == 0, done.stderr
    check_close(np.load("out.npy"), SentenceTransformer(saved).encode(["sort"]))


SLOW = """
import os, runpy, sys, time
from datetime import timedelta
from functools import partial
from pathlib import Path
from minist import distributed
from minist.data.embedding_file import EmbeddingFile
from minist.models.sentence_transformer import SentenceTransformer

distributed.start = partial(distributed.start, timedelta(seconds=6))  # what ten minutes are to a real run
start, embed, finish = EmbeddingFile.start, SentenceTransformer.embed, EmbeddingFile.finish_with
def slow_start(*arguments):
    time.sleep(8)
    return start(*arguments)
def slow_embed(self, texts, *others):
    Path(f"rank-{os.environ['RANK']}-{len(texts)}-{time.time()}").touch()
    time.sleep(8 if os.environ["RANK"] == "{SLOW}" else 0)
    return embed(self, texts, *others)
def slow_finish(*arguments):
    time.sleep(8)
    return finish(*arguments)
EmbeddingFile.start, SentenceTransformer.embed, EmbeddingFile.finish_with = slow_start, slow_embed, slow_finish
sys.argv[0] = "{ROOT}/encode.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["0", "1"])
def test_nobody_waits_for_a_slow_process(saved, many, slow):
    """Longer than processes wait for each other in an exchange; the leader begins, and converts, for as long."""
    wanted = encode(saved, "t.txt", "--precision", "int8", output="wanted.npy")[0]
    Path("slow.py").write_text(SLOW.replace("{ROOT}", str(ROOT)).replace("{SLOW}", slow))
    done = torchrun(saved, "--precision", "int8", script="slow.py")
    assert done.returncode == 0, done.stderr
    assert np.abs(np.load("out.npy").astype(int) - wanted).max() <= 1
    made = [path.name.split("-")[1] for path in Path().glob("rank-*")]
    assert len(made) == 4
    assert made.count(slow) <= 1 < made.count("01"[slow == "0"]), "who is free takes what is left"


def wait_for_a_block(running):
    """Until a block is done, and what was done then."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running.poll() is None:
        if done := list(Path(".out.npy.unfinished").glob("*.done")):
            return done
        time.sleep(0.01)
    pytest.fail("no block was done")


@pytest.mark.slow
def test_killed_and_resumed(saved, many):
    wanted = encode(saved, "t.txt", output="whole.npy")[0]
    with subprocess.Popen(command(saved)) as running:
        (first, *_) = wait_for_a_block(running)
        running.send_signal(signal.SIGKILL)
    assert not Path("out.npy").exists()
    refused = run(command(saved, "--resume", "--normalize"))
    assert refused.returncode == 2
    assert "--resume: normalize is true, but out.npy was begun with false" in refused.stderr
    written = first.stat().st_mtime_ns
    slow = Path("slow.py")
    slow.write_text(SLOW.replace("{ROOT}", str(ROOT)).replace("{SLOW}", "none"))
    assert run([sys.executable, slow, *command(saved, "--resume")[2:]], RANK="0").returncode == 0
    assert len(list(Path().glob("rank-*"))) < 4, "what was done is not done again"
    assert written
    assert Path("out.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert np.array_equal(np.load("out.npy"), wanted)
    assert not Path(".out.npy.unfinished").exists()
    complete = run(command(saved, "--resume"))
    assert (complete.returncode, complete.stdout) == (0, "out.npy is complete: --resume has nothing left to do\n")
    Path("t.txt").write_text("other\n")
    refused = run(command(saved, "--resume"))
    assert refused.returncode == 2
    assert "--resume: inputs is " in refused.stderr


@pytest.mark.slow
def test_interrupted_keeps_what_is_done(saved, many):
    # a shell starts its background jobs deaf to SIGINT, and children inherit that: hear it again
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command(saved), stderr=subprocess.PIPE, text=True, preexec_fn=hear) as running:
        wait_for_a_block(running)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "texts are done and kept: --resume goes on from there" in err
    assert err.endswith("interrupted\n")
    assert list(Path(".out.npy.unfinished").glob("*.done"))


@pytest.mark.slow
def test_an_input_that_turns_bad_late(saved, many):
    """The blocks before are kept, and used when the line is mended."""
    good = Path("t.txt").read_bytes()
    lines = good.splitlines()
    Path("t.txt").write_bytes(b"\n".join([*lines[:20_000], b"\xff", *lines[20_001:]]))
    refused = run(command(saved))
    assert refused.returncode == 2
    assert "16384 texts are done and kept: --resume goes on from there" in refused.stderr
    assert "t.txt, line 20001 is not UTF-8 text" in refused.stderr
    kept = {file.name for file in Path(".out.npy.unfinished").glob("*.done")}
    Path("t.txt").write_bytes(good)
    Path("slow.py").write_text(SLOW.replace("{ROOT}", str(ROOT)).replace("{SLOW}", "none"))
    assert run([sys.executable, "slow.py", *command(saved, "--resume")[2:]], RANK="0").returncode == 0
    assert (len(kept), len(list(Path().glob("rank-*")))) == (2, 2), "two blocks of four were left"
    assert np.array_equal(np.load("out.npy"), encode(saved, "t.txt", output="whole.npy")[0])


@pytest.mark.slow
def test_resume_where_a_text_was_edited_to_the_same_size(saved, many, monkeypatch):
    """Even to the same time: its block is made again, and no other."""
    with subprocess.Popen(command(saved)) as running:
        wait_for_a_block(running)
        running.send_signal(signal.SIGKILL)
    before, content = Path("t.txt").stat(), Path("t.txt").read_text()
    Path("t.txt").write_text("x" + content[1:])
    os.utime("t.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(command(saved, "--resume")).returncode == 0
    assert np.array_equal(np.load("out.npy"), encode(saved, "t.txt", output="whole.npy")[0])


RESUME = [
    ["--role", "query"],
    ["--batch-tokens", "64"],
    ["--max-length", "16"],
    ["--keep-layers", "0"],
    ["--normalize"],
    ["--truncate-dim", "8"],
    ["--precision", "binary"],
    ["--prompt", "x"],
    ["--prompt-name", "topic"],
    ["--dtype", "bfloat16"],
    ["--ranges", "r.npy", "--precision", "int8"],
]


@pytest.mark.parametrize("options", RESUME, ids=lambda options: options[0])
@pytest.mark.parametrize("way", ["given", "removed"])
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_what_resume_refuses(saved, here, options, way, state):
    np.save("r.npy", np.stack([np.full(16, -1.0), np.full(16, 1.0)]))
    first, second = ([], options) if way == "given" else (options, [])
    with (
        mock.patch.object(EmbeddingFile, "_publish", side_effect=SystemExit) if state == "unfinished" else nullcontext()
    ):
        run_script("encode.py", "t.txt", "--model", saved, "--output", "out.npy", *first)
    assert Path(".out.npy.unfinished").exists() == (state == "unfinished")
    code, _, err = run_script("encode.py", "t.txt", "--model", saved, "--output", "out.npy", *second, "--resume")
    assert code == 2
    assert err.startswith("error: --resume: ")
    assert err.count("\n") == 1
    code, _, err = run_script("encode.py", "t.txt", "--model", saved, "--output", "out.npy", *first, "--resume")
    assert (code, err) == (0, "")


def test_resume_where_auto_is_another_type(saved, here, monkeypatch):
    """As on another machine."""
    for fast, code, ending in ((True, 0, ""), (False, 2, 'begun with "torch.bfloat16": give the same, or leave out')):
        monkeypatch.setattr(device_file, "multiplies_bfloat16_fast", lambda device, fast=fast: fast)
        command = ["encode.py", "t.txt", "--model", saved, "--output", "out.npy", "--dtype", "auto"]
        found, _, err = run_script(*command, *([] if fast else ["--resume"]))
        assert found == code and ending in err


@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_resume_with_an_edited_model(saved, here, state):
    shutil.copytree(saved, "m")
    with (
        mock.patch.object(EmbeddingFile, "_publish", side_effect=SystemExit) if state == "unfinished" else nullcontext()
    ):
        run_script("encode.py", "t.txt", "--model", "m", "--output", "out.npy")
    content = Path("m/model.safetensors").read_bytes()
    Path("m/model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    code, _, err = run_script("encode.py", "t.txt", "--model", "m", "--output", "out.npy", "--resume")
    assert code == 2
    assert "--resume: the file " in err and "m/model.safetensors is [" in err


@pytest.mark.slow
def test_started_again_without_resume(saved, many):
    Path(".out.npy.unfinished").mkdir()
    Path(".out.npy.unfinished/0-1.done").write_text('{"rows": 5, "cut": 0, "first": 0, "crc": 0}')
    found, _ = encode(saved, "t.txt")
    assert len(found) == len(many)


# ---------------------------------------------------------------- what is read is not replaced


def same_as(way, file):
    """Another path to a file."""
    if way == "./":
        return f"./{file}"
    (os.symlink if way == "symbolic link" else os.link)(file, f"link{Path(file).suffix}")
    return f"link{Path(file).suffix}"


@pytest.mark.parametrize("way", ["./", "symbolic link", "hard link"])
@pytest.mark.parametrize("what", ["input", "model", "ranges"])
def test_the_output_is_read_too(saved, here, way, what):
    shutil.copytree(saved, "m")
    Path("in.jsonl").write_text('{"a": "x"}\n{"a": "y"}\n')
    np.save("r.npy", np.stack([np.full(16, -1.0), np.full(16, 1.0)]))
    file = {"input": "in.jsonl", "model": "m/model.safetensors", "ranges": "r.npy"}[what]
    content, output = Path(file).read_bytes(), same_as(way, file)
    options = ["--model", "m", "--column", "a", "--output", output, "--precision", "int8", "--ranges", "r.npy"]
    code, _, err = run_script("encode.py", "in.jsonl", *options)
    assert code == 2
    assert err.startswith(f"error: --output is {Path(output)}, but ")
    assert err.endswith(" is also read: name another file\n")
    assert Path(file).read_bytes() == content


def test_the_ranges_beside_the_output_are_read_too(saved, here):
    Path("t.txt").rename("out.ranges.npy")
    code, _, err = run_script(
        "encode.py", "out.ranges.npy", "--model", saved, "--output", "out.npy", "--precision", "int8"
    )
    assert code == 2
    assert err == "error: --output is out.npy, but out.ranges.npy is also read: name another file\n"
    assert Path("out.ranges.npy").read_text().startswith(TEXTS[0])


def test_ranges_beside_the_output_may_be_the_ones_to_use(saved, here):
    """Nothing is written there when they are given."""
    np.save("out.ranges.npy", np.stack([np.full(16, -1.0), np.full(16, 1.0)]))
    content = Path("out.ranges.npy").read_bytes()
    encode(saved, "t.txt", "--precision", "int8", "--ranges", "out.ranges.npy")
    assert Path("out.ranges.npy").read_bytes() == content


# ---------------------------------------------------------------- tables as people have them


def test_formats_and_columns_by_number(saved, here):
    model = SentenceTransformer(saved)
    Path("sts.tsv").write_text('4.5\tread file\t"sort list\n\twait\ttime date\n')
    check_close(encode(saved, "sts.tsv", "--column-number", "2")[0], model.encode(['"sort list', "time date"]))
    Path("SICK_train.txt").write_text("id\ta\n1\tread\n2\tsort\n")
    check_close(encode(saved, "SICK_train.txt", "--format", "tsv", "--column", "a")[0], model.encode(["read", "sort"]))
    Path("t.json").write_text('[{"a": "read"}, {"a": "sort"}]')
    check_close(encode(saved, "t.json", "--column", "a")[0], model.encode(["read", "sort"]))


def test_max_length(saved, here):
    Path("t.txt").write_text("read file sort list number thread\n")
    found, printed = encode(saved, "t.txt", "--max-length", "6")
    assert "1 cut at 6 tokens" in printed
    assert not np.allclose(found, SentenceTransformer(saved).encode(["read file sort list number thread"]))


@pytest.mark.slow
def test_what_is_not_utf8(saved, here):
    Path("t.txt").rename(os.fsdecode(b"t\xff.txt"))
    for arguments in ([b"t\xff.txt"], [b"-", b"--prompt", b"\xff"], [b"-", b"--column", b"\xff"]):
        full = [sys.executable, ROOT / "encode.py", *arguments, "--model", saved, "--output", "out.npy"]
        done = subprocess.run(full, capture_output=True, input=b"a\n")
        assert done.returncode == 2
        assert b"is not UTF-8 text: " in done.stderr
        assert done.stderr.count(b"\n") == 1
