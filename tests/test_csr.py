"""CSRLoss and SparseAutoEncoder: by hand, in mini-batches, on two ranks, with dead latents, in folders and runs."""

from pathlib import Path

import pytest
import torch
from models import DATA
from test_train import train
from tiny import sentences, tiny_model, write_jsonl
from two_ranks import WORLD, run_ranks

from minist import Batch, collectives, losses
from minist.losses.base import Loss
from minist.models.sparse_encoder import SparseEncoder
from minist.modules.sparse_autoencoder import SparseAutoEncoder
from minist.training.construct import make
from minist.training.step import Objective, Setup, mini_batched_step, plain_step

OFF = torch.amp.GradScaler("cpu", enabled=False)
ROWS, THRESHOLD = 5, 2
EXACT = 1e-12


def autoencoder(width=16, **options):
    torch.manual_seed(0)
    options = {"k": 3, "k_aux": 5, "dead_threshold": THRESHOLD} | options
    module = SparseAutoEncoder(width, 4 * width, **options).double()
    module.pre_bias.data.normal_(0, 0.3)
    module.latent_bias.data.normal_(0, 0.3)
    return module


def model_with(**options):
    """A tiny model, of whose latents the first ten are dead."""
    dense, module = tiny_model(), autoencoder(**options)
    module.stats_last_nonzero[:10] = THRESHOLD + 1
    return SparseEncoder.from_modules([*dense.stack, module], dense.tokenizer).double().train()


# ---------------------------------------------------------------- the module and the loss


def by_hand(module, x):
    """What it gives of one embedding, and the parts of the loss, in loops."""
    w, b = module.encoder.weight, module.pre_bias
    mean, scale = (x.mean(), x.std()) if module.normalize else (0.0, 1.0)
    y = (x - mean) / (scale + 1e-5) if module.normalize else x
    z = [(y - b) @ w[j] + module.latent_bias[j] for j in range(len(w))]
    order = sorted(range(len(z)), key=lambda j: -z[j].item())
    dead = [j for j in order if module.stats_last_nonzero[j] > module.dead_threshold][: module.k_aux]

    def back(latents):
        return sum((z[j] * w[j] for j in latents if z[j] > 0), torch.zeros_like(x)) + b

    from_k, from_4k = (back(order[:k]) * scale + mean for k in (module.k, 4 * module.k))
    left_over = x - (from_k - b * scale).detach()
    latents = torch.stack([z[j].relu() if j in order[: module.k] else 0 * z[j] for j in range(len(z))])
    return latents, (x, from_k, from_4k, left_over, back(dead) * scale)


def slow_csr(columns, beta):
    """The three parts, of what `by_hand` gives of each text of each column."""
    k, more, dead = [], [], []
    for column in columns:
        x, from_k, from_4k, left_over, guess = (torch.stack(parts) for parts in zip(*column, strict=True))
        k.append(((from_k - x) ** 2).mean())
        more.append(((from_4k - x) ** 2).mean() / 8)
        spread = ((left_over - left_over.mean(0)) ** 2).mean()
        dead.append(beta * ((guess - left_over) ** 2).mean() / spread)
    parts = {"k": k, "4k": more, "aux": dead}
    return {f"reconstruction_loss_{name}": sum(values) / len(columns) for name, values in parts.items()}


def reconstruction(module, inputs, beta=0.3):
    beside = [module.beside(x)[1] for x in inputs]
    extra = {name: tuple(column[name] for column in beside) for name in module.offers}
    return losses.CSRReconstructionLoss(beta)([module(x) for x in inputs], Batch(extra=extra))


@pytest.mark.parametrize("dead", [0, 3, 10])  # none, fewer than k_aux, more
@pytest.mark.parametrize("normalize", [False, True])
def test_by_hand(normalize, dead):
    module = autoencoder(8, normalize=normalize)
    module.stats_last_nonzero[:dead] = THRESHOLD + 1
    module.stats_last_nonzero[dead:] = THRESHOLD  # not yet
    inputs = [torch.randn(4, 8, dtype=torch.float64).requires_grad_() for _ in range(2)]
    slow = [[by_hand(module, row) for row in x] for x in inputs]
    for x, rows in zip(inputs, slow, strict=True):
        latents = torch.stack([latents for latents, _ in rows])
        torch.testing.assert_close(module(x), latents, atol=EXACT, rtol=0)
        torch.testing.assert_close(module.beside(x)[0], latents, atol=EXACT, rtol=0)
        assert 0 < (latents > 0).sum(1).max() <= 3
    found, wanted = reconstruction(module, inputs), slow_csr([[parts for _, parts in rows] for rows in slow], 0.3)
    torch.testing.assert_close(found, wanted, atol=EXACT, rtol=0)
    assert found["reconstruction_loss_aux"] > 0.01  # without dead latents too
    leaves = [*inputs, *module.parameters()]
    found, wanted = (torch.autograd.grad(sum(parts.values()), leaves) for parts in (found, wanted))
    torch.testing.assert_close(found, wanted, atol=1e-11, rtol=0)
    assert (found[2][:dead].abs().sum() > 0) == (dead > 0)  # dead latents learn


