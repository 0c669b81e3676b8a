"""about.json: what a reader wants to know of a run."""

import json
from datetime import UTC, datetime

import pytest
from tiny import FROM_SCRATCH, run_script, write_jsonl

from minist.training.about import LISTED, given_settings
from minist.training.config import Config, DataConfig, TrainConfig
from minist.training.examples import SHOWN

CONFIG = f"""output = "run"
{FROM_SCRATCH}
[[data]]
name = "pairs"
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "p", negatives = "d" }}
loss = {{ name = "MultipleNegativesRankingLoss", scale = 10.0 }}
[[data]]
name = "labelled"
files = ["labelled.jsonl"]
columns = {{ text = "t" }}
label = "l"
loss = "BatchAllTripletLoss"
[train]
batch_size = 4
max_steps = 2
save_every = 2
[[eval]]
name = "held"
evaluator = "InformationRetrievalEvaluator"
files = ["held.jsonl"]
columns = {{ query = "q", document = "d" }}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "<script> \u05d0\u05d1 \U0001f600 " * 60
    rows = [{"q": f"sort {i}", "p": f"list {i}", "d": [long, "list"] * 5} for i in range(9)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    write_jsonl(tmp_path / "held.jsonl", [{"q": f"sort {i}", "d": f"list {i}"} for i in range(9)])
    write_jsonl(tmp_path / "labelled.jsonl", [{"t": f"read {i}", "l": "ab"[i % 2]} for i in range(8)])
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def run(folder, *arguments):
    code, _, err = run_script("train.py", "--config", "c.toml", *arguments)
    assert code == 0, err
    return json.loads((folder / "run/about.json").read_text("utf-8"))


def test_of_a_run(folder):
    found = run(folder)
    model, (pairs, labelled) = found["model"], found["data"]
    assert model["kind"] == "SentenceTransformer" and model["start"] == "random weights"
    assert model["modules"] == "BertEncoder > Pooling" and (model["width"], model["max_length"]) == (16, 32)
    assert model["parameters"] > 16 * 34
    assert (pairs["name"], pairs["rows"]) == ("pairs", 9)
    assert pairs["loss"] == {"name": "MultipleNegativesRankingLoss", "scale": 10.0}
    assert pairs["columns"]["anchor"]["source"] == "q" and pairs["columns"]["anchor"]["cut"] == 0
    assert pairs["columns"]["negatives"]["cut"] == 45 and 3 <= pairs["columns"]["anchor"]["tokens"] <= 5
    assert len(pairs["samples"]) == 3 and pairs["samples"][1]["anchor"] == ["sort 1"]
    texts = pairs["samples"][0]["negatives"]
    assert len(texts) == LISTED and len(texts[0]) == SHOWN and texts[0].startswith("<script> \u05d0\u05d1 \U0001f600")
    assert labelled["samples"][1] == {"text": ["read 1"], "label": ["b"]}
    assert found["evaluations"] == {"held": "InformationRetrievalEvaluator"}
    assert found["settings"]["train.batch_size"] == 4 and found["settings"]["data.labelled.label"] == "l"
    assert "train.lr" not in found["settings"] and "data.pairs.sampler" not in found["settings"]
    assert found["steps"] == 2 and found["machine"]["ranks"] == 1


def test_a_run_that_goes_on_keeps_its_start(folder):
    run(folder)
    file, longer = folder / "run/about.json", ("--resume", "--set", "train.max_steps=4")
    file.write_text(json.dumps({"started": "2001-02-03 04:05:06+00:00"}))
    found = run(folder, *longer)
    assert datetime.fromisoformat(found["started"]) == datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert found["settings"]["train.max_steps"] == 4
    for damaged in ("", '{"started": "2001-', "[]", '{"started": 5}', "{}", '{"started": "yesterday"}', "\x00\ud800"):
        file.write_bytes(damaged.encode("utf-8", "surrogatepass"))
        assert run(folder, *longer)["started"].startswith("20")
    file.unlink()
    assert run(folder, *longer)["started"].startswith("20")
    assert run(folder, "--overwrite")["started"].startswith("20")


def test_given_settings():
    data = [DataConfig(name="a", weight=2.0, loss={"name": "CoSENTLoss", "scale": 1.0}), DataConfig(name="b")]
    config = Config("o", data, train=TrainConfig(lr=1e-3, lr_for={"a.b": 3.0}), expect={"x": 0.5})
    assert given_settings(config) == {
        "output": "o",
        "data.a.loss.name": "CoSENTLoss",
        "data.a.loss.scale": 1.0,
        "data.a.weight": 2.0,
        "train.lr": 1e-3,
        "train.lr_for.a.b": 3.0,
        "expect.x": 0.5,
    }
