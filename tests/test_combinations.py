"""Everything at once: sets of all kinds in one run, on two ranks and in mini-batches, give the numbers of one pass."""

import json
import os
import subprocess
import sys

import pytest
from tiny import ROOT, run_script, sentences, tiny_model, write_jsonl

CONFIG = """
output = "one"
[model]
path = "model"
[guide]
model = "guide"
[teacher]
model = "guide"
[[data]]
name = "lists"  # of negatives, none in some rows
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d", negatives = "lists" }
prompts = { anchor = "read: " }
loss = { name = "MatryoshkaLoss", matryoshka_dims = [16, 4], loss = "MultipleNegativesRankingLoss" }
sampler = "no_duplicates"
[[data]]
name = "guided"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d", negatives = "lists" }
loss = { name = "GISTEmbedLoss", temperature = 0.1 }
[[data]]
name = "scored lists"
files = ["rows.jsonl"]
columns = { query = "q", documents = "lists" }
label = "scores"
loss = "DistillKLDivLoss"
[[data]]
name = "graded, in layers"
files = ["rows.jsonl"]
columns = { a = "q", b = "d" }
label = "score"
loss = { name = "Matryoshka2dLoss", matryoshka_dims = [16, 4], loss = "CoSENTLoss" }
weight = 0.5
[[data]]
name = "classes"
files = ["rows.jsonl"]
columns = { text = "d" }
label = "class"
loss = "BatchSemiHardTripletLoss"
sampler = "group_by_label"
[[data]]
name = "pairs of classes"
files = ["rows.jsonl"]
columns = { a = "q", b = "d" }
label = "class"
loss = { name = "SoftmaxLoss", embedding_dimension = 16, num_labels = 3 }
[[data]]
name = "taught"
files = ["rows.jsonl"]
columns = { a = "q", b = "d" }
delete_words = { b = 0.5 }
loss = { name = "MSELoss" }
[[data]]
name = "written again"
files = ["rows.jsonl"]
columns = { a = "d", b = "d" }
delete_words = { a = 0.5 }
loss = "DenoisingAutoEncoderLoss"
[[data]]
name = "drawn"
files = ["rows.jsonl"]
columns = { text = "q" }
draw_pairs = 3
loss = "ContrastiveTensionLoss"
[train]
batch_size = 6
epochs = 1
mixing = "round_robin"
lr = 1e-3
log_every = 1
[[eval]]
name = "held"
files = ["rows.jsonl"]
columns = { a = "q", b = "d" }
label = "class"
loss = { name = "SoftmaxLoss", embedding_dimension = 16, num_labels = 3 }
[[eval]]
name = "written"
files = ["rows.jsonl"]
columns = { a = "d", b = "d" }
loss = "DenoisingAutoEncoderLoss"
[[eval]]
name = "guided"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d", negatives = "lists" }
loss = { name = "GISTEmbedLoss", temperature = 0.1 }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    queries, documents, others = (sentences(13, seed) for seed in (1, 2, 3))
    rows = []
    for i, (q, d) in enumerate(zip(queries, documents, strict=True)):
        lists = [others[(i + k) % 13] for k in range(i % 4 if i % 5 else 2)]
        scores = [0.3 * (i + k) % 1 for k in range(len(lists))]
        rows.append({"q": q, "d": d, "lists": lists, "scores": scores, "score": i / 13, "class": "xyz"[i % 3]})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    tiny_model().save(tmp_path / "model")
    tiny_model(seed=4).save(tmp_path / "guide")
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_ranks_in_mini_batches_are_one_pass(folder):
    code, _, err = run_script("train.py", "--config", "c.toml")
    assert (code, err) == (0, "")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train.py"), "--config", "c.toml", "--set", "output=two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, "--set", "train.mini_batch_tokens=25"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()

    one, two = records(folder / "one"), records(folder / "two")
    steps = [line for line in one if "loss" in line]
    assert len({line["data"] for line in steps}) == 9
    assert all(line["grad_norm"] > 1e-3 for line in steps)
    assert {"eval_held_loss", "eval_written_loss", "eval_guided_loss"} < one[-1].keys()
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert a.get("data") == b.get("data")
        for name in a.keys() - {"data", "texts_per_second", "tokens_per_second", "memory_mb"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), (a.get("data"), name)
