"""What holds for every loss, alone and inside every wrapper. shelf.py lists them.

slow        it is what its formula says, written in python loops
gradient    its gradient is that of finite differences
phases      mini-batches through the model give the value and the gradients of one pass
ranks       two processes give those of one
better      a better pair lowers it
"""

import math
import random
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from shelf import (
    CASES,
    LAYER_WEIGHTS,
    LAYERS,
    SHELF,
    SPLADE_WEIGHTS,
    TEMPERATURE,
    WIDTH,
    Case,
    Example,
    random_columns,
    vectors,
)
from slow_losses import SLOW, flops
from tiny import WORDS, tiny_model
from torch import Tensor, nn
from two_ranks import WORLD, run_ranks

from minist import Batch, Packed, collectives
from minist.losses.base import Loss, total
from minist.losses.wrapper import Wrapper
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.router import Router
from minist.training.gradcache import gradcache
from minist.training.step import Objective

EXACT = 1e-12
STEP = 7  # at which "one layer" draws layer 1, "two widths" 5 and 8, and "2d" not 8
BY_NAME = {str(case): case for case in CASES}
PLAIN = [case for case in CASES if case.wrapper == "plain"]
FIRST = {example.loss: example for example in reversed(SHELF)}.values()  # one example of each loss
WRAPPED = [case for case in CASES if case.wrapper != "plain" and case.example in FIRST]
SOME = [*PLAIN, *WRAPPED]


def batch_of(case: Case, rows: int) -> Batch:
    """Labels and guide in double precision, classes as they are."""
    batch = case.example.batch(rows)
    labels = batch.labels.double() if batch.labels is not None and batch.labels.is_floating_point() else batch.labels
    return batch._replace(labels=labels, guide=tuple(x.double() for x in batch.guide), step=STEP)


def embeddings_of(case: Case, loss: Loss) -> tuple[list[Tensor], dict[str, tuple[Tensor, ...]]]:
    """Those of the whole model, and those of the layers that the loss asks for."""
    names = loss.outputs(STEP, LAYERS)
    layers = {name: tuple(random_columns(case.example.columns, seed=i)) for i, name in enumerate(names, 1)}
    return random_columns(case.example.columns), layers


# ---------------------------------------------------------------- equals its definition

OWN_PARAMETERS: dict[str, Callable[[Loss], dict[str, Tensor]]] = {
    "ContrastiveTensionLossInBatchNegatives": lambda loss: {"logit_scale": loss.logit_scale},
    "EmbedDistillLoss": lambda loss: dict(loss.projection.named_parameters()),
    "SoftmaxLoss": lambda loss: dict(loss.classifier.named_parameters()),
}
OTHER_NAMES = {"concatenation_sent_multiplication": "multiplication"}
ONLY_FOR_PARAMETERS = {"embedding_dimension", "num_labels", "projection_dim"}

Inner = Callable[[list[Tensor], Batch], Tensor]


def slow_plain(example: Example, loss: Loss) -> Inner:
    """The definition, with the options of the example and the parameters of the loss."""
    options = {OTHER_NAMES.get(k, k): v for k, v in example.options.items() if k not in ONLY_FOR_PARAMETERS}
    if example.loss in OWN_PARAMETERS:
        options |= OWN_PARAMETERS[example.loss](loss)
    return lambda x, batch: total(SLOW[example.loss](x, batch, **options))


def slow_matryoshka(inner: Inner, case: Case, x: list[Tensor], batch: Batch, n_dims: int) -> Tensor:
    """sum_d w_d L(x[:d] / |x[:d]|); a teacher's embeddings are cut, a guide's and scores are not"""
    chosen = sorted(case.dims, reverse=True)
    if n_dims < len(chosen):
        chosen = random.Random(f"0 {STEP} dimensions").sample(chosen, n_dims)
    value = torch.zeros((), dtype=torch.float64)
    for dim in chosen:
        cut = [torch.stack([row[:dim] / row[:dim].pow(2).sum().sqrt() for row in column]) for column in x]
        labels = batch.labels[:, :dim] if case.example.labels is vectors else batch.labels
        value = value + case.dims[dim] * inner(cut, batch._replace(labels=labels))
    return value


