"""The evaluations of a run: the mean of a loss, and evaluators over a model that all ranks share."""

import numpy as np
import pytest
import torch
from tiny import sentences, tiny_model, write_jsonl
from two_ranks import run_ranks

from minist import evaluation
from minist.batch import Batch
from minist.evaluation.base import Evaluator
from minist.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss
from minist.training.config import DataConfig
from minist.training.entries import open_dataset
from minist.training.evaluations import LossEvaluation, evaluate
from minist.training.task import TrainingRows

MODEL = tiny_model()
Q, D = sentences(11, 1), sentences(11, 2)


@pytest.fixture
def data(tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", [{"q": q, "d": d} for q, d in zip(Q, D, strict=True)])
    entry = DataConfig(columns={"anchor": "q", "positive": "d"}, files=[str(file)])
    dataset = open_dataset(entry, MODEL, {}, tmp_path / "cache")
    return TrainingRows(dataset, {}, torch.device("cpu"))


def test_the_mean_of_a_loss_over_rows(data):
    """A batch of fewer rows counts for less."""
    loss = MultipleNegativesRankingLoss()
    q, d = (MODEL.encode(texts, convert_to_tensor=True) for texts in (Q, D))
    parts = [(loss([q[rows], d[rows]], Batch()).item(), len(rows)) for rows in torch.arange(11).split(4)]
    found = evaluate([LossEvaluation("held", loss, data, 4)], MODEL.train())
    assert found == {"eval_held_loss": pytest.approx(sum(value * n for value, n in parts) / 11, abs=1e-5)}
    assert MODEL.training  # as it was
    MODEL.eval()


def test_a_loss_that_wants_layers(data):
    loss = AdaptiveLayerLoss(MultipleNegativesRankingLoss(), -1)
    assert evaluate([LossEvaluation("x", loss, data, 4)], MODEL)["eval_x_loss"] > 0


def measure(model, texts):
    return [np.asarray(encode(texts)) for encode in (model.encode, model.encode_query, model.encode_document)]


@pytest.mark.slow
def test_ranks_that_share_embed_as_one_does(tmp_path):
    """Each a part of the texts, also where one rank has none."""
    run_ranks(_share, tmp_path)


def _share(rank, folder):
    model = tiny_model()
    model.prompts = {"query": "read: ", "document": "write: "}
    for texts in (Q, Q[:1], []):
        wanted = measure(model, texts)
        model.ranks_share = True
        for a, b in zip(measure(model, texts), wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)
        model.ranks_share = False
    assert not np.allclose(*measure(model, Q)[1:])


def test_the_package_offers_evaluators_and_nothing_else():
    assert len(evaluation.__all__) == 16
    assert all(issubclass(vars(evaluation)[name], Evaluator) for name in evaluation.__all__)
