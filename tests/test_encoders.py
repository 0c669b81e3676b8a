"""Encoders against recorded outputs, the branches of attention against each other, and loading of weights."""

import json
import weakref
from dataclasses import asdict, replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from models import DATA
from safetensors.torch import load_file

from minist import Packed
from minist.encoders import modernbert
from minist.encoders.bert import BertConfig
from minist.encoders.config import LARGEST
from minist.encoders.distilbert import DistilBertConfig
from minist.encoders.encoder import Encoder
from minist.encoders.families import ENCODERS
from minist.encoders.modernbert import FULL, SLIDING, ModernBertConfig
from minist.encoders.mpnet import MPNetConfig
from minist.encoders.roberta import RobertaConfig, RobertaEncoder, roberta_positions
from minist.encoders.weights import initialize, load_weights, modernize, save_weights
from minist.models.folder import load_module

RECORDED = json.loads((DATA / "encoders.json").read_text("utf-8"))["models"]
MODELS = ["bert", "mpnet", "roberta", "xlmr", "distilbert", "modernbert"]


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
        return load_module("Transformer", DATA / "enc" / name).eval()(packed)


def test_every_recorded_model_is_tested():
    assert RECORDED.keys() == {*MODELS, *HEADS, *CLASSIFIERS} == {path.name for path in (DATA / "enc").iterdir()}
    assert len(MODELS) == len(ENCODERS)


@pytest.mark.parametrize("name", MODELS)
def test_last_hidden_state(name):
    entry = RECORDED[name]["texts"]
    output = run_encoder(name, packed_of(entry))
    torch.testing.assert_close(output, attended(entry, "last_hidden_state"), atol=1e-5, rtol=0)


def linear(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(x, state, name):
    eps = 1e-5 if name == "head.norm" else 1e-12  # ModernBERT's, of the others
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state.get(f"{name}.bias"), eps)


# The heads are not the encoder's, but their recorded logits tell whether the hidden states below them are right.
WORDS = "embeddings.word_embeddings.weight"
HEADS = {  # name -> (dense, norm, word embeddings, bias)
    "bert_mlm": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        f"bert.{WORDS}",
        "cls.predictions",
    ),
    "mpnet_mlm": ("lm_head.dense", "lm_head.layer_norm", f"mpnet.{WORDS}", "lm_head"),
    "roberta_mlm": ("lm_head.dense", "lm_head.layer_norm", f"roberta.{WORDS}", "lm_head"),
    "distilbert_mlm": ("vocab_transform", "vocab_layer_norm", f"distilbert.{WORDS}", "vocab_projector"),
    "modernbert_mlm": ("head.dense", "head.norm", "model.embeddings.tok_embeddings.weight", "decoder"),
}
CLASSIFIERS = {  # name -> (dense, activation, out)
    "bert_cls": ("bert.pooler.dense", torch.tanh, "classifier"),
    "mpnet_cls": ("classifier.dense", torch.tanh, "classifier.out_proj"),
    "roberta_cls": ("classifier.dense", torch.tanh, "classifier.out_proj"),
    "xlmr_cls": ("classifier.dense", torch.tanh, "classifier.out_proj"),
    "distilbert_cls": ("pre_classifier", F.relu, "classifier"),
    "modernbert_cls": ("head.dense", F.gelu, "classifier"),
}