def slow_layers(inner: Inner, x: list[Tensor], batch: Batch, layer_weight: Callable[[int], float]) -> Tensor:
    """w_last L(e) + sum_l w_prior c_l L(e_l) / |S| + w_kl T KL(softmax(e / T) || softmax(e_l / T))"""
    value, (last, prior, kl) = 0, LAYER_WEIGHTS.values()
    for name, shallow in batch.extra.items():
        value = value + prior * layer_weight(int(name.split()[1])) * inner(list(shallow), batch) / len(batch.extra)
        texts = [pair for columns in zip(x, shallow, strict=True) for pair in zip(*columns, strict=True)]
        for deep, student in texts:
            p, q = ((y / TEMPERATURE).exp() / (y / TEMPERATURE).exp().sum() for y in (deep.detach(), student))
            value = value + kl * TEMPERATURE * (p * (p / q).log()).sum() / len(texts)
    return value + last * inner(x, batch)


def slow_prices(x: list[Tensor]) -> Tensor:
    """w_d mean_i sum_j |w_ij|  of documents  +  w_q sum_j (mean_i |w_ij|)^2  of queries"""
    texts = [row for column in x[1:] for row in column]
    documents = sum(row.abs().sum() for row in texts) / len(texts)
    return SPLADE_WEIGHTS[0] * documents + SPLADE_WEIGHTS[1] * flops(x[:1], Batch())


def slow(case: Case, loss: Loss, x: list[Tensor], batch: Batch) -> Tensor:
    """The definition of the loss inside the formula of its wrapper."""
    plain = slow_plain(case.example, innermost(loss))
    formulas: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain(x, batch),
        "matryoshka": lambda: slow_matryoshka(plain, case, x, batch, len(case.dims)),
        "two widths": lambda: slow_matryoshka(plain, case, x, batch, 2),
        "all layers": lambda: slow_layers(plain, x, batch, lambda layer: 1 / (1 + math.log(1 + layer))),
        "one layer": lambda: slow_layers(plain, x, batch, lambda layer: 1 / (1 + layer)),
        "2d": lambda: slow_layers(lambda y, b: slow_matryoshka(plain, case, y, b, 1), x, batch, lambda layer: 1.0),
        "sum": lambda: 0.5 * plain(x, batch) + 2.0 * plain(x, batch),
        "splade": lambda: plain(x, batch) + slow_prices(x),
        "splade of documents": lambda: plain(x, batch) + SPLADE_WEIGHTS[0] * flops(x, batch),
    }
    return formulas[case.wrapper]()


def innermost(loss: Loss) -> Loss:
    """The first loss of a wrapper is the one that it is about."""
    return innermost(loss.inner[0]) if isinstance(loss, Wrapper) else loss


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slow(case):
    loss = case.make().double()
    x, layers = embeddings_of(case, loss)
    batch = batch_of(case, 4)._replace(extra=layers)
    found, wanted = total(loss(x, batch)), slow(case, loss, x, batch)
    leaves = [*x, *(y for layer in layers.values() for y in layer), *loss.parameters()]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    found, wanted = (torch.autograd.grad(y, leaves, materialize_grads=True, allow_unused=True) for y in (found, wanted))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert any(gradient.abs().max() > 1e-3 for gradient in wanted)


def test_draws():
    """What the steps are that STEP stands for: neither all layers nor the first, neither all widths nor the widest."""
    assert Case(SHELF[0], "one layer").make().outputs(STEP, LAYERS) == ("layer 1",)
    assert Case(SHELF[0], "all layers").make().outputs(STEP, LAYERS) == ("layer 0", "layer 1")
    assert sorted(random.Random(f"0 {STEP} dimensions").sample([8, 5, 3], 2)) == [5, 8]
    assert random.Random(f"0 {STEP} dimensions").sample([8, 5, 3], 1) != [8]


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("case", [case for case in SOME if not case.example.options.get("hardness_mode")], ids=str)
def test_gradient(case):
    """Hardness is left out: it is a weight without gradient. So is the teacher of the layers, which is held fixed."""
    check_gradient(case, 0.0, fixed=0)
    if case.has_layers:
        check_gradient(case, TEMPERATURE, fixed=case.example.columns)


