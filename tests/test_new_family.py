"""A kind of model of one's own, and no file of minist is touched: two ranks train it by train.py, in mini-batches.

It has a module, a loss and an evaluator of its own. Run as a script, this file is one rank of that run.
"""

import json
import os
import subprocess
import sys

import torch
from tiny import FROM_SCRATCH, ROOT, sentences, write_jsonl
from torch import nn

from minist.data.rows import check_text
from minist.losses.base import Loss
from minist.models import MODELS, open_model
from minist.models.text_model import TextModel
from minist.module import Module
from minist.modules import MODULES
from minist.modules.pooling import Pooling


class Scale(Module):
    """Each dimension of an embedding, [N, D], times a learned factor."""

    def __init__(self, width):
        super().__init__()
        self.in_width = self.out_width = width
        self.factors = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        return x * self.factors

    @classmethod
    def from_folder(cls, config, weights):
        return cls(len(weights["factors"])).fill(weights)


class ScaledModel(TextModel):
    @classmethod
    def from_encoder(cls, encoder, tokenizer, pooling):
        return cls.from_modules([encoder, Pooling(encoder.width, (pooling,)), Scale(encoder.width)], tokenizer)


class UnitLoss(Loss):
    """The mean over all texts of (|x|^2 - 1)^2: embeddings shall have length one."""

    def forward(self, embeddings, batch):
        return (torch.cat(list(embeddings)).pow(2).sum(1) - 1).pow(2).mean()


class LengthEvaluator:
    columns = ("text",)

    def __init__(self, texts, name):
        self.texts, self.name = texts, name

    @classmethod
    def from_rows(cls, rows, name):
        return cls([check_text(place, "text") for place in rows], name)

    def __call__(self, model):
        embeddings, _ = model.embed(self.texts, "", 0, lambda n: None, None)
        return {f"{self.name}_length": embeddings.norm(dim=1).mean().item()}


CONFIG = f"""output = "run"
model.type = "ScaledModel"
data = [{{ files = ["texts.jsonl"], columns = {{ text = "words" }}, loss = {{ name = "{__file__}:UnitLoss" }} }}]
train = {{ batch_size = 8, mini_batch_tokens = 20, lr = 0.02, epochs = 3 }}
{FROM_SCRATCH}
[[eval]]
name = "own"
files = ["texts.jsonl"]
columns = {{ text = "words" }}
evaluator = {{ name = "{__file__}:LengthEvaluator" }}"""


def test_a_family_of_ones_own(tmp_path, monkeypatch):
    texts = sentences(64)
    write_jsonl(tmp_path / "texts.jsonl", [{"words": text} for text in texts])
    (tmp_path / "config.toml").write_text(CONFIG)
    two_ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*two_ranks, "--config", "config.toml"], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    monkeypatch.setitem(MODULES, "Scale", Scale)
    monkeypatch.setitem(MODELS, "ScaledModel", ScaledModel)
    model = open_model(tmp_path / "run/model")
    assert type(model) is ScaledModel
    assert (model.stack[2].factors != 0.5).all()
    (*_, last) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    found = LengthEvaluator(texts, "own")(model)["own_length"]
    assert abs(found - last["own_length"]) < 1e-5
    assert abs(found - 1) < 0.2


if __name__ == "__main__":
    MODULES["Scale"], MODELS["ScaledModel"] = Scale, ScaledModel
    import train

    train.train(train.parse())
