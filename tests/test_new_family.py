"""A kind of model of one's own, with a module, a loss and an evaluator, trained by train.py on two ranks.

No file of minist is touched. Run as a script, this file is one rank of that run."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import FROM_SCRATCH, ROOT, sentences, write_jsonl
from torch import nn

from minist.data.rows import check_text
from minist.losses.base import Loss
from minist.models import MODELS, open_model
from minist.models.sentence_transformer import SentenceTransformer
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

    def to_folder(self):
        return {"width": self.in_width}, super().to_folder()[1]

    @classmethod
    def arguments(cls, config):
        return (config["width"],)


class ScaledModel(SentenceTransformer):
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

    @staticmethod
    def of_rows(rows):
        return {"texts": [check_text(place, "text") for place in rows]}

    def __call__(self, model):
        embeddings = torch.as_tensor(model.encode(self.texts))
        return {f"{self.name}_length": embeddings.norm(dim=1).mean().item()}


ROWS = 'files = ["texts.jsonl"], columns = { text = "words" }'
CONFIG = f"""output = "run"
model.type = "ScaledModel"
data = [{{ {ROWS}, loss = {{ name = "{__file__}:UnitLoss" }} }}]
eval = [{{ {ROWS}, name = "own", evaluator = {{ name = "{__file__}:LengthEvaluator" }} }}]
train = {{ batch_size = 8, mini_batch_tokens = 20, lr = 0.02, epochs = 3 }}
{FROM_SCRATCH}"""


@pytest.mark.slow
def test_a_family_of_ones_own(tmp_path, monkeypatch):
    texts = sentences(64)
    write_jsonl(tmp_path / "texts.jsonl", [{"words": text} for text in texts])
    (tmp_path / "config.toml").write_text(CONFIG)
    two_ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*two_ranks, "--config", "config.toml"], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    monkeypatch.setitem(MODULES, "Scale", Scale), monkeypatch.setitem(MODELS, "ScaledModel", ScaledModel)
    model = open_model(tmp_path / "run/model")
    assert type(model) is ScaledModel and (model.stack[2].factors != 0.5).all()
    *_, last = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    found = LengthEvaluator(texts, "own")(model)["own_length"]
    assert abs(found - last["own_length"]) < 1e-5 and abs(found - 1) < 0.2


if __name__ == "__main__":
    MODULES["Scale"], MODELS["ScaledModel"] = Scale, ScaledModel
    import train

    train.train(train.parse())