def test_no_auxiliary_latents():
    module = autoencoder(8, k_aux=0)
    x = torch.randn(4, 8, dtype=torch.float64)
    assert reconstruction(module, [x])["reconstruction_loss_aux"] == 0


def test_equal_texts_have_no_spread():
    """One text, or the same one twice: the plain error, and a finite gradient."""
    module, row = autoencoder(8), torch.randn(1, 8, dtype=torch.float64)
    for x in (row, row.expand(3, 8)):
        found = reconstruction(module, [x.clone().requires_grad_()])
        beside = module.beside(x)[1]
        error = ((beside["from dead"] - beside["left over"]) ** 2).mean()
        torch.testing.assert_close(found["reconstruction_loss_aux"], 0.3 * error)
        assert all(g.isfinite().all() for g in torch.autograd.grad(sum(found.values()), list(module.parameters())))


def test_fewer_latents_than_k():
    module = SparseAutoEncoder(4, 6, k=256, k_aux=512)
    z = torch.randn(3, 4)
    torch.testing.assert_close(module(z), (z @ module.encoder.weight.T).relu())
    assert module.beside(z)[1]["from 4k"].shape == (3, 4)


def test_parts_of_csr():
    inner = {"name": "SparseTripletLoss", "triplet_margin": 1.0}
    csr = make("the loss", {"name": "CSRLoss", "loss": inner, "beta": 0.3, "gamma": 2.0}, losses, Loss)
    named = make("the loss", {"name": "CSRLoss", "loss": "SparseCoSENTLoss"}, losses, Loss)
    assert type(named.inner[0]) is losses.CoSENTLoss
    default = losses.CSRLoss()
    assert type(default.inner[0]) is losses.MultipleNegativesRankingLoss and default.inner[0].scale == 1
    assert (default.gamma, default.inner[1].beta) == (1.0, 0.1)
    module = autoencoder(8)
    inputs = [torch.randn(4, 8, dtype=torch.float64) for _ in range(3)]
    beside = [module.beside(x) for x in inputs]
    embeddings = [x for x, _ in beside]
    extra = {name: tuple(x[name] for _, x in beside) for name in csr.outputs(0, 0)}
    found, wanted = csr(embeddings, Batch(extra=extra)), reconstruction(module, inputs)
    wanted["base_loss"] = 2 * losses.TripletLoss(triplet_margin=1.0)(embeddings, Batch())
    torch.testing.assert_close(found, wanted)


# ---------------------------------------------------------------- steps


def take_steps(rank=0, world=1, budget=0, rows=ROWS, count=3, roles=()):
    """Three steps on the same rows: loss, parts, gradients of each, and the counts after it."""
    model, found = model_with(), {}
    wrapped = model if budget else collectives.wrap(model, has_routes=False)
    setup = Setup(model, wrapped, OFF, None, budget)
    for i in range(count):
        loss, model.stack[-1].encoder.weight.grad = losses.CSRLoss(losses.SparseMultipleNegativesRankingLoss()), None
        model.zero_grad()
        share = torch.arange(rows).tensor_split(world)[rank]
        columns = [model.tokenizer(sentences(rows, seed=10 * i + c)).packed().take(share) for c in range(2)]
        objective = Objective(loss, Batch(tuple(columns), (None, None)), 1.0, loss.outputs(i, 2))
        (mini_batched_step if budget else plain_step)(setup, objective, 0)
        model.stack.after_step(objective.embeddings, roles)
        found |= {f"{i} {name}": p.grad.clone() for name, p in model.named_parameters()} | {
            f"{i} loss": objective.value
        }
        found |= {f"{i} {name}": part for name, part in objective.parts.items()}
        found[f"{i} counts"] = model.stack[-1].stats_last_nonzero.clone()
    return found