@pytest.mark.parametrize("name", HEADS)
def test_masked_language_model_checkpoint(name):
    state, entry = load_file(DATA / "enc" / name / "model.safetensors"), RECORDED[name]["texts"]
    dense, norm, words, bias = HEADS[name]
    x = layer_norm(F.gelu(linear(run_encoder(name, packed_of(entry)), state, dense)), state, norm)
    logits = x @ state[words].T + state[f"{bias}.bias"]
    torch.testing.assert_close(logits, attended(entry, "logits"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", ["texts", "pairs"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_checkpoint(name, key):
    state, entry = load_file(DATA / "enc" / name / "model.safetensors"), RECORDED[name][key]
    dense, act, out = CLASSIFIERS[name]
    packed = packed_of(entry)
    x = act(linear(run_encoder(name, packed)[packed.cu_seqlens[:-1]], state, dense))
    x = layer_norm(x, state, "head.norm") if "head.norm.weight" in state else x
    torch.testing.assert_close(linear(x, state, out), torch.tensor(entry["logits"]), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- layers

FAMILIES = list(ENCODERS)


def tiny_config(model_type, **fields):
    """A config of `model_type` with four layers of width 16."""
    own = {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24}
    common = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
    shape = {"vocab_size": 50, "max_position_embeddings": 64, "initializer_range": 0.3}
    return ENCODERS[model_type].config_class(**{**shape, **(own if model_type == "distilbert" else common), **fields})


def tiny_encoder(model_type, **fields):
    """The same with random weights, in eval mode."""
    torch.manual_seed(0)
    encoder = ENCODERS[model_type](tiny_config(model_type, **fields))
    initialize(encoder, 0.3)
    return encoder.eval()


def tiny_texts():
    lengths = torch.tensor([7, 1, 30])
    return Packed.of(torch.randint(2, 50, (38,), generator=torch.Generator().manual_seed(0)), lengths)


def layers_of(config):
    return config.n_layers if isinstance(config, DistilBertConfig) else config.num_hidden_layers


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_encoder_says_what_it_is(model_type):
    encoder = tiny_encoder(model_type)
    assert isinstance(encoder, Encoder)
    assert encoder.model_type == model_type
    assert encoder.width == encoder(tiny_texts()).shape[1] == 16
    assert encoder.config.vocab_size == 50
    assert encoder.config.max_length == (62 if model_type in ("mpnet", "roberta", "xlm-roberta") else 64)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_longest_text(model_type):
    encoder = tiny_encoder(model_type)
    longest = encoder.config.max_length
    assert encoder(Packed.of(torch.full((longest,), 5), torch.tensor([longest]))).shape == (longest, 16)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_hidden_states(model_type):
    encoder, packed = tiny_encoder(model_type), tiny_texts()
    states = list(encoder.hidden_states(packed))
    assert [x.shape for x in states] == [(38, 16)] * 5
    assert torch.equal(states[0], encoder.embeddings(packed))
    assert torch.equal(states[-1], encoder(packed))
    for a, b in pairwise(states):
        assert not torch.allclose(a, b)


def test_forward_keeps_no_other_state_alive():
    seen = []

    def states(packed, kept):
        for i in range(4):
            assert all(x() is None for x in seen[:-1])  # the one before is still held where this one is made
            x = torch.full((2,), i)
            seen.append(weakref.ref(x))
            yield x

    assert Encoder.forward(SimpleNamespace(hidden_states=states), None).tolist() == [3, 3]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_some_tokens_of_the_last_layer(model_type):
    """They are what they are among all tokens, and so are the gradients that they give."""
    encoder, packed, kept = tiny_encoder(model_type), tiny_texts(), torch.tensor([0, 7, 8, 20])
    found, whole = encoder(packed, kept), encoder(packed)[kept]
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)
    weights, names = list(encoder.parameters()), [name for name, _ in encoder.named_parameters()]
    gradients = [torch.autograd.grad(x.square().sum(), weights) for x in (found, whole)]
    for name, a, b in zip(names, *gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5, msg=name)


@pytest.mark.parametrize("numbers", [[0], [0, 1], [0, 2], [0, 1, 2, 3], (0, 3), range(3)])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_keep_layers(model_type, numbers):
    encoder, packed = tiny_encoder(model_type), tiny_texts()
    whole = list(tiny_encoder(model_type).hidden_states(packed))
    encoder.keep_layers(numbers)
    kept = list(encoder.hidden_states(packed))
    assert layers_of(encoder.config) == len(encoder.layers) == len(numbers) == len(kept) - 1
    alike = [n for n, number in enumerate(numbers, start=1) if number == n - 1]  # the layers below are all there
    for n in alike[: -1 if model_type == "modernbert" else None]:  # whose last one is normalized
        assert torch.equal(kept[n], whole[n])
    check_reloads(encoder, packed)


def check_reloads(encoder, packed):
    """The shortened config and the weights, numbered anew, make the same encoder."""
    again = type(encoder)(type(encoder.config)(**asdict(encoder.config))).eval()
    load_weights(again, save_weights(encoder, encoder.weights), encoder.weights)
    assert torch.equal(again(packed), encoder(packed))


@pytest.mark.parametrize("model_type", sorted({*FAMILIES} - {"modernbert"}))
def test_keep_layers_without_the_first(model_type):
    encoder, packed = tiny_encoder(model_type), tiny_texts()
    second, third = encoder.layers[1], encoder.layers[2]
    encoder.keep_layers([1, 2])
    assert list(encoder.layers) == [second, third]
    check_reloads(encoder, packed)


@pytest.mark.parametrize("numbers", [[], [1, 1], [2, 1], [4], [-1], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_layers_that_cannot_be_kept(model_type, numbers):
    encoder = tiny_encoder(model_type)
    with pytest.raises(ValueError, match=rf"given are \[{str(numbers)[1:-1]}\], .* from 0 to 3(, and a modern.*)?$"):
        encoder.keep_layers(numbers)
    assert len(encoder.layers) == layers_of(encoder.config) == 4


def test_modernbert_keeps_its_first_layer():
    with pytest.raises(ValueError, match=r"given are \[1, 2\], .* and a modernbert must keep its layer 0"):
        tiny_encoder("modernbert").keep_layers([1, 2])


def test_modernbert_keeps_the_kinds_of_its_layers():
    encoder = tiny_encoder("modernbert")
    assert encoder.config.kinds == [FULL, SLIDING, SLIDING, FULL]
    encoder.keep_layers([0, 1, 3])
    assert encoder.config.kinds == encoder.config.layer_types == [FULL, SLIDING, FULL]
    assert [layer.window for layer in encoder.layers] == [None, 64, None]


# ---------------------------------------------------------------- what only some families have


def test_positions_of_roberta():
    packed = Packed.of(torch.tensor([5, 1, 7, 1, 9, 3, 1, 4]), torch.tensor([4, 0, 1, 3]))
    assert roberta_positions(packed, 1).tolist() == [2, 1, 3, 1, 2, 2, 1, 3]
    assert roberta_positions(packed, 0).tolist() == [1, 2, 3, 4, 1, 1, 2, 3]


@pytest.mark.parametrize("types", [1, 2])
def test_roberta_has_no_token_types(types):
    """As with its tokenizers, also where there is a second row in the table."""
    encoder, packed = tiny_encoder("roberta", type_vocab_size=types), tiny_texts()
    assert torch.equal(encoder(packed), encoder(packed._replace(token_type_ids=torch.ones(38, dtype=torch.long))))


def test_modernbert_windows_matter():
    packed = tiny_texts()
    narrow, wide = tiny_encoder("modernbert", local_attention=8), tiny_encoder("modernbert", local_attention=60)
    a, b = ([*x(packed).split([7, 1, 30])] for x in (narrow, wide))
    assert torch.equal(a[1], b[1])
    assert not torch.allclose(a[2], b[2])
    odd = replace(narrow.config, local_attention=9)
    assert torch.equal(tiny_encoder("modernbert", **asdict(odd))(packed), narrow(packed))


def test_modernbert_reads_both_spellings():
    """Of transformers 4 and 5."""
    old = tiny_encoder("modernbert", global_attn_every_n_layers=2, global_rope_theta=500.0, local_rope_theta=50)
    rope = {FULL: {"rope_type": "default", "rope_theta": 500}, SLIDING: {"rope_type": "default", "rope_theta": 50.0}}
    new = tiny_encoder("modernbert", layer_types=[FULL, SLIDING, FULL, SLIDING], rope_parameters=rope)
    other = tiny_encoder("modernbert", layer_types=[FULL, SLIDING, FULL, SLIDING])
    assert torch.equal(old(tiny_texts()), new(tiny_texts()))
    assert not torch.allclose(old(tiny_texts()), other(tiny_texts()))
    assert (new.config.global_rope_theta, new.config.local_rope_theta) == (500, 50)  # for readers of the older one
    half = tiny_config("modernbert", rope_parameters={FULL: None, SLIDING: {"rope_theta": 7.0}})
    assert (half.global_rope_theta, half.local_rope_theta) == (160000, 7)


@pytest.mark.parametrize("field", ["attention_bias", "mlp_bias", "norm_bias"])
def test_modernbert_biases(field):
    plain, with_bias = tiny_encoder("modernbert"), tiny_encoder("modernbert", **{field: True})
    more = dict(with_bias.named_parameters()).keys() - dict(plain.named_parameters()).keys()
    per_layer, once = {"attention_bias": (2, 0), "mlp_bias": (2, 0), "norm_bias": (2, 1)}[field]
    assert len(more) == 4 * per_layer + once  # norm_bias: the first layer's norm lacks, the embeddings have one
    assert all(name.endswith(".bias") for name in more)
    check_reloads(with_bias, tiny_texts())


@pytest.mark.parametrize(
    "model_type", [pytest.param(f, marks=[pytest.mark.slow] * (f == "modernbert")) for f in FAMILIES]
)
def test_dropout_of_an_encoder(model_type):
    rates = [name for name in asdict(tiny_config(model_type)) if "dropout" in name]
    assert len(rates) == (3 if model_type == "modernbert" else 2)
    for rate in rates:
        encoder = tiny_encoder(model_type, **(dict.fromkeys(rates, 0.0) | {rate: 0.5}))
        assert torch.equal(encoder(tiny_texts()), encoder(tiny_texts()))
        encoder.train()
        assert not torch.equal(encoder(tiny_texts()), encoder(tiny_texts())), rate


def test_dropout_behind_the_attention_of_modernbert(monkeypatch):
    """attention_dropout is for the scores and for the output: it drops there too where the scores keep all."""
    encoder = tiny_encoder("modernbert", attention_dropout=0.5).train()
    given = []
    monkeypatch.setattr(modernbert, "attention", lambda *args, dropout, **more: given.append(dropout) or args[0][:, 2])
    assert not torch.equal(encoder(tiny_texts()), encoder(tiny_texts()))
    assert set(given) == {0.5}
    encoder.eval()
    assert torch.equal(encoder(tiny_texts()), encoder(tiny_texts()))
    assert given[-1] == 0.0


@pytest.mark.parametrize("model_type", sorted({*FAMILIES} - {"modernbert"}))
def test_dropout_of_the_scores(model_type):
    """The probability in config.json reaches the attention, and only in training."""
    rates = [name for name in asdict(tiny_config(model_type)) if "dropout" in name]
    encoder = tiny_encoder(model_type, **(dict.fromkeys(rates, 0.0) | {next(r for r in rates if "att" in r): 0.5}))
    for layer in encoder.layers:
        assert layer.attention_dropout.p == 0.5
        assert layer.dropout.p == 0
    assert torch.equal(encoder(tiny_texts()), encoder(tiny_texts()))
    assert not torch.equal(encoder.train()(tiny_texts()), encoder(tiny_texts()))


EPS_FIELD = {"modernbert": "norm_eps"}


@pytest.mark.parametrize("model_type", sorted({*FAMILIES} - {"distilbert"}))
def test_norm_eps_of_config(model_type):
    """Of each norm: all have the number of config.json, and the output follows it."""
    field = EPS_FIELD.get(model_type, "layer_norm_eps")
    encoder, other = (tiny_encoder(model_type, **{field: eps}) for eps in (0.25, 0.5))
    norms = [part for part in encoder.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert len(norms) >= 8
    assert {norm.eps for norm in norms} == {0.25}
    assert not torch.allclose(encoder(tiny_texts()), other(tiny_texts()), atol=1e-3)


def test_norm_eps_of_distilbert():
    """No field says it; all of its models have this one."""
    norms = [part for part in tiny_encoder("distilbert").modules() if isinstance(part, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-12}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_layers_that_run_again_in_backward(model_type):
    """Gradient checkpointing: the same gradients, the same dropout, and no activation inside a layer is kept."""
    rates = dict.fromkeys([name for name in asdict(tiny_config(model_type)) if "dropout" in name], 0.3)
    encoder, packed = tiny_encoder(model_type, **rates).double().train(), tiny_texts()
    alive = []
    for layer in encoder.layers:
        layer.up.register_forward_hook(lambda module, given, output: alive.append(weakref.ref(output)))

    def step(recompute):
        alive.clear()
        encoder.zero_grad()
        encoder.checkpoint_layers = recompute
        torch.manual_seed(3)
        *_, before, output = encoder.hidden_states(packed)
        kept = [x() is not None for x in alive]
        (output.sin().sum() + before.cos().sum()).backward()  # also the state below the last is used
        return kept, len(alive), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    kept, runs, wanted = step(recompute=False)
    assert (any(kept), runs) == (True, 4)
    kept, runs, found = step(recompute=True)
    assert (any(kept), runs) == (False, 8)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    encoder.checkpoint_layers = False
    alive.clear()
    torch.manual_seed(4)
    encoder(packed).sin().sum().backward()
    assert not torch.allclose(wanted["layers.0.up.weight"], encoder.layers[0].up.weight.grad)  # the dropout matters


@pytest.mark.parametrize("model_type", FAMILIES)
def test_layers_run_once_without_gradients(model_type):
    encoder, packed = tiny_encoder(model_type), tiny_texts()
    assert encoder.checkpoint_layers is False
    wanted = encoder(packed)
    with torch.no_grad():
        plain = encoder(packed)  # MPNet's bias needs another kernel where it has a gradient
    torch.testing.assert_close(plain, wanted, atol=1e-5, rtol=0)
    encoder.checkpoint_layers = True
    assert torch.equal(encoder(packed), wanted)
    with torch.no_grad():
        assert torch.equal(encoder(packed), plain)
        assert not encoder(packed).requires_grad
    encoder.keep_layers([0, 2])
    assert encoder.checkpoint_layers


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize("model_type", FAMILIES)
def test_wrong_values_of_every_field(model_type):
    """All that a config.json may hold in place of a number, a name, or true and false."""
    config = tiny_config(model_type)
    for name, value in asdict(config).items():
        wrong = ["16", [1], {}, None, -1, float("nan"), float("inf")] if type(value) in (int, float) else [1, None, []]
        wrong += [True, 0, 1.0, LARGEST + 1] if type(value) is int else []
        if value is None:
            wrong = ["x", 5, ["x"], {"x": 1}, [1] * 4]
        if name == "pad_token_id":
            wrong = [-1, None, "1", 50, True] if isinstance(config, RobertaConfig) else []
        for given in wrong:
            with pytest.raises(ValueError, match=name.replace("rope_theta", "(rope_theta|attention)")):
                replace(config, **{name: given})


IMPOSSIBLE = {
    "heads": (BertConfig, {"hidden_size": 15, "num_attention_heads": 2}, "hidden_size 15 is no multiple of num_att"),
    "heads of DistilBERT": (DistilBertConfig, {"dim": 15, "n_heads": 2}, "dim 15 is no multiple of n_heads 2"),
    "odd heads": (
        ModernBertConfig,
        {"hidden_size": 30, "num_attention_heads": 2},
        "30 is no multiple of twice num_att",
    ),
    "positions": (
        RobertaConfig,
        {"max_position_embeddings": 2},
        "max_position_embeddings is 2: use a number at least 3",
    ),
    "positions of MPNet": (MPNetConfig, {"max_position_embeddings": 2}, "embeddings is 2: use a number at least 3"),
    "few buckets": (MPNetConfig, {"relative_attention_num_buckets": 3}, "is 3: .* at least 4 and at most 511"),
    "many buckets": (MPNetConfig, {"relative_attention_num_buckets": 512}, "is 512: .* at most 511"),
    "activation": (BertConfig, {"hidden_act": "sine"}, "hidden_act is 'sine', known are gelu"),
    "activation of DistilBERT": (DistilBertConfig, {"activation": "sine"}, "^activation is 'sine', known are gelu"),
    "activation of ModernBERT": (ModernBertConfig, {"hidden_activation": "sine"}, "hidden_activation is 'sine'"),
    "no window": (ModernBertConfig, {"local_attention": 0}, "local_attention is 0, it must be a whole number from 1"),
    "number of kinds": (ModernBertConfig, {"layer_types": [FULL]}, "must be a list of 22 times"),
    "unknown kind": (ModernBertConfig, {"num_hidden_layers": 1, "layer_types": ["x"]}, r"layer_types is \['x'\]"),
    "flat rotations": (ModernBertConfig, {"rope_parameters": {"rope_theta": 5}}, "must be a table with full_attention"),
    "scaled rotations": (
        ModernBertConfig,
        {"rope_parameters": {FULL: {"rope_type": "yarn", "rope_theta": 5}}},
        "'yarn'.* the rope_type 'default'",
    ),
    "theta 0": (ModernBertConfig, {"global_rope_theta": 0}, "full_attention is 0: use a number .*above 0"),
    "theta is a text": (
        ModernBertConfig,
        {"rope_parameters": {SLIDING: {"rope_theta": "5"}}},
        "rope_theta of sliding_attention is '5'",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_values(case):
    config_class, fields, message = IMPOSSIBLE[case]
    with pytest.raises(ValueError, match=message):
        config_class(**fields)


@pytest.mark.parametrize("buckets", [4, 5, 511])
def test_extreme_buckets(buckets):
    assert tiny_encoder("mpnet", relative_attention_num_buckets=buckets)(tiny_texts()).isfinite().all()


# ---------------------------------------------------------------- weights

FIRST_QUERY = {  # name, shape
    "bert": ("encoder.layer.0.attention.self.query.weight", 16),
    "mpnet": ("encoder.layer.0.attention.attn.q.weight", 16),
    "roberta": ("encoder.layer.0.attention.self.query.weight", 16),
    "xlmr": ("encoder.layer.0.attention.self.query.weight", 16),
    "distilbert": ("transformer.layer.0.attention.q_lin.weight", 16),
    "modernbert": ("layers.0.attn.Wqkv.weight", 48),
}


def checkpoint(name):
    return load_file(DATA / "enc" / name / "model.safetensors"), load_module("Transformer", DATA / "enc" / name)


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
    for missing in (FIRST_QUERY[name][0], *list(save_weights(encoder, encoder.weights))[::7]):
        with pytest.raises(ValueError, match=f"the weight {missing} is missing"):
            load_weights(encoder, {key: weight for key, weight in state.items() if key != missing}, encoder.weights)


@pytest.mark.parametrize("name", MODELS)
def test_wrong_shape(name):
    state, encoder = checkpoint(name)
    query, rows = FIRST_QUERY[name]
    state[query] = state[query][:, :-1]
    with pytest.raises(ValueError, match=rf"{query} is \[{rows}, 15\].* \[{rows}, 16\]"):
        load_weights(encoder, state, encoder.weights)


@pytest.mark.parametrize("name", MODELS)
def test_unknown_weight(name):
    _, encoder = checkpoint(name)
    third_layer = FIRST_QUERY[name][0].replace(".0.", ".2.")  # the models have two
    for unknown in (third_layer, "embeddings.more.weight"):
        state, _ = checkpoint(name)
        state[unknown] = torch.zeros(16, 32)
        with pytest.raises(ValueError, match=f"holds {unknown}"):
            load_weights(encoder, state, encoder.weights)


@pytest.mark.parametrize("name", ["layers.0.attn_norm.weight", "layers.1.attn_norm.bias", "final_norm.bias"])
def test_norms_that_a_modernbert_does_not_have(name):
    state, encoder = checkpoint("modernbert")
    with pytest.raises(ValueError, match=f"holds {name}"):
        load_weights(encoder, state | {name: torch.ones(16)}, encoder.weights)


def test_what_lies_beside_the_encoder_is_ignored():
    state, encoder = checkpoint("bert")
    state |= {"pooler.more.weight": torch.zeros(2), "embeddings.position_ids": torch.arange(64)}
    load_weights(encoder, state, encoder.weights)


def test_half_precision_weights_become_float32():
    state, encoder = checkpoint("bert")
    load_weights(encoder, {key: weight.bfloat16() for key, weight in state.items()}, encoder.weights)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_xlm_roberta_is_a_roberta_of_another_name():
    assert isinstance(checkpoint("xlmr")[1], RobertaEncoder)
    assert checkpoint("xlmr")[1].to_folder()[0]["architectures"] == ["XLMRobertaModel"]


def test_old_names_and_prefixes():
    one, two, three = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    old = {"bert.norm.gamma": one, "bert.norm.beta": two, "cls.norm.weight": three}
    assert modernize(old, "bert.") == {"norm.weight": one, "norm.bias": two}
    assert modernize({"norm.weight": one, "alphabeta.bias": two}, "bert.") == {
        "norm.weight": one,
        "alphabeta.bias": two,
    }
