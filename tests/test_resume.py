"""A run that is stopped, or killed at any moment, and goes on: the same bits as one that never was.

KILLS=10 pytest tests/test_resume.py kills more often than the suite does.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, write_jsonl

from minist.models.sentence_transformer import SentenceTransformer

STEPS, FIRST = 24, 21  # the earlier of the two checkpoints that are kept is that of step 21
KILLS = int(os.environ.get("KILLS", "1"))
CONFIG = f"""
output = "run"
{FROM_SCRATCH}
[[data]]
name = "pairs"
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
sampler = "no_duplicates"
delete_words = {{ anchor = 0.3 }}
[[data]]
name = "scored"
files = ["scored.jsonl"]
columns = {{ a = "a", b = "b" }}
label = "score"
loss = "CoSENTLoss"
[[eval]]
name = "held"
evaluator = "InformationRetrievalEvaluator"
files = ["pairs.jsonl"]
columns = {{ query = "q", document = "d" }}
[train]
batch_size = 9
max_steps = {STEPS}
lr = 1e-2
dropout = 0.2
attention_dropout = 0.1
warmup = 5
save_every = 3
eval_every = 7
log_every = 1
best = "held_cosine_ndcg@10"
"""


@pytest.fixture(scope="module", params=[(1, ""), (2, ""), (2, "fsdp = true\n")], ids=["1", "2", "2 fsdp"])
def whole(request, tmp_path_factory):
    """A folder with an undisturbed run, and the number of its ranks. Two ranks take three-phase steps."""
    folder, (ranks, settings) = tmp_path_factory.mktemp("run"), request.param
    a, b = sentences(60, seed=1), sentences(60, seed=2)
    write_jsonl(folder / "pairs.jsonl", [{"q": x, "d": y} for x, y in zip(a, b, strict=True)])
    scored = [{"a": x, "b": y, "score": i % 5 / 4} for i, (x, y) in enumerate(zip(b, a, strict=True))]
    write_jsonl(folder / "scored.jsonl", scored)
    (folder / "c.toml").write_text(CONFIG + ("mini_batch_tokens = 40\n" if ranks == 2 else "") + settings)
    finish(start(folder, ranks))
    return folder, ranks


def start(folder, ranks, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "train.py"), "--config", "c.toml", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)


def finish(process):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def records(run):
    """What metrics.jsonl says, but for times and memory."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.endswith(("_per_second", "_mb"))} for line in lines]


def same_run(folder, other):
    """Bit for bit: every weight of the chosen model and of the last step, and every number that was logged."""
    for model in ("model", f"checkpoint-{STEPS}"):
        a, b = (dict(SentenceTransformer(folder / run / model).named_parameters()) for run in ("run", other))
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert records(folder / "run") == records(folder / other)


@pytest.mark.slow
def test_half_and_half_is_the_whole(whole):
    folder, ranks = whole
    shutil.copytree(folder / "run", folder / "half")
    shutil.rmtree(folder / "half/model")
    for checkpoint in sorted((folder / "half").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[1:]:
        shutil.rmtree(checkpoint)
    out = finish(start(folder, ranks, "--set", "output=half", "--resume"))
    assert f"step {FIRST + 1}/{STEPS}" in out and f"step {FIRST}/{STEPS}" not in out
    same_run(folder, "half")
    assert {line["data"] for line in records(folder / "run") if "data" in line} == {"pairs", "scored"}


@pytest.mark.slow
def test_killed_at_any_moment(whole):
    folder, ranks = whole
    draw, part = random.Random(ranks), STEPS // (KILLS + 1)
    for number in range(KILLS):
        process = start(folder, ranks, "--set", "output=killed", *(["--resume"] if number else []))
        wanted = min(number * part + draw.randint(5, 5 + part), STEPS - 1)
        while process.poll() is None and steps_done(folder / "killed") < wanted:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert list((folder / "killed").glob("checkpoint-*")), "nothing was saved, so nothing was tested"
    finish(start(folder, ranks, "--set", "output=killed", "--resume"))
    same_run(folder, "killed")


def steps_done(run):
    """By the log, which is a file that may not be there yet."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    return sum('"loss"' in line for line in lines)


@pytest.mark.slow
def test_told_to_end(whole):
    """SIGTERM, as a scheduler sends it: all ranks save at the same step and leave. How often one saves is free."""
    folder, ranks = whole
    rarely = ["--set", "output=told", "--set", "train.save_every=0", "--set", "train.keep=9"]
    process = start(folder, ranks, *rarely)
    while steps_done(folder / "told") < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert "told to end: step" in out
    finish(start(folder, ranks, *rarely, "--resume"))
    assert all(torch.equal(a, b) for a, b in zip(weights(folder / "run"), weights(folder / "told"), strict=True))
    assert records(folder / "run") == records(folder / "told")


def weights(run):
    return list(SentenceTransformer(run / "model").parameters())


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["train.lr=0.5", "seed=3", "train.batch_size=8", "data.0.sampler=shuffled"])
def test_another_run_is_refused(whole, setting, monkeypatch):
    folder, ranks = whole
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the run had
    code, _, err = run_script("train.py", "--config", "c.toml", "--resume", "--set", setting)
    torch.set_num_threads(threads)
    name = "data" if "data" in setting else setting.split("=")[0]
    assert code == 2
    assert f"error: --resume: {name} is " in err or (ranks == 2 and "the number of ranks is 1" in err)
