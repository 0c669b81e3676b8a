"""Two ranks give the gradient of one, through real DDP on gloo, in float64.

One spawn of two processes serves all tests: it runs every case and saves what it found.
"""

import os
import socket

import pytest
import torch
from tiny import sentences, tiny_model
from torch import multiprocessing, nn

from minist import distributed
from minist.batch import Batch
from minist.losses import MultipleNegativesRankingLoss

WORLD = 2
ROWS = [6, 5, 1]  # even, odd, and one that leaves a rank without a row
EXACT = 1e-12


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 16, dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))  # never used: it has no gradient

    def forward(self, embeddings, batch):
        return MultipleNegativesRankingLoss()([x * self.weight for x in embeddings], batch)


def step(model, n, rank, world):
    """The loss of n rows, and all gradients, as train.py computes them."""
    loss, texts = Weighted(), sentences(3 * n, seed=n)
    model.zero_grad()
    rows = torch.arange(n).tensor_split(world)[rank]
    columns = [model.tokenizer(texts[c * n : (c + 1) * n]).packed().take(rows) for c in range(3)]
    wrapped = distributed.wrap(model)  # DDP must live until backward is done
    gathered = [distributed.gather(x) for x in wrapped(columns)]
    value = loss(gathered, Batch())
    value.backward()
    distributed.average_gradients(loss)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return {"loss": value.detach(), "own": loss.weight.grad.clone(), "idle": loss.idle.grad} | gradients


def gather_parts():
    """Rows of each rank, for a gather of 3 + 0 rows and one of 1 + 2; and the weights of a function of the result."""
    torch.manual_seed(0)
    whole = torch.randn(3, 2, 2, dtype=torch.float64)
    return [(whole, [3, 0]), (whole * 2, [1, 2])], torch.randn(3, 2, 2, dtype=torch.float64)


def rank_work(rank, port, folder):
    """Everything that one of the two ranks does."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    found = {"start": distributed.start(), "rank": distributed.rank(), "world": distributed.world_size()}
    found["total"] = distributed.total(rank + 1.5)
    found["objects"] = distributed.gather_objects({"rank": rank})
    found["gather"] = []
    parts, weights = gather_parts()
    for whole, counts in parts:
        own = whole.split(counts)[rank].clone().requires_grad_()
        together = distributed.gather(own)
        (together**2 * weights).sum().backward()
        found["gather"].append((together.detach(), own.grad))
    found["integers"] = distributed.gather(torch.arange(rank + 1))
    for n in ROWS:
        torch.save(found, folder / f"{rank}.pt")  # what there is, should the next case fail
        distributed.barrier()
        found[n] = step(tiny_model().double().train(), n, rank, WORLD)
    torch.save(found, folder / f"{rank}.pt")
    distributed.barrier()
    distributed.stop()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = ""
    try:
        multiprocessing.spawn(rank_work, (port, folder), nprocs=WORLD)
    except multiprocessing.ProcessRaisedException as raised:  # the other rank is ended too
        error = str(raised)
    return [{"error": error} | torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def test_start(ranks):
    for rank, found in enumerate(ranks):
        assert found["start"] == (rank, WORLD, torch.device("cpu"))
        assert (found["rank"], found["world"]) == (rank, WORLD)


def test_objects_and_totals(ranks):
    for found in ranks:
        assert found["objects"] == [{"rank": 0}, {"rank": 1}]
        assert found["total"] == 4.0


@pytest.mark.parametrize("case", [0, 1])
def test_gather_keeps_the_order_of_ranks(ranks, case):
    (whole, _) = gather_parts()[0][case]
    for found in ranks:
        assert torch.equal(found["gather"][case][0], whole)
        assert found["integers"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("case", [0, 1])
def test_gather_hands_each_rank_its_own_gradient_times_the_world(ranks, case):
    """DDP's average divides by the world size again."""
    parts, weights = gather_parts()
    whole, counts = parts[case]
    expected = (2 * whole * weights * WORLD).split(counts)
    for found, own in zip(ranks, expected, strict=True):
        torch.testing.assert_close(found["gather"][case][1], own, atol=EXACT, rtol=0)


@pytest.mark.parametrize("n", ROWS)
def test_two_ranks_are_one(ranks, n):
    expected = step(tiny_model().double().train(), n, 0, 1)
    assert sum(g.abs().max() > 1e-6 for g in expected.values() if g is not None) > 20  # there is something to compare
    for found in ranks:
        assert n in found, found["error"]
        for name, value in expected.items():
            if name != "idle":
                torch.testing.assert_close(
                    found[n][name], value, atol=EXACT, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
                )


def test_a_parameter_without_gradient_is_left_alone(ranks):
    assert all(found[6]["idle"] is None for found in ranks)


def test_one_process_needs_no_group():
    x, model = torch.randn(3, 2), nn.Linear(2, 2)
    assert distributed.gather(x) is x
    assert distributed.wrap(model) is model
    assert (distributed.rank(), distributed.world_size(), distributed.total(2.5)) == (0, 1, 2.5)
    model(x).sum().backward()
    before = model.weight.grad.clone()
    distributed.average_gradients(model)
    assert torch.equal(model.weight.grad, before)
    distributed.barrier()
    distributed.stop()
