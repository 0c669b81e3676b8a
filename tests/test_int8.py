"""Linear layers in 8 bits: each trick against its definition, every family and kind of model beside float32."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import docstrings, real_model
from tiny import run_script, sentences, tiny_model
from torch import nn

from minist import CrossEncoder, SentenceTransformer, SparseEncoder
from minist.encoders.bert import BertLayer
from minist.models import device as device_file
from minist.models.merging import merge
from minist.modules.int8 import COPIES, FUSED, WIDEST, Codes, Int8Down, Int8Linear, Int8Up
from minist.modules.static_embedding import StaticEmbedding
from minist.retrieval.embedding_cache import seal

ENC = Path(__file__).parent / "data" / "enc"
LARGEST = (127, 63)


def random_input(rows, columns, seed=0, wide=()):
    """[rows, columns], in which `wide` columns are thirty times as wide as the rest."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    x[:, list(wide)] *= 30
    return x


def random_linear(inputs, outputs, bias=True):
    torch.manual_seed(1)
    return nn.Linear(inputs, outputs, bias=bias)


def range_of(x):
    return torch.stack([x.amin(0), x.amax(0)])


def error(found, wanted):
    """The length of the difference, where `wanted` has length 1."""
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.0, 3.0), (2.0, 3.0), (-3.0, -2.0), (0.0, 0.0), (-1e-9, 1e3)])
def test_codes_reach_their_ends_and_know_zero(low, high):
    step, zero = Codes.between(low, high)
    assert 0 <= zero <= 255
    for x in (low, high, 0.0):
        code = min(max(round(x / step) + zero, 0), 255)
        assert abs(step * (code - zero) - x) <= step * 0.5001 + 1e-12


@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "wide"), [(3, ()), (40, ()), (96, (5, 60))])
def test_a_linear_layer(inputs, wide, bias, largest):
    x, plain = random_input(200, inputs, wide=wide), random_linear(inputs, 30, bias)
    found = Int8Linear(plain, range_of(x), largest)(x)
    assert found.dtype == torch.float32
    assert error(found, plain(x)) < 0.02


def test_wide_columns_cost_the_others_nothing():
    """One range for all columns of this input would lose three quarters of what the narrow ones say."""
    x, plain = random_input(200, 96, wide=(5, 60)), random_linear(96, 30)
    with torch.no_grad():
        plain.weight[:, [5, 60]] = 1e-3  # so that the others count
    layer = Int8Linear(plain, range_of(x), 127)
    step = 2 * x.abs().amax() / 255
    one_range = plain((x / step).round() * step)
    assert error(layer(x), plain(x)) < 0.25 * error(one_range, plain(x))


def test_copies_of_a_column_sum_to_a_code_of_more_steps():
    """sum_j floor(a + (j + 1/2) / m) = round(m a), Hermite's identity, for a layer that has wide columns alone."""
    x, plain = random_input(300, WIDEST), random_linear(WIDEST, 4)
    layer = Int8Linear(plain, range_of(x), 127)
    zero, codes = layer.product.given.zero, layer.codes(x).long()
    summed = codes.unflatten(1, (COPIES, WIDEST))  # the first copy in the columns' order, the others widest first
    order = layer.repeated[:WIDEST]
    total = summed[:, 0] - zero
    total[:, order] += (summed[:, 1:] - zero).sum(1)
    exact = COPIES * x * layer.factors[0]
    assert (total - exact).abs().max() <= 0.501