WAYS = [(0, ROWS), (1, ROWS), (25, ROWS), (10**6, ROWS), (0, 1), (25, 1)]  # tokens of a mini-batch, rows


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        torch.testing.assert_close(found[name], x, atol=EXACT, rtol=EXACT, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("budget", [1, 25, 10**6])
def test_mini_batches_are_one_pass(budget):
    wanted = take_steps()
    assert all(wanted[f"0 stack.2.{n}"].abs().max() > 1e-6 for n in ("encoder.weight", "latent_bias", "pre_bias"))
    torch.testing.assert_close(
        wanted["0 loss"], sum(part for name, part in wanted.items() if name.startswith("0 ") and "_loss" in name)
    )
    assert_same(take_steps(budget=budget), wanted)


def rank_work(rank: int, folder: Path) -> None:
    torch.save({way: take_steps(rank, WORLD, *way) for way in WAYS}, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    """Counts too: of a rank that has no row as well."""
    run_ranks(rank_work, tmp_path)
    for rank in range(WORLD):
        for (budget, rows), found in torch.load(tmp_path / f"{rank}.pt").items():
            assert_same(found, take_steps(budget=budget, rows=rows))


def test_counts():
    """Steps since a text of any column chose the latent: 1 more for each step, 1 where one just did."""
    module = SparseAutoEncoder(2, 4, k=1, k_aux=1, dead_threshold=2)
    chosen = torch.tensor([[0.0, 0.5, 0, 0], [0, 1.0, 0, 0]]), torch.tensor([[0.0, 0, 1e-6, 0.1]])
    module.after_step(chosen)
    assert module.stats_last_nonzero.tolist() == [1, 1, 1, 1]
    module.after_step(chosen)
    assert module.stats_last_nonzero.tolist() == [2, 1, 2, 1]
    module.after_step(chosen[1:])
    assert module.stats_last_nonzero.tolist() == [3, 2, 3, 1]
    counts = take_steps()
    assert counts["0 counts"].max() == THRESHOLD + 2 and counts["2 counts"].max() == THRESHOLD + 4
    assert (counts["2 counts"] == 1).any() and (counts["2 counts"] == 3).any()


def test_embedding_counts_nothing():
    model = model_with()
    before = model.stack[-1].stats_last_nonzero.clone()
    model.encode(sentences(5))
    model([model.tokenizer(sentences(5)).packed()])
    assert torch.equal(model.stack[-1].stats_last_nonzero, before)


def test_other_models_offer_nothing():
    dense = tiny_model()
    with pytest.raises(ValueError, match="CSRLoss needs a model that ends in a SparseAutoEncoder, this one has a Pool"):
        losses.CSRLoss().attach(dense, (None, None), {})
    losses.CSRLoss().attach(model_with(), (None, None), {})
    with pytest.raises(ValueError, match="the output is 'layer 0', known are input, from k"):
        model_with().stack.embed(dense.tokenizer(["a"]).packed(), None, ("layer 0",))


# ---------------------------------------------------------------- folders and runs


def test_recorded_folder(tmp_path):
    """It is read, saved, and read again; either name of the weight is taken."""
    first = SparseEncoder(DATA / "folders/st6/csr")
    first.stack[-1].stats_last_nonzero[:5] = torch.arange(5)
    first.save(tmp_path / "again")
    again = SparseEncoder(tmp_path / "again")
    assert torch.equal(again.stack[-1].stats_last_nonzero, first.stack[-1].stats_last_nonzero)
    assert again.stack[-1].stats_last_nonzero.tolist()[:5] == [0, 1, 2, 3, 4]
    torch.testing.assert_close(again.encode(["the cat sat"]), first.encode(["the cat sat"]))
    config, weights = first.stack[-1].to_folder()
    assert set(weights) == {"decoder.linear.weight", "latent_bias", "pre_bias", "stats_last_nonzero"}
    weights["encoder.weight"] = weights.pop("decoder.linear.weight")
    other = SparseAutoEncoder.from_folder(config, weights)
    assert torch.equal(other.encoder.weight, first.stack[-1].encoder.weight)
    weights["latent_bias"] = weights["latent_bias"][:3]
    with pytest.raises(ValueError, match=r"latent_bias is \[3\], by its config.json it has shape \[64\]"):
        SparseAutoEncoder.from_folder(config, weights)


@pytest.mark.parametrize("budget", [0, pytest.param(40, marks=pytest.mark.slow)])
def test_run(tmp_path, monkeypatch, budget):
    """A run of 4 steps counts 4; stopped after 2 and resumed, it ends in the same model."""
    monkeypatch.chdir(tmp_path)
    model = model_with(dead_threshold=1).float()
    model.stack[-1].stats_last_nonzero.zero_()
    model.save(tmp_path / "start")
    texts = sentences(20)
    write_jsonl(tmp_path / "pairs.jsonl", [{"q": text, "d": text[::-1]} for text in texts])
    Path("c.toml").write_text(f"""
output = "run"
model.path = "start"
[[data]]
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
loss = {{ name = "CSRLoss", beta = 0.5 }}
[train]
batch_size = 5
max_steps = 4
mini_batch_tokens = {budget}
schedule = "constant"
log_every = 1
save_every = 2
lr = 1e-2
""")
    out = train()
    assert "reconstruction_loss_aux" in out
    whole = SparseEncoder("run/model")
    counts = whole.stack[-1].stats_last_nonzero
    assert counts.max() == 4 and (counts == 1).any()
    train("--set", "output=half", "--set", "train.max_steps=2")
    assert SparseEncoder("half/checkpoint-2").stack[-1].stats_last_nonzero.max() == 2
    train("--set", "output=half", "--resume")
    half = SparseEncoder("half/model")
    assert torch.equal(half.stack[-1].stats_last_nonzero, counts)
    torch.testing.assert_close(half.state_dict(), whole.state_dict())
