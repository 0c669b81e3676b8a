"""Whole runs against recorded ones of the real trainer: rows, losses, learning rates, gradients, final embeddings."""

import json
import shutil

import numpy as np
import pytest
from models import DATA
from tiny import write_jsonl

import train
from minist.files import write_json
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.config import load_config
from minist.training.run import start_run

RECORDED = json.loads((DATA / "train_runs.json").read_text("utf-8"))
CONFIG = """
output = "run"
[model]
path = "model"
[[data]]
files = ["rows.jsonl"]
columns = { anchor = "anchor", positive = "positive", negative = "negative" }
[train]
batch_size = 4
epochs = 2
lr = 1e-3
warmup = 0.1
weight_decay = 0.01
dropout = 0.0
attention_dropout = 0.0
"""
RUNS = {
    "mnrl": [],
    "mnrl_nodup": ["data.0.sampler=no_duplicates"],
    "triplet_cosine_sched": [
        'data.0.loss={name="TripletLoss", triplet_margin=1.0}',
        "train.schedule=cosine",
        "train.warmup=0.0",
        "train.max_grad_norm=0.5",
    ],
}


def test_all_recorded_runs_are_here():
    assert set(RUNS) == set(RECORDED["runs"])


@pytest.mark.parametrize("mini_batch_tokens", [0, 30])
@pytest.mark.parametrize("name", RUNS)
def test_recorded_run(name, mini_batch_tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DATA / "enc" / "bert", "model")  # a plain checkpoint: the tokens are averaged
    write_json(tmp_path / "model/sentence_bert_config.json", {"max_seq_length": 32})
    model = SentenceTransformer("model")
    write_jsonl(tmp_path / "rows.jsonl", RECORDED["rows"])
    (tmp_path / "c.toml").write_text(CONFIG)
    recorded, anchors = RECORDED["runs"][name], [row["anchor"] for row in RECORDED["rows"][:3]]
    np.testing.assert_allclose(model.encode(anchors), recorded["embeddings_before"], atol=1e-5, rtol=0)

    overrides = [*RUNS[name], f"train.mini_batch_tokens={mini_batch_tokens}"]
    run = start_run(load_config(tmp_path / "c.toml", overrides), resume=False, overwrite=False)
    places = list(run.batches.start_at(0))
    assert [place.rows.tolist() for place in places] == recorded["batches"]
    for place, expected in zip(places, recorded["log"], strict=True):
        objective, figures = train.take_step(run, place)
        assert objective.value.item() == pytest.approx(expected["loss"], abs=1e-5)
        assert figures["learning_rate"] == pytest.approx(expected["learning_rate"], abs=1e-12)
        assert figures["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)
    found, expected = run.trained.model.encode(anchors), np.array(recorded["embeddings_after"])
    if name.startswith("triplet"):
        # a distance does not change when all embeddings move together, so the gradient of the last bias is rounding
        # noise alone, of which Adam makes steps of full size: only where texts stand to each other can be compared
        found, expected = found - found.mean(0), expected - expected.mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
