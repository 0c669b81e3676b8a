"""What goes wrong in the middle of a run: one clear message, no hang, and the last checkpoint opens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, write_jsonl

from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import checkpoints

CONFIG = f"""
output = "run"
{FROM_SCRATCH}
[[data]]
name = "pairs"
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
[train]
batch_size = 8
max_steps = 12
save_every = 2
log_every = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"q": q, "d": d, "s": 0.5} for q, d in zip(sentences(40, 1), sentences(40, 2), strict=True)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def fails(*overrides):
    """The one line that a run with these settings ends with."""
    arguments = [part for override in overrides for part in ("--set", override)]
    code, _, err = run_script("train.py", "--config", "c.toml", *arguments)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


def test_a_loss_that_is_no_number(folder):
    message = fails("train.lr=1e30", "train.schedule=constant", "train.save_every=1")
    assert "the loss is nan at step " in message or "the gradient is not finite at step " in message
    assert "data set pairs" in message
    assert checkpoints(folder / "run"), "no step was taken before"
    for checkpoint in checkpoints(folder / "run"):
        SentenceTransformer(checkpoint)


def test_weights_that_are_no_numbers_after_the_last_step(folder):
    """There is no next loss that would show it."""
    message = fails("train.lr=1e39", "train.schedule=constant", "train.max_steps=1")
    assert "after step 1 the weight " in message and "is not finite, so it is not saved" in message
    assert not (folder / "run/model").exists()


def test_a_loss_of_mine_that_is_no_number(folder):
    (folder / "mine.py").write_text("""
from minist.losses.base import Loss
class Mine(Loss):
    def forward(self, embeddings, batch):
        return embeddings[0].sum() * (float("nan") if batch.step == 6 else 1.0)
""")
    assert "the loss is nan at step 7, data set pairs; the weights are still those before it" in fails(
        'data.0.loss={name="mine.py:Mine"}'
    )
    assert [path.name for path in checkpoints(folder / "run")] == ["checkpoint-4", "checkpoint-6"]
    SentenceTransformer(folder / "run/checkpoint-6")


def edit(line, text):
    lines = Path("pairs.jsonl").read_text().splitlines()
    lines[line - 1] = text
    Path("pairs.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ('{"q": "read", "d": ', (), "pairs.jsonl, line 23 is not JSON"),
        ('{"q": "read", "d": 3, "s": 1}', (), "pairs.jsonl, row 23: 'd' is 3, but a text is wanted"),
        ('{"q": "read"}', (), "pairs.jsonl, row 23: there is no column 'd'"),
        (
            '{"q": "read", "d": "file", "s": "high"}',
            ("data.0.label=s", "data.0.loss=CoSENTLoss"),
            "pairs.jsonl, row 23: 's' is \"high\", but a number is wanted",
        ),
    ],
)
def test_a_row_in_the_middle(folder, text, overrides, words):
    source = 'model={path="start"}'
    write_model(folder)
    edit(23, text)
    assert words in fails(source, *overrides)
    assert not list(folder.glob("cache/*"))
    assert not (folder / "run").exists()


def write_model(folder):
    """A saved model, so that only the data set is read."""
    code, _, err = run_script("train.py", "--config", "c.toml", "--set", "output=first", "--set", "train.max_steps=1")
    assert (code, err) == (0, "")
    (folder / "first/model").rename(folder / "start")
    for path in (folder / "cache").glob("*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()


def children(pid):
    """Processes that `pid` started, from /proc."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the ranks")
def test_a_dead_rank(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train.py"), "--config", "c.toml", "--set", "train.max_steps=100000", "--set", "eval=[]"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while len(checkpoints(folder / "run")) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    killed = time.perf_counter()
    out, _ = process.communicate(timeout=100)
    assert time.perf_counter() - killed < 60
    assert process.returncode != 0
    assert "error: rank 0 lost another rank at step " in out
    assert "minist" not in out.partition("Traceback")[2]  # a traceback, if any, is the launcher's
    SentenceTransformer(checkpoints(folder / "run")[-1])
