"""encode.py with a sparse model: what is written, going on after a kill, several processes, what is refused."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encode import run
from tiny import ROOT, run_script, sentences

from minist import SparseEncoder
from minist.data.sparse_file import SparseFile
from minist.data.texts import BLOCK_TEXTS

SPARSE, ROUTED = (ROOT / "tests/data/folders/st6" / name for name in ("sparse", "idf"))
DENSE = ROOT / "tests/data/folders/st6/dense"
TEXTS = [*sentences(40, seed=3), "", "a,b"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("".join(text + "\n" for text in TEXTS))
    return tmp_path


def encode(*arguments, model=SPARSE, output="out.npz"):
    code, printed, err = run_script("encode.py", "t.txt", *arguments, "--model", model, "--output", output)
    assert (code, err) == (0, "")
    return printed


def load(file="out.npz"):
    """Its matrix, dense; by what an .npz of scipy says of itself."""
    found = np.load(file)
    assert sorted(found) == ["data", "format", "indices", "indptr", "shape"]
    assert found["format"].item() == b"csr"
    dense = np.zeros(found["shape"], np.float32)
    dense[np.arange(len(dense)).repeat(np.diff(found["indptr"])), found["indices"]] = found["data"]
    return torch.from_numpy(dense)


def check_close(found, wanted):
    torch.testing.assert_close(found, wanted.to_dense(), atol=1e-5, rtol=0)


def test_npz_is_what_the_model_gives(here):
    printed = encode()
    model = SparseEncoder(SPARSE)
    check_close(load(), model.encode(TEXTS))
    assert printed.startswith(f"{len(TEXTS)} texts, {model.width} dimensions, ")
    assert sorted(path.name for path in here.iterdir()) == [".out.npz.finished.json", "out.npz", "t.txt"]


def test_jsonl_is_what_decode_gives(here):
    encode(output="out.jsonl")
    model = SparseEncoder(SPARSE)
    lines = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    for line, wanted in zip(lines, model.decode(model.encode(TEXTS)), strict=True):
        assert [*line.values()] == sorted(line.values(), reverse=True)
        assert line == pytest.approx(dict(wanted), abs=1e-5)


def test_roles_are_routes(here):
    for role in ("query", "document"):
        encode("--role", role, model=ROUTED)
        check_close(load(), SparseEncoder(ROUTED).encode(TEXTS, role=role))


def test_max_active_dims(here):
    encode("--max-active-dims", "3")
    found = load()
    assert int((found != 0).sum(1).max()) == 3
    check_close(found, SparseEncoder(SPARSE).encode(TEXTS, max_active_dims=3))


def test_the_number_of_the_folder_holds(here):
    model = SparseEncoder(SPARSE, max_active_dims=4)
    model.save("m")
    encode(model="m")
    assert int((load() != 0).sum(1).max()) == 4


@pytest.mark.parametrize(
    ("arguments", "output", "message"),
    [
        (["--normalize"], "a.npz", "--normalize is for dense embeddings, but .* gives sparse embeddings"),
        (["--truncate-dim", "4"], "a.npz", "--truncate-dim is for dense embeddings"),
        (["--precision", "int8"], "a.npz", "--precision of sparse embeddings is 'int8', known are float32"),
        (["--precision", "int8", "--ranges", "r.npy"], "a.npz", "--ranges is for dense embeddings"),
        (["--max-active-dims", "0"], "a.npz", "--max-active-dims is 0: use a number at least 1"),
        ([], "a.npy", "--output is a.npy: of a model that gives sparse, end in .npz, .jsonl"),
        ([], "a.safetensors", "--output is a.safetensors: of a model that gives sparse, end in .npz, .jsonl"),
        ([], "a.txt", "must be a file, and end in .npy, .safetensors, .jsonl, .npz"),
        (["--model", DENSE, "--max-active-dims", "5"], "a.npy", "--max-active-dims is for sparse embeddings, but"),
        (["--model", DENSE], "a.npz", "dense is no sparse model: open it with SentenceTransformer"),
    ],
)
def test_refused_in_one_line(here, arguments, output, message):
    np.save("r.npy", np.zeros((2, 4), "<f4"))
    code, printed, err = run_script("encode.py", "t.txt", "--model", SPARSE, *arguments, "--output", output)
    assert code == 2 and err.count("\n") == 1 and printed == ""
    assert re.search(message, err)
    assert not list(here.glob(".*"))


# ---------------------------------------------------------------- many texts


@pytest.fixture
def many(here):
    """Texts for two blocks, the second not full."""
    texts = [f"{text} {i}" for i, text in enumerate(sentences(BLOCK_TEXTS + 77, seed=9))]
    Path("t.txt").write_text("".join(text + "\n" for text in texts))
    return texts


def command(*arguments):
    return [sys.executable, ROOT / "encode.py", "t.txt", "--model", SPARSE, "--output", "out.npz", *arguments]


@pytest.mark.slow
def test_killed_and_resumed(many):
    encode(output="whole.npz")
    with subprocess.Popen(command()) as running:
        while running.poll() is None and not [*Path(".out.npz.unfinished").glob("*.done")]:
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert not Path("out.npz").exists()
    refused = run(command("--resume", "--max-active-dims", "4"))
    assert refused.returncode == 2
    assert "--resume: max_active_dims is 4, but out.npz was begun with null" in refused.stderr
    kept = {file: file.stat().st_mtime_ns for file in Path(".out.npz.unfinished").glob("*.rows")}
    assert kept
    assert run(command("--resume")).returncode == 0
    assert Path("out.npz").read_bytes() == Path("whole.npz").read_bytes()
    complete = run(command("--resume"))
    assert (complete.returncode, complete.stdout) == (0, "out.npz is complete: --resume has nothing left to do\n")


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out.npz", "out.jsonl"])
def test_two_processes_make_one_result(many, output):
    assert run(command("--output", output), OMP_NUM_THREADS="1").returncode == 0
    wanted = Path(output).read_bytes()
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    done = run([*start, *command("--output", output)[1:]], OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert Path(output).read_bytes() == wanted


# ---------------------------------------------------------------- the file alone


def blocks(count=4, width=7):
    draw = torch.Generator().manual_seed(1)
    dense = [
        torch.rand(3 + i, width, generator=draw) * (torch.rand(3 + i, width, generator=draw) < 0.4)
        for i in range(count)
    ]
    dense[1][:] = 0  # a block without a number
    return dense


def begin(output, resume=False):
    out = SparseFile(Path(output), [*"abcdefg"])
    assert not out.start({"x": 1}, [], resume)
    return out


def write(out, dense, leave=()):
    """Those blocks that nobody has made but what to `leave`; the names of all, and which were made."""
    names, made, first = [], [], 0
    for i, block in enumerate(dense):
        names.append(f"{first}-{i}")
        if i not in leave and out.claim(names[-1]):
            out.write(names[-1], first, block.to_sparse().coalesce(), 1)
            made.append(i)
        first += len(block)
    return names, made


def test_blocks_in_any_order_are_joined(here):
    dense, out = blocks(), begin("x.npz")
    write(out, dense, leave=(0, 2))
    names, made = write(out, dense)
    assert made == [0, 2]
    assert out.wait_for(names) == 4
    out.finish(sum(map(len, dense)))
    assert torch.equal(load("x.npz"), torch.cat(dense))


@pytest.mark.parametrize("damage", ["rows gone", "rows cut", "record"])
def test_resume_keeps_what_is_whole(here, damage):
    dense = blocks()
    write(begin("x.npz"), dense, leave=(3,))
    rows, record = (Path(f".x.npz.unfinished/7-2.{ending}") for ending in ("rows", "done"))
    if damage == "rows gone":
        rows.unlink()
    elif damage == "rows cut":
        rows.write_bytes(rows.read_bytes()[:-4])
    else:
        record.write_text("{")
    out = begin("x.npz", resume=True)
    names, made = write(out, dense)
    assert made == [2, 3]
    out.wait_for(names)
    out.finish(sum(map(len, dense)))
    assert torch.equal(load("x.npz"), torch.cat(dense))


def test_jsonl_has_the_largest_first(here):
    dense, out = blocks(), begin("x.jsonl")
    dense[0][0] = torch.tensor([0.0, 0.5, -1.0, 0.5, 2.0, 0.0, 0.0])
    out.wait_for(write(out, dense)[0])
    out.finish(sum(map(len, dense)))
    first, *others = Path("x.jsonl").read_text().splitlines()
    assert first == '{"e": 2.0, "b": 0.5, "d": 0.5, "c": -1.0}'
    assert others[2] == "{}", "a text without a weight"
    assert len(others) == sum(map(len, dense)) - 1


def test_killed_while_finishing(here, monkeypatch):
    dense, out = blocks(), begin("x.npz")
    names, _ = write(out, dense)
    out.wait_for(names)
    with monkeypatch.context() as patch:
        patch.setattr(SparseFile, "_publish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            out.finish(sum(map(len, dense)))
    again = begin("x.npz", resume=True)
    assert write(again, dense)[1] == [], "no row is made again"
    again.wait_for(names)
    again.finish(sum(map(len, dense)))
    assert torch.equal(load("x.npz"), torch.cat(dense))