def test_numbers_beyond_the_range_are_cut():
    plain = nn.Linear(1, 1, bias=False)
    nn.init.ones_(plain.weight)
    layer = Int8Linear(plain, torch.tensor([[-1.0], [2.0]]), 127)
    found = layer(torch.tensor([[-50.0], [-1.0], [0.0], [2.0], [50.0], [float("inf")]]))
    torch.testing.assert_close(found[:, 0], torch.tensor([-1.0, -1.0, 0.0, 2.0, 2.0, 2.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("largest", LARGEST)
@pytest.mark.parametrize("act", list(FUSED))
def test_a_perceptron(act, largest):
    x, up, down = random_input(300, 32), random_linear(32, 80), random_linear(80, 32)
    with torch.no_grad():
        up.bias[[3, 50]] += 20  # two neurons are far wider than the rest
    inner = act(up(x)).detach()
    wanted = down(inner)
    first = Int8Up(up, act, range_of(x), range_of(inner), largest)
    found = Int8Down(down, first, largest)(first(x))
    assert {3, 50} <= set(first.apart.tolist())
    assert error(found, wanted) < 0.03
    half = first(x.bfloat16())
    assert (half[0].dtype, half[1].dtype) == (torch.uint8, torch.bfloat16)


def families():
    return sorted(folder.name for folder in ENC.iterdir() if "_" not in folder.name)


@pytest.mark.parametrize("name", families())
def test_every_family(name):
    texts = sentences(40)
    plain, small = (SentenceTransformer(ENC / name, device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    a, b = (model.encode(texts, normalize_embeddings=True) for model in (plain, small))
    assert (a * b).sum(1).mean() > 0.995
    layer = small.encoders[0].layers[0]
    assert isinstance(layer.qkv, Int8Linear)
    assert isinstance(layer.down, Int8Down if isinstance(layer, BertLayer) else nn.Linear)
    np.testing.assert_array_equal(b, small.encode(texts, normalize_embeddings=True))
    assert small.encode([]).shape == (0, small.out_width)


@pytest.mark.parametrize("act", ["relu", "gelu_new", "silu"])
def test_other_activations(act):
    model = tiny_model(encoder={"hidden_act": act})
    texts, before = sentences(40), model.encode(sentences(40), normalize_embeddings=True)
    device_file.place(model, "cpu", "int8")
    assert (model.encode(texts, normalize_embeddings=True) * before).sum(1).mean() > 0.99
    assert isinstance(model.encoders[0].layers[0].down, nn.Linear if act == "silu" else Int8Down)


@pytest.mark.parametrize(("kind", "name"), [(CrossEncoder, "bert_cls"), (SparseEncoder, "bert_mlm")])
def test_other_kinds_of_models(kind, name):
    plain, small = (kind(ENC / name, device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    texts = sentences(30)
    if kind is CrossEncoder:
        a, b = (model.predict(list(zip(texts, texts[::-1], strict=True))) for model in (plain, small))
    else:
        a, b = (model.encode(texts).to_dense().numpy() for model in (plain, small))
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
def test_copies_do_the_same(act):
    """What oneDNN has packed cannot be copied: it is packed again."""
    model = tiny_model(encoder={"hidden_act": act})
    device_file.place(model, "cpu", "int8")
    wanted = model.encode(sentences(9))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.encode(sentences(9)), wanted)


@pytest.mark.parametrize(
    ("flags", "largest", "dtype"),
    [("avx2", 63, "float32"), ("avx512_vnni", 127, "float32"), ("amx_int8 amx_bf16", 127, "bfloat16")],
)
def test_what_the_processor_decides(tmp_path, monkeypatch, flags, largest, dtype):
    monkeypatch.setattr(device_file, "CPU_INFO", tmp_path / "cpuinfo")
    device_file.CPU_INFO.write_text(f"flags : fpu {flags}\n")
    model = SentenceTransformer(ENC / "bert", device="cpu", dtype="int8")
    assert model.encoders[0].layers[0].qkv.product.codes.abs().max() == largest
    assert str(model.dtype) == f"torch.{dtype}"


def test_a_kernel_of_older_processors(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # which sums in 16 bits, whatever the processor can
    model = SentenceTransformer(ENC / "bert", device="cpu", dtype="int8")
    assert model.encoders[0].layers[0].qkv.product.codes.abs().max() == 63


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}")


def test_what_it_is_not_for(tmp_path, monkeypatch):
    model = SentenceTransformer(ENC / "bert", device="cpu", dtype="int8")
    others = SentenceTransformer.from_modules(list(model.stack), model.tokenizer)  # shares the encoder
    for open_model in (model, others):
        with refused('a model opened with dtype "int8" cannot be saved: open it in float32 for that'):
            open_model.save(tmp_path / "model")
        with refused('dtype "int8" is for plain weights, and the model is in int8 already'):
            device_file.place(open_model, "cpu", "int8")
    assert not (tmp_path / "model").exists()
    with refused('a model opened with dtype "int8" cannot be trained'):
        model.add_adapter(2, 4)
    with refused('a model opened with dtype "int8" cannot be pushed'):
        model.push_to_hub("somebody/something")
    with refused('a model opened with dtype "int8" cannot be the source of embeddings that are kept'):
        seal(model, "document", "", ["a"])
    plain = SentenceTransformer(ENC / "bert", device="cpu")
    for models in ((model, plain), (plain, model)):
        with refused('a model opened with dtype "int8" cannot be merged'):
            merge(models, [1, 1])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    monkeypatch.setattr(device_file, "find_device", torch.device)
    for device in ("cuda", ["cuda:0", "cpu"]):
        with refused('a model of dtype "int8" stays on the CPU, and device is cuda'):
            model.encode(["a"], device=device)
    with refused('dtype "int8" is for a CPU, and device is cuda: use "bfloat16" there, or device "cpu"'):
        SentenceTransformer(ENC / "bert", device="cuda", dtype="int8")


def test_models_that_cannot(tmp_path, monkeypatch):
    tiny_model().save(tmp_path / "model")
    model = SentenceTransformer(tmp_path / "model", device="cpu")
    model.add_adapter(2, 4)
    with refused('dtype "int8" is for plain weights, and the model has an adapter: call merge_adapter()'):
        device_file.place(model, "cpu", "int8")
    static = StaticEmbedding(model.tokenizer.vocab_size, 4)
    with refused('dtype "int8" is for encoders, and the model has none'):
        device_file.place(SentenceTransformer.from_modules([static], model.tokenizer), "cpu", "int8")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with refused('dtype "int8" needs oneDNN'):
        device_file.place(tiny_model(), "cpu", "int8")


@pytest.mark.slow
def test_several_processes():
    model = SentenceTransformer(ENC / "bert", device="cpu", dtype="int8")
    texts = sentences(40)
    found = model.encode(texts, device=["cpu", "cpu"])
    np.testing.assert_allclose(found, model.encode(texts), atol=0.02 * np.abs(found).max(), rtol=0)


def test_encode_py(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(20)))
    found = []
    for dtype in ("float32", "int8"):
        out = tmp_path / f"{dtype}.npy"
        code, _, err = run_script("encode.py", "--model", ENC / "bert", texts, "--output", out, "--dtype", dtype)
        assert (code, err.count("Traceback")) == (0, 0), err
        found.append(F.normalize(torch.from_numpy(np.load(out)), dim=1))
    assert (found[0] * found[1]).sum(1).mean() > 0.995


@pytest.mark.real_model
def test_all_minilm_keeps_its_neighbours():
    texts = list(docstrings())[::12][:300]
    models = [SentenceTransformer(real_model("all-MiniLM-L6-v2"), device="cpu", dtype=d) for d in ("float32", "int8")]
    a, b = (torch.from_numpy(model.encode(texts, normalize_embeddings=True)) for model in models)
    assert (a * b).sum(1).mean() > (0.999 if device_file.multiplies_int8_fast() else 0.998)
    first, second = ((x @ x.T).fill_diagonal_(-1).topk(10).indices.tolist() for x in (a, b))
    kept = [len({*one} & {*other}) / 10 for one, other in zip(first, second, strict=True)]
    assert np.mean(kept) > 0.95
