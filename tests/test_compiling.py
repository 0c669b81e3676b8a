"""Compiled layers give the numbers of plain ones: in one pass, in three phases, run again, and under DDP."""

import os
import shutil
import socket

import pytest
import torch
from tiny import sentences, tiny_model
from torch._dynamo.utils import counters

from minist import distributed
from minist.batch import Batch
from minist.losses import MultipleNegativesRankingLoss
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.static_embedding import StaticEmbedding
from minist.training.compiling import compile_layers
from minist.training.gradcache import gradcache

LOSS = MultipleNegativesRankingLoss(scale=5.0)


def texts(seed, n=9):
    """Three columns."""
    return [sentences(n, seed=3 * seed + c, longest=10 + seed) for c in range(3)]


def gradients(model, columns, run=None):
    """The loss and all gradients, of one pass or of what `run` does."""
    model.zero_grad()
    if run is None:
        value = LOSS(model(columns), Batch())
        value.backward()
    else:
        value = run()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def pack(model, columns):
    return [model.tokenizer(column).packed() for column in columns]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.fixture(scope="module", params=["bert"])
def models(request):
    """The same model plain and compiled."""
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    fields = {"model_type": request.param, "max_position_embeddings": 36, "num_hidden_layers": 2}
    plain, compiled = (tiny_model(encoder=fields).train() for _ in range(2))
    names = list(compiled.state_dict())
    compile_layers(compiled)
    assert list(compiled.state_dict()) == names
    return plain, compiled


def test_numbers_and_no_compiling_for_every_batch(models):
    plain, compiled = models
    graphs = []
    for seed in range(6):
        columns = pack(plain, texts(seed, n=5 + seed))
        close(gradients(compiled, columns), gradients(plain, columns))
        with torch.no_grad():
            close(compiled(columns), plain(columns))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert len(set(graphs[1:])) == 1, graphs  # a number of tokens that is also a width may be compiled once more


def test_three_phases(models):
    """Also with a rank's share of no rows, with layers that run again, and with one text in a mini-batch."""
    plain, compiled = models
    columns = pack(plain, texts(1))
    for max_tokens, recompute in [(60, False), (1, False), (60, True)]:
        compiled.stack[0].checkpoint_layers = recompute

        def three_phases(max_tokens=max_tokens):
            return gradcache(lambda t, c: compiled([t])[0], columns, lambda e: LOSS(e, Batch()), max_tokens, seed=7)

        close(gradients(compiled, columns, three_phases), gradients(plain, columns))
    compiled.stack[0].checkpoint_layers = False
    none = compiled([column.slice(0, 0) for column in columns])
    assert [x.shape for x in none] == [(0, 16)] * 3
    sum(x.sum() for x in none).backward()


def test_both_passes_drop_the_same(models):
    """Those of GradCache: without gradients and with."""
    _, compiled = models
    columns = pack(compiled, texts(2))
    compiled.set_dropout(0.3, 0.3)
    torch.manual_seed(5)
    with torch.no_grad():
        first = compiled(columns)
    torch.manual_seed(5)
    second = compiled(columns)
    other = compiled(columns)
    compiled.set_dropout(0.0, 0.0)
    close([x.detach() for x in second], first)
    assert (other[0] - first[0]).abs().max() > 0.1


def test_distributed_data_parallel(models):
    """A group of one, but real DDP: its hooks on the gradients, and what torch.compile does inside of it."""
    plain, compiled = models
    columns = pack(plain, texts(3))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        wrapped = distributed.wrap(compiled, has_routes=False)
        compiled.zero_grad()
        value = LOSS(wrapped(columns), Batch())
        value.backward()
        found = value.detach(), {name: p.grad.clone() for name, p in compiled.named_parameters()}
    finally:
        distributed.stop()
    assert wrapped is not compiled
    close(found, gradients(plain, columns))


# ---------------------------------------------------------------- errors


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="there is no no-such-compiler: install it, or set CXX"):
        compile_layers(tiny_model())


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_without_an_encoder():
    with pytest.raises(ValueError, match="this model has none"):
        compile_layers(SentenceTransformer.from_modules([StaticEmbedding(10, 4)], tiny_model().tokenizer))
