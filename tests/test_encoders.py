"""Encoders against recorded outputs, the branches of attention against each other, and loading of weights."""

import json

import pytest
import torch
import torch.nn.functional as F
from models import DATA
from safetensors.torch import load_file

from minist import Packed
from minist.encoders.attention import _padded, _runs, _varlen_flash, attention
from minist.encoders.weights import load_weights, modernize, save_weights
from minist.models.folder import load_encoder

RECORDED = json.loads((DATA / "encoders.json").read_text("utf-8"))["models"]


# ---------------------------------------------------------------- recorded outputs


def packed_of(entry):
    """The recorded rectangle without its padding."""
    seen = torch.tensor(entry["attention_mask"]).bool()
    types = torch.tensor(entry["token_type_ids"])[seen] if "token_type_ids" in entry else None
    return Packed.of(torch.tensor(entry["input_ids"])[seen], seen.sum(1), types)


def attended(entry, key):
    """What was recorded of the tokens that are no padding, [T, D]."""
    return torch.tensor(entry[key])[torch.tensor(entry["attention_mask"]).bool()]


def run_encoder(name, packed):
    with torch.inference_mode():
        return load_encoder(DATA / "enc" / name).eval()(packed)


@pytest.mark.parametrize("name", ["bert", "mpnet"])
def test_last_hidden_state(name):
    entry = RECORDED[name]["texts"]
    output = run_encoder(name, packed_of(entry))
    torch.testing.assert_close(output, attended(entry, "last_hidden_state"), atol=1e-5, rtol=0)


def linear(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def layer_norm(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)


# The heads are not the encoder's, but their recorded logits tell whether the hidden states below them are right.
HEADS = {  # name -> (dense, norm, word embeddings, bias)
    "bert_mlm": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "bert", "cls.predictions"),
    "mpnet_mlm": ("lm_head.dense", "lm_head.layer_norm", "mpnet", "lm_head"),
}
CLASSIFIERS = {
    "bert_cls": ("bert.pooler.dense", "classifier"),
    "mpnet_cls": ("classifier.dense", "classifier.out_proj"),
}


@pytest.mark.parametrize("name", HEADS)
def test_masked_language_model_checkpoint(name):
    state, entry = load_file(DATA / "enc" / name / "model.safetensors"), RECORDED[name]["texts"]
    dense, norm, prefix, bias = HEADS[name]
    x = layer_norm(F.gelu(linear(run_encoder(name, packed_of(entry)), state, dense)), state, norm)
    logits = x @ state[f"{prefix}.embeddings.word_embeddings.weight"].T + state[f"{bias}.bias"]
    torch.testing.assert_close(logits, attended(entry, "logits"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", ["texts", "pairs"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_checkpoint(name, key):
    state, entry = load_file(DATA / "enc" / name / "model.safetensors"), RECORDED[name][key]
    dense, out = CLASSIFIERS[name]
    packed = packed_of(entry)
    first = run_encoder(name, packed)[packed.cu_seqlens[:-1]]
    logits = linear(torch.tanh(linear(first, state, dense)), state, out)
    torch.testing.assert_close(logits, torch.tensor(entry["logits"]), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- attention

HEADS_AND_WIDTH = (3, 8)
LENGTHS = [5, 5, 5, 1, 1, 9, 2, 5, 17]


def attention_inputs(dtype, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    packed = Packed.of(torch.zeros(sum(LENGTHS), dtype=torch.long), torch.tensor(LENGTHS)).to(torch.device(device))
    shape = (sum(LENGTHS), *HEADS_AND_WIDTH)
    qkv = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]
    bias = torch.randn(HEADS_AND_WIDTH[0], max(LENGTHS), max(LENGTHS), generator=generator).to(device, dtype)
    return packed, qkv, bias.requires_grad_()


def naive(q, k, v, packed, bias):
    """softmax(q k^T / sqrt(D/H) + bias) v, one text after the other."""
    outputs = []
    for qt, kt, vt in zip(*(x.split(packed.lengths.tolist()) for x in (q, k, v)), strict=True):
        scores = torch.einsum("ihd,jhd->hij", qt, kt) / qt.shape[-1] ** 0.5
        if bias is not None:
            scores = scores + bias[:, : len(qt), : len(qt)]
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), vt))
    return torch.cat(outputs)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("branch", [_padded, _runs])