def check_gradient(case: Case, kl_temperature: float, fixed: int) -> None:
    """Of all but the first `fixed` tensors: embeddings, layers' embeddings, the loss's parameters."""
    loss = case.make(kl_temperature).double()
    x, layers = embeddings_of(case, loss)
    names, parameters = list(layers), dict(loss.named_parameters())
    leaves = [*x, *(y for layer in layers.values() for y in layer)]

    def value(*given: Tensor) -> Tensor:
        columns = [given[i : i + len(x)] for i in range(0, len(leaves), len(x))]
        batch = batch_of(case, 4)._replace(extra=dict(zip(names, columns[1:], strict=True)))
        own = dict(zip(parameters, given[len(leaves) :], strict=True))
        return total(torch.func.functional_call(loss, own, (columns[0], batch)))

    free = [y.detach().requires_grad_(i >= fixed) for i, y in enumerate([*leaves, *parameters.values()])]
    assert torch.autograd.gradcheck(value, free, fast_mode=True)


# ---------------------------------------------------------------- mini-batches and ranks

ROWS = 5  # two ranks have 3 and 2


def model_for(towers: bool) -> SentenceTransformer:
    """A small model in double precision: one encoder, or one for each of two roles."""
    encoder = {"hidden_size": WIDTH, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": LAYERS}
    model = tiny_model(encoder=encoder)
    if towers:
        other = tiny_model(seed=1, encoder=encoder)
        router = Router({"query": list(model.stack), "document": list(other.stack)}, "query")
        model = SentenceTransformer.from_modules([router], model.tokenizer)
    return model.double().train()


def has_towers(case: Case) -> bool:
    """ContrastiveTension has two copies of the model."""
    return case.example.loss.startswith("ContrastiveTension") and case.example.columns == 2


def texts_of(columns: int, rows: int) -> list[list[str]]:
    """Texts of 1 to 4 words, all different."""
    draw = random.Random(0)
    return [[" ".join(draw.sample(WORDS, 1 + (c + row) % 4)) for row in range(rows)] for c in range(columns)]


def step(
    case: Case,
    rows: int,
    model: SentenceTransformer,
    way: nn.Module,
    rank: int = 0,
    world: int = 1,
    budget: int = 0,
) -> dict[str, Tensor]:
    """The loss of so many rows, and all gradients, as train.py does: in one pass, through DDP, or in three phases."""
    loss, columns = case.make().double(), case.example.columns
    outputs = loss.outputs(STEP, LAYERS)
    roles = ("query", "document") if has_towers(case) else (None,) * columns
    share = torch.arange(rows).tensor_split(world)[rank]
    packed = [model.tokenizer(texts).packed().take(share) for texts in texts_of(columns, rows)]
    objective = Objective(loss, batch_of(case, rows), 1.0, outputs)
    model.zero_grad()
    if budget:
        gradcache(lambda part, c: model([part], [roles[c]], outputs)[0], packed, objective, budget, 0)
        collectives.average_gradients([*model.parameters(), *loss.parameters()])
    else:
        objective(way(packed, roles, outputs)).backward()
        collectives.average_gradients(loss.parameters())
    gradients = {f"loss.{name}": p.grad for name, p in loss.named_parameters()}
    gradients |= {name: p.grad for name, p in model.named_parameters()}
    return {"value": objective.value} | {name: g for name, g in gradients.items() if g is not None}


@cache
def local_model(towers: bool) -> SentenceTransformer:
    return model_for(towers)


@cache
def one_pass(name: str, rows: int) -> dict[str, Tensor]:
    """What all ways to cut a batch are held against."""
    model = local_model(has_towers(BY_NAME[name]))
    return step(BY_NAME[name], rows, model, model)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        scale = max(1.0, x.abs().max().item())
        torch.testing.assert_close(
            found[name] / scale, x / scale, atol=EXACT, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("case", SOME, ids=str)
def test_phases(case):
    wanted = one_pass(str(case), ROWS)
    assert sum(x.abs().max() > 1e-6 for x in wanted.values()) > 20  # there is something to compare
    model = local_model(has_towers(case))
    for budget in (1, 30, 10**6) if case in PLAIN else (40,):
        assert_same(step(case, ROWS, model, model, budget=budget), wanted)


# ---------------------------------------------------------------- outputs of any width


class Wide(nn.Module):
    """A model with outputs that are not as wide as its embeddings, nor of their shape."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.parts, self.pairs = nn.Embedding(100, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 20)
        self.double()

    def forward(self, columns: Sequence[Packed]) -> list[tuple[Tensor, ...]]:
        sums = [
            torch.zeros(texts.n, WIDTH).double().index_add(0, texts.text_ids, self.words(texts.input_ids))
            for texts in columns
        ]
        return [(x.tanh(), self.parts(x), self.pairs(x).unflatten(1, (4, 5)), x.sum(1)) for x in sums]


class WideLoss(Loss):
    """Compares all rows with all rows by each of the outputs, so that a row of the wrong rank would be noticed."""

    def outputs(self, step: int, num_layers: int) -> tuple[str, ...]:
        return ("parts", "pairs", "sums")

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> dict[str, Tensor]:
        found = {"embeddings": tuple(embeddings)} | batch.extra
        assert [x.shape[1:] for x in next(zip(*found.values(), strict=True))] == [(WIDTH,), (3,), (4, 5), ()]
        return {
            name: (a.reshape(len(a), -1) @ b.reshape(len(b), -1).T).sin().square().diagonal().mean()
            + (a.reshape(len(a), -1) @ b.reshape(len(b), -1).T).tanh().mean()
            for name, (a, b) in found.items()
        }


WIDE_RUNS = [(ROWS, 0), (ROWS, 4), (ROWS, 10**6), (1, 0), (1, 4)]


def wide_step(rows: int, budget: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """The parts of the loss, and all gradients."""
    model, loss, draw = Wide(), WideLoss(), torch.Generator().manual_seed(3)
    share = torch.arange(rows).tensor_split(world)[rank]
    lengths = [torch.arange(rows) % 3 + 1, torch.arange(rows) % 2 + 2]
    packed = [Packed.of(torch.randint(100, (int(x.sum()),), generator=draw), x).take(share) for x in lengths]
    objective = Objective(loss, Batch(), 1.0, loss.outputs(0, 0))
    if budget:
        gradcache(lambda part, c: model([part])[0], packed, objective, budget, 0)
    else:
        objective(model(packed)).backward()
    collectives.average_gradients(model.parameters())
    return objective.parts | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "budget"), WIDE_RUNS)
def test_outputs_of_any_width(ranks, rows, budget):
    """Gathered, cut into mini-batches and on two ranks they are what they are in one pass."""
    wanted = wide_step(rows, 0)
    assert len(wanted) == 4 + 5 and all(x.abs().max() > 1e-6 for x in wanted.values())
    for found in (wide_step(rows, budget), *(rank[f"wide {rows} {budget}"] for rank in ranks)):
        assert_same(found, wanted)


# Which cases, how many rows, and tokens per mini-batch (0: one pass). A single row leaves a rank without any.
RUNS = [
    *[(case, rows, budget) for case in PLAIN for rows, budget in ((ROWS, 0), (ROWS, 30), (1, 0))],
    *[(case, ROWS, 40 if case.wrapper in ("one layer", "2d") else 0) for case in WRAPPED],
]


def run_name(run: tuple[Case, int, int]) -> str:
    case, rows, budget = run
    return f"{case}, {rows} rows" + f", mini-batches of {budget}" * (budget > 0)


def rank_work(rank: int, folder: Path) -> None:
    """Everything that one of the two ranks does: all runs, on the same models."""
    wrapped = {towers: collectives.wrap(model_for(towers), has_routes=towers) for towers in (False, True)}
    bare = {towers: model_for(towers) for towers in (False, True)}  # DDP would average these twice
    found = {}
    for run in RUNS:
        case, rows, budget = run
        way = wrapped[has_towers(case)]
        model = bare[has_towers(case)] if budget else way.module
        found[run_name(run)] = {k: x.clone() for k, x in step(case, rows, model, way, rank, WORLD, budget).items()}
    for rows, budget in WIDE_RUNS:
        found[f"wide {rows} {budget}"] = wide_step(rows, budget, rank, WORLD)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank found. One spawn serves all runs; an error in one of them is an error of all."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(rank_work, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=run_name)
def test_ranks(ranks, run):
    case, rows, _ = run
    for found in ranks:
        assert_same(found[run_name(run)], one_pass(str(case), rows))


# ---------------------------------------------------------------- a better pair

HAS_NO_PAIRS = {
    "AnglELoss": "its angle, |re + im|, is largest for vectors that are 45 degrees apart, not for equal ones",
    "GlobalOrthogonalRegularizationLoss-1": "each column is for itself, and shall be spread out",
    "GlobalOrthogonalRegularizationLoss-3": "each column is for itself, and shall be spread out",
    "SoftmaxLoss-2": "a class does not say how near two texts should be",
    "ContrastiveTensionLossInBatchNegatives-1": "a text and itself are as near as can be",
    "FlopsLoss": "each text is for itself, and shall have few words",
    "IDFFlopsLoss": "as FlopsLoss",
    "EmbedDistillLoss-2-projection_dim": "near to the teacher is what the loss's own layer makes of a text",
}


def has_pairs(case: Case) -> bool:
    return not str(case.example).startswith(tuple(HAS_NO_PAIRS))


def labels_of_pairs(case: Case, batch: Batch) -> Batch:
    """Where a teacher scores texts, the first one is by far the best."""
    if case.example.loss not in ("MarginMSELoss", "DistillKLDivLoss", "SparseDistillKLDivLoss"):
        return batch
    labels = torch.zeros(4, case.example.columns - 1, dtype=torch.float64)
    labels[:, 0] = 100
    return batch._replace(labels=labels)


def nearer(x: list[Tensor], batch: Batch, share: float) -> list[Tensor]:
    """What belongs together, moved towards each other by this share of the way."""
    first, labels = x[0].detach(), batch.labels
    if labels is not None and labels.shape == first.shape:  # a teacher's embeddings
        return [torch.lerp(column.detach(), labels, share) for column in x]
    if len(x) == 1:  # the last row and the one before the last, which is of the same class
        return [torch.cat([first[:3], torch.lerp(first[3:], first[1:2], share)])]
    chosen = labels == labels.max() if labels is not None and labels.dim() == 1 else torch.ones(4, dtype=torch.bool)
    second = torch.where(chosen[:, None], torch.lerp(x[1].detach(), first, share), x[1].detach())
    return [first, second, *(column.detach() for column in x[2:])]


@pytest.mark.parametrize("case", [case for case in SOME if has_pairs(case)], ids=str)
def test_better(case):
    """In all layers alike; what an AdaptiveLayerLoss adds to their losses is not about pairs, and left out."""
    loss = case.make(kl_temperature=0.0).double()
    x, layers = embeddings_of(case, loss)
    batch, values = labels_of_pairs(case, batch_of(case, 4)), []
    for share in (0.0, 0.15, 0.3):
        moved = {name: tuple(nearer(list(y), batch, share)) for name, y in layers.items()}
        values.append(total(loss(nearer(x, batch, share), batch._replace(extra=moved))).item())
    assert all(later < earlier - 1e-6 or earlier == later == 0 for earlier, later in pairwise(values)), values
    assert values[0] > values[1]
