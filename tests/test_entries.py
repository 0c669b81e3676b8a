"""What entries of a config become: sets with their guides and prompts, and evaluations that share a trained loss."""

import pytest
import torch
from tiny import sentences, tiny_model, write_jsonl

from minist.evaluation import InformationRetrievalEvaluator
from minist.losses import MultipleNegativesRankingLoss
from minist.training.config import load_config
from minist.training.entries import make_evaluation, make_guides, make_loss, make_tasks
from minist.training.evaluations import LossEvaluation

CONFIG = """
output = "run"
[model]
path = "model"
[[data]]
name = "first"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d" }
[[data]]
name = "second"
files = ["rows.jsonl"]
columns = { one = "q", two = "q" }
prompts = { one = "read: " }
loss = "GISTEmbedLoss"
[train]
prompts = { anchor = "sort: " }
[guide]
model = "guide"
[[eval]]
name = "held"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d" }
loss = "MultipleNegativesRankingLoss"
[[eval]]
name = "guided"
files = ["rows.jsonl"]
columns = { a = "d", b = "q" }
loss = { name = "GISTEmbedLoss", temperature = 0.5 }
[[eval]]
name = "found"
evaluator = "InformationRetrievalEvaluator"
files = ["rows.jsonl"]
columns = { query = "q", document = "d" }
"""
CPU = torch.device("cpu")
MODEL = tiny_model()
ROWS = [{"q": q, "d": d} for q, d in zip(sentences(9, 1), sentences(9, 2), strict=True)]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    tiny_model(seed=5).save(tmp_path / "guide")
    (tmp_path / "c.toml").write_text(CONFIG)
    return load_config(tmp_path / "c.toml", [])


def texts(data, column):
    ids = data.batch(torch.arange(2), 0, 0, 0.0).columns[column]
    return [MODEL.tokenizer.backend.decode(ids.slice(i, i + 1).input_ids.tolist()) for i in range(2)]


def test_sets_and_evaluations(config):
    guides = make_guides(config, CPU)
    assert list(guides) == ["guide"]
    tasks = make_tasks(config, MODEL, guides)
    shelf = [task.loss for task in tasks]
    assert texts(tasks[0].rows, 0) == [f"sort {row['q']}" for row in ROWS[:2]]
    assert texts(tasks[0].rows, 1) == [row["d"] for row in ROWS[:2]]
    assert texts(tasks[1].rows, 0) == [f"read {row['q']}" for row in ROWS[:2]]
    assert tasks[0].rows.guide is None
    assert tasks[1].rows.guide is not None and tasks[1].rows.guide.model is guides["guide"]

    held, guided, found = (make_evaluation(config, entry, MODEL, guides, tasks) for entry in config.eval)
    assert isinstance(held, LossEvaluation) and held.loss is shelf[0]
    assert texts(held.rows, 0) == [f"sort {row['q']}" for row in ROWS[:2]]
    assert isinstance(guided, LossEvaluation) and guided.loss not in shelf  # it has another temperature
    assert guided.rows.guide is not None and guided(MODEL)["eval_guided_loss"] > 0
    assert isinstance(found, InformationRetrievalEvaluator)


def test_a_guide_that_is_missing(config):
    with pytest.raises(ValueError, match=r'GISTEmbedLoss needs a guide: write \[guide\] model = ".."'):
        make_tasks(config, MODEL, {})


def test_losses_by_name():
    assert isinstance(
        make_loss("x", {"name": "MultipleNegativesRankingLoss"}, 0, tiny_model()), MultipleNegativesRankingLoss
    )
    inner = {"name": "DenoisingAutoEncoderLoss"}
    with pytest.raises(ValueError, match=r"DenoisingAutoEncoderLoss cannot stand inside another loss"):
        make_loss("x", {"name": "MatryoshkaLoss", "loss": inner, "matryoshka_dims": [8]}, 0, tiny_model())