def test_branches_equal_the_definition(branch, dtype, has_bias):
    packed, qkv, bias = attention_inputs(dtype)
    bias = bias if has_bias else None
    inputs = [*qkv, bias] if has_bias else qkv
    weights = torch.linspace(-1, 1, 24, dtype=dtype).view(HEADS_AND_WIDTH)  # so that every output counts differently
    wanted, given = naive(*qkv, packed, bias), branch(*qkv, packed, bias, 0.0)
    torch.testing.assert_close(given, wanted, atol=1e-6, rtol=0)
    gradients = [torch.autograd.grad((x * weights).sum(), inputs) for x in (given, wanted)]
    torch.testing.assert_close(*gradients, atol=3e-6 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("has_bias", [False, True])
def test_half_precision_with_gradients(has_bias):
    packed, qkv, bias = attention_inputs(torch.bfloat16)
    bias = bias if has_bias else None
    given = attention(*qkv, packed, bias=bias)
    wanted = naive(*(x.float() for x in qkv), packed, None if bias is None else bias.float())
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given.float(), wanted, atol=0.02, rtol=0)


def test_dropout_is_applied():
    packed, qkv, _ = attention_inputs(torch.float32)
    assert not torch.equal(attention(*qkv, packed, dropout=0.5), attention(*qkv, packed))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_varlen_flash_equals_the_definition(dtype):
    packed, qkv, _ = attention_inputs(dtype, "cuda")
    wide = [x.detach().float().requires_grad_() for x in qkv]
    given, wanted = _varlen_flash(*qkv, packed), naive(*wide, packed, None)
    torch.testing.assert_close(given.float(), wanted, atol=0.02, rtol=0)
    gradients = torch.autograd.grad(given.float().pow(2).sum(), qkv)
    torch.testing.assert_close(
        [g.float() for g in gradients], list(torch.autograd.grad(wanted.pow(2).sum(), wide)), atol=0.1, rtol=0.05
    )


# ---------------------------------------------------------------- weights

MODELS = ["bert", "mpnet"]
FIRST_QUERY = {
    "bert": "encoder.layer.0.attention.self.query.weight",
    "mpnet": "encoder.layer.0.attention.attn.q.weight",
}


def checkpoint(name):
    return load_file(DATA / "enc" / name / "model.safetensors"), load_encoder(DATA / "enc" / name)


@pytest.mark.parametrize("name", MODELS)
def test_saved_weights_are_the_loaded_ones(name):
    state, encoder = checkpoint(name)
    saved = save_weights(encoder, encoder.weights)
    assert saved.keys() == {key for key in state if not key.startswith("pooler.")}
    for key, weight in saved.items():
        assert torch.equal(weight, state[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_missing_weight(name):
    state, encoder = checkpoint(name)
    del state[FIRST_QUERY[name]]
    with pytest.raises(ValueError, match=f"lacks the weight {FIRST_QUERY[name]}$"):
        load_weights(encoder, state, encoder.weights)


@pytest.mark.parametrize("name", MODELS)
def test_wrong_shape(name):
    state, encoder = checkpoint(name)
    state[FIRST_QUERY[name]] = state[FIRST_QUERY[name]][:, :-1]
    with pytest.raises(ValueError, match=rf"{FIRST_QUERY[name]} has shape \[16, 15\].* \[16, 16\]"):
        load_weights(encoder, state, encoder.weights)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unknown", ["encoder.layer.2.output.dense.weight", "embeddings.more.weight"])
def test_unknown_weight(name, unknown):
    state, encoder = checkpoint(name)
    state[unknown] = torch.zeros(16, 32)
    with pytest.raises(ValueError, match=f"holds {unknown}"):
        load_weights(encoder, state, encoder.weights)


def test_what_lies_beside_the_encoder_is_ignored():
    state, encoder = checkpoint("bert")
    state |= {"pooler.more.weight": torch.zeros(2), "embeddings.position_ids": torch.arange(64)}
    load_weights(encoder, state, encoder.weights)


def test_half_precision_weights_become_float32():
    state, encoder = checkpoint("bert")
    load_weights(encoder, {key: weight.bfloat16() for key, weight in state.items()}, encoder.weights)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_old_names_and_prefixes():
    one, two, three = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    old = {"bert.norm.gamma": one, "bert.norm.beta": two, "cls.norm.weight": three}
    assert modernize(old, "bert.") == {"norm.weight": one, "norm.bias": two}
    assert modernize({"norm.weight": one, "alphabeta.bias": two}, "bert.") == {
        "norm.weight": one,
        "alphabeta.bias": two,
    }
