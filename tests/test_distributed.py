"""Two ranks give the gradient of one, on gloo, in float64.

One spawn of two processes serves all tests: it runs every case and saves what it found.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import pytest
import torch
from test_encoders import tiny_encoder
from tiny import sentences, tiny_model
from torch import multiprocessing, nn
from two_ranks import WORLD, run_ranks

from minist import collectives, distributed
from minist.batch import Batch
from minist.encoders.families import ENCODERS
from minist.losses import DenoisingAutoEncoderLoss, MultipleNegativesRankingLoss
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Dense
from minist.modules.pooling import MODES, Pooling
from minist.modules.router import Router
from minist.modules.static_embedding import StaticEmbedding
from minist.training.selection import Interruption
from minist.training.step import Objective, Setup, mini_batched_step, plain_step, token_step

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


def two_towers():
    """Queries by one encoder, documents by another."""
    query, document = tiny_model(), tiny_model(seed=1)
    router = Router({"query": list(query.stack), "document": list(document.stack)}, "document")
    return SentenceTransformer.from_modules([router], query.tokenizer)


def mpnet():
    """Its relative bias comes in only with the first pair of tokens."""
    return tiny_model(encoder={"model_type": "mpnet", "max_position_embeddings": 36})


def family(model_type):
    """An encoder of that family with all poolings, behind a tokenizer whose few ids it knows."""
    tokenizer, encoder = tiny_model().tokenizer, tiny_encoder(model_type, vocab_size=200)
    return SentenceTransformer.from_modules(
        [encoder, Pooling(encoder.width, MODES), Dense(6 * encoder.width, 16)], tokenizer
    )


def static():
    return SentenceTransformer.from_modules([StaticEmbedding(200, 16), Dense(16, 16)], tiny_model().tokenizer)


ROLES = ("query", "document", "document")
RAGGED = ("query", "query", "document")  # the cells of the last column are lists, those of the first three rows empty
OFF = torch.amp.GradScaler("cpu", enabled=False)


def step(model, n, rank, world, budget=0, roles=()):
    """The loss of n rows, and all gradients, by the steps of a run; `budget` > 0 in three phases."""
    loss, texts, roles = Weighted(), sentences(3 * n, seed=n), roles or (None,) * 3
    model.zero_grad()
    rows = torch.arange(n).tensor_split(world)[rank]
    columns = [model.tokenizer(texts[c * n : (c + 1) * n]).packed().take(rows) for c in range(3)]
    counts = ()
    if roles == RAGGED:
        columns[2] = columns[2].take(torch.arange(len(rows))[rows >= 3])
        counts = (None, None, (torch.arange(n) >= 3).long())
    objective = Objective(loss, Batch(tuple(columns), roles, None, counts), 1.0)
    setup = Setup(model, model if budget else collectives.wrap(model, has_routes=bool(model.routes)), OFF, None, budget)
    (mini_batched_step if budget else plain_step)(setup, objective, 0)
    mini_batches = sum(len(column.split(budget)) for column in columns) if budget else 1
    found = {"loss": objective.value, "own": loss.weight.grad, "idle": loss.idle.grad, "mini_batches": mini_batches}
    return found | {name: p.grad for name, p in model.named_parameters()}


CASES = {
    **{n: (tiny_model, n, 0, ()) for n in ROWS},
    "towers": (two_towers, 5, 0, ROLES),
    "towers of one row": (two_towers, 1, 0, ROLES),
    "one tower of two": (two_towers, 5, 0, ("document",) * 3),  # the other one has no gradient on any rank
    "one tower of two in phases": (two_towers, 5, 12, ("document",) * 3),
    "mpnet of one row": (mpnet, 1, 0, ()),  # on the rank without a row the relative bias has no gradient
    "mpnet": (mpnet, 5, 0, ()),
    "static of one row": (static, 1, 0, ()),
    **{f"{name} of one row": (partial(family, name), 1, 0, ()) for name in ENCODERS if name != "mpnet"},
    "empty lists": (two_towers, 5, 0, RAGGED),  # rank 0 has no text for a tower
    "empty lists in phases": (two_towers, 5, 12, RAGGED),
    "phases": (tiny_model, 5, 12, ()),
    "phases of towers": (two_towers, 5, 12, ROLES),
    "phases of one row": (two_towers, 1, 30, ROLES),  # a rank without a row has no mini-batch
}


def run_case(case, rank, world):
    make, n, budget, roles = CASES[case]
    return step(make().double().train(), n, rank, world, budget, roles)


def write_texts(n, rank, world, budget=0):
    """The same of a step of the other kind, which sums over tokens."""
    model, loss, texts = tiny_model().double().train(), DenoisingAutoEncoderLoss(), sentences(n, seed=n)
    torch.manual_seed(4)
    loss.attach(model, (None, None), {})
    loss.double()
    columns = [model.tokenizer([text[i:] for text in texts]).packed() for i in (4, 0)]
    columns = tuple(column.take(torch.arange(n).tensor_split(world)[rank]) for column in columns)
    objective = Objective(loss, Batch(columns, (None, None)), 0.5)
    token_step(Setup(model, model, OFF, None, budget), objective, 0)
    named = [*model.named_parameters(), *loss.named_parameters()]
    return {"loss": objective.value} | {name: p.grad for name, p in named}


TOKEN_CASES = {"tokens": (5, 0), "tokens in mini-batches": (6, 25), "tokens of one row": (1, 0)}


def gather_parts():
    """Rows of each rank, for a gather of 3 + 0 rows and one of 1 + 2; and the weights of a function of the result."""
    torch.manual_seed(0)
    whole = torch.randn(3, 2, 2, dtype=torch.float64)
    return [(whole, [3, 0]), (whole * 2, [1, 2])], torch.randn(3, 2, 2, dtype=torch.float64)


def rank_work(rank, folder):
    """Everything that one of the two ranks does."""
    found = {"rank": distributed.rank(), "world": distributed.world_size()}
    found["totals"] = collectives.gather(torch.tensor([[1, rank]])).sum(0).tolist()
    found["gather"] = []
    parts, weights = gather_parts()
    for whole, counts in parts:
        own = whole.split(counts)[rank].clone().requires_grad_()
        together = collectives.gather(own)
        (together**2 * weights).sum().backward()
        found["gather"].append((together.detach(), own.grad))
    found["integers"] = collectives.gather(torch.arange(rank + 1))
    found["agree"] = distributed.any_rank((False, rank == 1, True), torch.device("cpu"))
    found["same"] = nn.Parameter(torch.full((2,), float(rank)))
    collectives.same_start([found["same"]])
    for case in CASES:
        torch.save(found, folder / f"{rank}.pt")  # what there is, should the next case fail
        distributed.barrier()
        found[case] = run_case(case, rank, WORLD)
    for case, (n, budget) in TOKEN_CASES.items():
        torch.save(found, folder / f"{rank}.pt")
        distributed.barrier()
        found[case] = write_texts(n, rank, WORLD, budget)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    error = ""
    try:
        run_ranks(rank_work, folder)
    except multiprocessing.ProcessRaisedException as raised:  # the other rank is ended too
        error = str(raised)
    return [{"error": error} | torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def test_start(ranks):
    for rank, found in enumerate(ranks):
        assert (found["rank"], found["world"]) == (rank, WORLD)


def test_totals(ranks):
    for found in ranks:
        assert found["totals"] == [2, 1]


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


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one(ranks, case):
    make, n, _, roles = CASES[case]
    expected = step(make().double().train(), n, 0, 1, 0, roles)  # one process, one pass
    given = sum(torch.is_tensor(g) and g.abs().max() > 1e-6 for g in expected.values())
    assert given > (2 if make is static else 20)  # there is a gradient
    for found in ranks:
        assert case in found, found["error"]
        for name in expected.keys() - {"idle", "mini_batches"}:
            torch.testing.assert_close(
                found[case][name], expected[name], atol=EXACT, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("case", TOKEN_CASES)
def test_two_ranks_write_as_one(ranks, case):
    n, _ = TOKEN_CASES[case]
    expected = write_texts(n, 0, 1)  # one process, one pass
    assert sum(torch.is_tensor(g) and g.abs().max() > 1e-6 for g in expected.values()) > 20
    for found in ranks:
        assert case in found, found["error"]
        torch.testing.assert_close(found[case], expected, atol=EXACT, rtol=0)


def test_ranks_had_different_numbers_of_mini_batches(ranks):
    for case in ("phases", "phases of towers", "phases of one row"):
        one, two = (found[case]["mini_batches"] for found in ranks)
        assert one != two


def test_a_parameter_without_gradient_is_left_alone(ranks):
    assert all(found[6]["idle"] is None for found in ranks)


def test_agreement(ranks):
    assert all(found["agree"] == [False, True, True] for found in ranks)
    assert all(found["same"].tolist() == [0.0, 0.0] for found in ranks)


def test_one_process_needs_no_group():
    x, model = torch.randn(3, 2), nn.Linear(2, 2)
    assert collectives.gather(x) is x
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    model(x).sum().backward()
    before = model.weight.grad.clone()
    collectives.average_gradients(model.parameters())
    assert torch.equal(model.weight.grad, before)
    distributed.barrier()
    distributed.stop()


def test_two_processes_on_one_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes of this machine share 1 GPU"):
        distributed.start()


@pytest.mark.parametrize(("asked", "ranks", "wanted"), [(6, 2, 3), (2, 2, 2), (1, 2, 1), (6, 1, 6), (5, 12, 1)])
def test_ranks_do_not_wait_for_each_others_threads(asked, ranks, wanted, monkeypatch):
    """A machine of 6 cores; what is asked for is never raised: others may run there too."""
    given = []
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    distributed.start()
    assert given == [wanted]


def test_a_file_is_prepared_once(tmp_path):
    file, calls = tmp_path / "x", []
    for _ in range(2):
        distributed.prepare_once(file, lambda: calls.append(file.write_text("x")))
    assert len(calls) == 1


def test_an_error_of_ours_is_no_lost_rank():
    with pytest.raises(RuntimeError, match=r"^mine$"), distributed.contact("step 3"):
        raise RuntimeError("mine")


# ---------------------------------------------------------------- ranks that wait, die, disagree


def work_of_different_length(rank, folder):
    """One rank takes longer than a collective waits, where ranks wait for work; then only one calls a collective."""
    if rank == 1:
        time.sleep(5)
    distributed.barrier()
    (folder / f"waited{rank}").touch()
    with pytest.raises(RuntimeError, match=r"^CUDA error: mine$"), distributed.contact("step 3"):
        raise RuntimeError("CUDA error: mine")  # of this rank's own work
    started = time.perf_counter()
    if rank == 0:
        with (
            pytest.raises(ConnectionError, match="rank 0 lost another rank at step 4: "),
            distributed.contact("step 4"),
        ):
            collectives.gather(torch.ones(2))
        (folder / "refused").write_text(str(time.perf_counter() - started))
    while not (folder / "refused").exists():
        time.sleep(0.05)
    os._exit(0)  # a group that failed cannot be left in order


@pytest.mark.slow
def test_a_collective_has_a_limit_and_a_barrier_has_none(tmp_path):
    """Ranks that disagree about a collective: an error, and no hang."""
    run_ranks(work_of_different_length, tmp_path, timedelta(seconds=3))
    assert (tmp_path / "waited0").exists() and (tmp_path / "waited1").exists()
    assert float((tmp_path / "refused").read_text()) < 60


def left_alone(rank, folder):
    if rank == 1:
        os._exit(0)
    with pytest.raises(ConnectionError, match="rank 0 lost another rank: "):
        distributed.barrier()
    (folder / "noticed").touch()
    os._exit(0)


@pytest.mark.slow
def test_a_barrier_ends_where_a_rank_died(tmp_path):
    run_ranks(left_alone, tmp_path)
    assert (tmp_path / "noticed").exists()


def stuck(rank, folder):
    """Rank 0 waits in a collective for one that does not come."""
    Interruption(torch.device("cpu"))
    if rank == 1:
        while not (folder / "over").exists():
            time.sleep(0.05)
        os._exit(0)
    (folder / "pid").write_text(str(os.getpid()))
    distributed.any_rank([False], torch.device("cpu"))


@pytest.mark.slow
def test_a_second_sigterm_ends_a_rank_that_waits_in_a_collective(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        ranks = pool.submit(run_ranks, stuck, tmp_path)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert not ranks.done(), ranks.exception()
            time.sleep(0.05)
        time.sleep(1)  # it is in the collective now
        for _ in range(2):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
            time.sleep(0.5)
        error = ranks.exception(timeout=60)
        (tmp_path / "over").touch()
    assert "exit code 143" in str(error)


def test_only_the_first_process_of_a_machine_prepares(tmp_path, monkeypatch):
    file, calls = tmp_path / "x", []
    monkeypatch.setenv("LOCAL_RANK", "1")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(distributed.prepare_once, file, lambda: calls.append(1))
        time.sleep(0.3)
        assert not waits.done()
        file.touch()
        waits.result(timeout=10)
    assert calls == []
