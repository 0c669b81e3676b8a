"""LoRA against its formula; adapter files that are right, moved, or not for this model; runs that train adapters."""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_distributed import two_towers
from tiny import ROOT, run_script, sentences, tiny_model, write_jsonl

from minist import CrossEncoder, SentenceTransformer
from minist.encoders.linear import Linear
from minist.models import open_model
from minist.models.adapter import Adaptable, Adapter
from minist.models.folder import SETTINGS, holds_scores
from minist.models.hub import name_of
from minist.models.merging import merge
from minist.modules.lora import LoraLinear, LowRank
from minist.training.config import load_config

TEXTS = sentences(12, seed=5)
CONFIG = """
output = "run"
[model]
path = "base"
[model.lora]
rank = 4
alpha = 8
dropout = 0.1
targets = ["query", "value", "output.dense"]
[[data]]
files = ["pairs.jsonl"]
columns = { anchor = "q", positive = "d" }
[train]
batch_size = 8
mini_batch_tokens = 40
max_steps = 6
lr = 1e-2
save_every = 3
dropout = 0.2
checkpoint_layers = true
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "base"
    tiny_model().save(folder)
    return folder


def randomize(model: Adaptable):
    for name, parameter in model.named_parameters():
        if ".lora." in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3
    return model


@pytest.fixture(scope="module")
def saved(base):
    """The folder of an adapter of three layers, beside its base."""
    model = SentenceTransformer(base)
    model.add_adapter(4, 8, targets=["query", "value", "intermediate.dense"])
    randomize(model).save(base.with_name("adapter"))
    return base.with_name("adapter")


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(saved, tmp_path / "copy")


def equal(a, b):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=0)


# ---------------------------------------------------------------- the layer


def test_each_part_has_its_own_product():
    torch.manual_seed(0)
    plain, x = torch.nn.Linear(6, 12).double(), torch.randn(5, 6).double()
    a, b, c, d = (torch.randn(*shape).double() for shape in [(2, 6), (4, 2), (3, 6), (4, 3)])
    expected = plain(x).clone()
    layer = LoraLinear(plain, ["query", "key", "value"], {"query": LowRank(a, b, 5, 0), "value": LowRank(c, d, 7, 0)})
    expected[:, :4] += 5 / 2 * x @ (b @ a).T
    expected[:, 8:] += 7 / 3 * x @ (d @ c).T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.merged()(x), expected)
    assert type(layer.merged()) is Linear


def test_dropout_is_before_a():
    layer = LowRank(torch.eye(4), torch.eye(4), 4.0, 0.5)
    found = layer(torch.ones(1000, 4)).detach()
    assert found.unique().tolist() == [0, 2] and abs(found.mean() - 1) < 0.1
    assert layer.eval()(torch.ones(9, 4)).unique().tolist() == [1]


def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(base):
    model = SentenceTransformer(base)
    before, weights = model.encode(TEXTS), {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    model.add_adapter(4, 8, dropout=0.5)
    equal(model.encode(TEXTS), before)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == {name for name, _ in model.named_parameters()} - weights.keys()
    assert len(trained) == 2 * 2 * 6  # A and B of six linear layers, in two layers of the encoder
    for name, p in trained.items():
        bound = 1 / math.sqrt(p.shape[1])  # kaiming_uniform with a = sqrt(5)
        assert not p.any() if name.endswith(".B") else 0.8 * bound < p.abs().max() <= bound
    merged = copy.deepcopy(randomize(model))
    merged.merge_adapter()
    assert abs(merged.encode(TEXTS) - model.encode(TEXTS)).max() <= 1e-6
    assert [name for name, _ in merged.named_parameters()] == list(weights)
    assert all(p.requires_grad for p in merged.parameters())


@pytest.mark.parametrize("target", ["query", "self.query", "attention.self.query"])
def test_targets_are_ends_of_names(base, target):
    model = SentenceTransformer(base)
    model.add_adapter(4, 8, targets=[target])
    assert [n for n, p in model.named_parameters() if p.requires_grad and n.endswith("A")] == [
        f"stack.0.layers.{i}.qkv.lora.query.A" for i in range(2)
    ]
    with pytest.raises(ValueError, match=r"a target of LoRA is 'uery', known are .*query"):
        SentenceTransformer(base).add_adapter(4, 8, targets=["uery"])


# ---------------------------------------------------------------- files


def test_a_saved_adapter(base, saved, tmp_path):
    """It has the names of PEFT, and nothing of the base."""
    assert not {"config.json", "model.safetensors"} & {path.name for path in saved.iterdir()}
    config, weights = read(saved)
    ends = ("attention.self.query", "attention.self.value", "intermediate.dense")
    assert config["target_modules"] == [f"encoder.layer.{i}.{end}" for i in range(2) for end in ends]
    assert config["base_model_name_or_path"] == str(base.resolve()) and config["peft_type"] == "LORA"
    first = "base_model.model.encoder.layer.0.attention.self.query"
    assert weights[f"{first}.lora_A.weight"].shape == weights[f"{first}.lora_B.weight"].T.shape == (4, 16)
    assert len(weights) == 2 * 2 * 3
    model = SentenceTransformer(saved)
    equal(SentenceTransformer(base, adapter=saved).encode(TEXTS), model.encode(TEXTS))
    model.save(tmp_path / "again")
    again = read(tmp_path / "again")
    assert again[0] == config and all(weights[name].equal(again[1][name]) for name in weights)


def test_rslora_is_another_alpha(saved, adapter):
    damage(adapter, {"use_rslora": True, "lora_alpha": 4})
    equal(SentenceTransformer(adapter).encode(TEXTS), SentenceTransformer(saved).encode(TEXTS))  # 4 / sqrt(4) = 8 / 4


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_peft_saves_no_more_than_the_adapter(base, saved, adapter, prefix, half):
    """All else is the base's. A class with a head has a prefix; and a pooler may be adapted that is not used here."""
    expected = SentenceTransformer(saved).encode(TEXTS)
    weights = load_file(adapter / "adapter_model.safetensors")
    for path in adapter.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.name.startswith("adapter_") or path.unlink()
    weights = {name.replace(".model.", f".model.{prefix}"): w.half() if half else w for name, w in weights.items()}
    more = {f"base_model.model.{prefix}pooler.dense.lora_{x}.weight": torch.randn(4, 4) for x in "AB"}
    save_file(weights | more, adapter / "adapter_model.safetensors")
    for model in (SentenceTransformer(adapter), open_model(base, adapter=adapter)):
        torch.testing.assert_close(torch.tensor(model.encode(TEXTS)), torch.tensor(expected), rtol=0, atol=half * 1e-2)


def read(folder):
    return json.loads((folder / "adapter_config.json").read_text()), load_file(folder / "adapter_model.safetensors")


def damage(folder, config, rename=None, reshape=None):
    before, weights = read(folder)
    (folder / "adapter_config.json").write_text(json.dumps(before | config))
    first = min(weights)
    if rename:
        weights[rename] = weights.pop(first)
    if reshape:
        weights[first] = torch.randn(reshape)
    save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', known are LORA"),
        ({"use_dora": True}, "use_dora is 'True', known are False"),
        ({"bias": "lora_only"}, "bias is 'lora_only', known are none"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is 'True'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"layer_replication": [[0, 1]]}, r"layer_replication is '\[\[0, 1\]\]', known are False"),
        ({"rank_pattern": {"query": 8}}, "rank_pattern is .*, known are False"),
        ({"r": 8}, r"query.lora_A.weight is \[4, 16\], .* shape \[8, 16\]"),
        ({"r": "4"}, "r is '4': use a number"),
        ({"lora_alpha": None}, "lora_alpha is None: use a number"),
        ({"base_model_name_or_path": "/gone"}, "adapter_config.json: there is no folder '/gone'"),
        ({"base_model_name_or_path": None}, "adapter_config.json: there is no folder ''"),
    ],
)
def test_adapters_that_would_be_read_as_something_else(adapter, config, says, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    damage(adapter, config)
    (adapter.parent / "texts.txt").write_text("a\n")
    code, _, err = run_script("encode.py", "--model", adapter, adapter.parent / "texts.txt", "--output", "x.npy")
    assert code == 2 and len(err.splitlines()) == 1
    with pytest.raises(ValueError, match=says):
        SentenceTransformer(adapter)


LAYER = "encoder.layer.0.attention.self.query"
OTHERS = [LAYER.replace(".0.", ".2.") + ".lora_A.weight", "transformer.layer.0.attention.q_lin.lora_A.weight"]
OTHERS += ["embeddings.word_embeddings.lora_embedding_A", "embeddings.word_embeddings.weight"]
OTHERS += [f"{LAYER}.lora_magnitude_vector", f"{LAYER}.lora_B.bias", "classifier.lora_A.weight"]


@pytest.mark.parametrize("name", OTHERS)
def test_weights_of_another_model(adapter, name):
    damage(adapter, {}, rename=f"base_model.model.{name}")
    with pytest.raises(ValueError, match=f"{name} belongs to no linear layer of this bert"):
        SentenceTransformer(adapter)


def test_half_a_change_and_another_width(adapter):
    """Sizes of the other half would be a guess."""
    damage(adapter, {}, reshape=(4, 32))
    with pytest.raises(ValueError, match=r"lora_A.weight is \[4, 32\], .* has shape \[4, 16\]"):
        SentenceTransformer(adapter)
    weights = read(adapter)[1]
    del weights["base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"]
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"query.lora_A.weight is missing"):
        SentenceTransformer(adapter)


def test_what_an_adapter_forbids(base, saved, adapter, tmp_path):
    """Each would save something else than the model is."""
    with pytest.raises(ValueError, match="keep_layers: the model has an adapter"):
        SentenceTransformer(saved, keep_layers=[0])
    with pytest.raises(ValueError, match="has an adapter already"):
        SentenceTransformer(saved, adapter=saved)
    with pytest.raises(ValueError, match="has none yet"):
        SentenceTransformer(saved).add_adapter(4, 8)
    with pytest.raises(ValueError, match="a model that was opened"):
        tiny_model().add_adapter(4, 8)
    model = SentenceTransformer(saved)
    model.save(adapter)  # over another adapter
    with pytest.raises(ValueError, match=r"config.json is of another kind of model: name a folder"):
        model.save(base)
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"adapter_config.json is of another kind of model"):
        model.save(adapter)
    with pytest.warns(UserWarning, match="new head"):
        assert CrossEncoder(saved, num_labels=2).is_adapted


def test_a_folder_of_a_route_is_of_one_kind(tmp_path):
    two_towers().save(tmp_path / "base")
    model = SentenceTransformer(tmp_path / "base")
    model.add_adapter(4, 8)
    randomize(model).save(tmp_path / "m")
    equal(SentenceTransformer(tmp_path / "m").encode(TEXTS), model.encode(TEXTS))
    with pytest.raises(ValueError, match=r"document_0_Transformer/config.json is of another kind of model"):
        model.save(tmp_path / "base")
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"document_0_Transformer/adapter_config.json is of another kind of model"):
        model.save(tmp_path / "m")


def test_a_base_that_was_overwritten(base, saved, tmp_path, recwarn):
    other = SentenceTransformer(base, dtype="bfloat16")
    other.add_adapter(4, 8)
    other.save(tmp_path / "m")
    SentenceTransformer(tmp_path / "m")  # read in float32, the weights are the same
    assert not recwarn
    other.merge_adapter()
    other.stack[0].layers[0].up.weight.data *= 1.01
    other.save(tmp_path / "other")
    with pytest.warns(UserWarning, match=r"adapter was trained on other weights than those of .*other"):
        SentenceTransformer(tmp_path / "other", adapter=saved)


def test_an_adapter_of_an_adapter(saved, adapter):
    """It might name the first, which names it, for ever."""
    damage(adapter, {"base_model_name_or_path": str(saved)})
    (adapter / "modules.json").unlink()
    with pytest.raises(ValueError, match=r"base_model_name_or_path is .*, an adapter: name the model"):
        SentenceTransformer(adapter)


def test_others_cannot_open_an_adapter_of_a_folder_here(saved):
    with pytest.raises(ValueError, match=r"the adapter is of .*base, which only you have"):
        SentenceTransformer(saved).push_to_hub("me/adapter")


def test_merging_models_merges_adapters(base, saved):
    model, half = SentenceTransformer(saved), merge([SentenceTransformer(base), SentenceTransformer(saved)], [1, 1])
    assert not half.is_adapted
    model.merge_adapter()
    name = "stack.0.layers.0.up.weight"
    plain = SentenceTransformer(base).state_dict()[name]
    torch.testing.assert_close(half.state_dict()[name], (plain + model.state_dict()[name]) / 2)


@pytest.mark.filterwarnings("ignore:.*new head")
def test_a_head_is_trained_whole_and_keeps_its_labels(base, tmp_path):
    model = CrossEncoder(base, num_labels=3)
    model.add_adapter(4, 8, targets=["query"])
    assert all(p.requires_grad for p in model.head.parameters())
    model.id2label = {0: "no", 1: "so", 2: "yes"}
    randomize(model).save(tmp_path / "m")
    config, weights = read(tmp_path / "m")
    assert config["modules_to_save"] == ["classifier", "pooler"] and "base_model.model.classifier.weight" in weights
    assert "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight" in weights
    again, pairs = open_model(tmp_path / "m"), [("read a file", "write"), ("sort", "list")]
    assert again.id2label == model.id2label
    equal(again.predict(pairs), model.predict(pairs))
    for file in (tmp_path / "m").iterdir():  # as PEFT leaves it
        file.name.startswith("adapter_") or file.unlink()
    for other in (CrossEncoder(base, adapter=tmp_path / "m"), CrossEncoder(tmp_path / "m")):
        equal(other.predict(pairs), model.predict(pairs))
    assert holds_scores(tmp_path / "m") and not holds_scores(base)
    model.merge_adapter()
    model.save(tmp_path / "plain")
    assert CrossEncoder(tmp_path / "plain").id2label == model.id2label


def test_the_name_of_a_folder(tmp_path):
    folder = tmp_path / "models--some--one/snapshots/12ab"
    assert name_of(folder) == ("some/one", "12ab")
    assert name_of(tmp_path) == (str(tmp_path.resolve()), None)


def test_a_base_in_a_subfolder_of_its_model(base, saved, tmp_path):
    """As old models have it; the adapter is one of the encoder there."""
    moved = shutil.copytree(base, tmp_path / "base")
    (moved / "0_T").mkdir()
    for file in [file for file in moved.iterdir() if file.is_file() and file.name not in ("modules.json", SETTINGS)]:
        file.rename(moved / "0_T" / file.name)
    modules = json.loads((moved / "modules.json").read_text())
    modules[0]["path"] = "0_T"
    (moved / "modules.json").write_text(json.dumps(modules))
    model = SentenceTransformer(moved, adapter=saved)
    equal(model.encode(TEXTS), SentenceTransformer(saved).encode(TEXTS))
    model.save(tmp_path / "m")
    equal(SentenceTransformer(tmp_path / "m").encode(TEXTS), model.encode(TEXTS))
    assert Adapter(tmp_path / "m", "bert").config["base_model_name_or_path"] == str(moved.resolve() / "0_T")


# ---------------------------------------------------------------- training


@pytest.fixture
def run(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "base")
    pairs = zip(sentences(48, seed=1), sentences(48, seed=2), strict=True)
    write_jsonl(tmp_path / "pairs.jsonl", [{"q": q, "d": d} for q, d in pairs])
    (tmp_path / "c.toml").write_text(CONFIG)

    def train(*arguments):
        return run_script("train.py", "--config", "c.toml", *arguments)

    return train


def test_a_run(run, base):
    """Its checkpoints are adapters, it goes on with the same bits, and ends with a plain model."""
    code, out, err = run()
    assert code == 0, err
    assert "lora   1,088 of 0.0 million parameters are trained, optimizer state 0.0 MB instead of" in out
    state = torch.load("run/checkpoint-3/training.pt", weights_only=True)["optimizer"]["state"]
    numbers = sum(x.numel() for of in state.values() for name, x in of.items() if name != "step")
    weights = load_file("run/checkpoint-3/adapter_model.safetensors")
    assert numbers == 2 * 1088 == 2 * sum(w.numel() for w in weights.values())
    adapted, plain = SentenceTransformer("run/adapter"), SentenceTransformer("run/model")
    assert adapted.is_adapted and not plain.is_adapted
    assert abs(adapted.encode(TEXTS) - plain.encode(TEXTS)).max() <= 1e-6
    assert abs(plain.encode(TEXTS) - SentenceTransformer(base).encode(TEXTS)).max() > 1e-3
    assert adapted.stack[0].layers[0].qkv.lora["query"].dropout.p == 0.1
    final = load_file("run/checkpoint-6/adapter_model.safetensors")
    shutil.rmtree("run/checkpoint-6")
    code, _, err = run("--resume")
    assert code == 0, err
    again = load_file("run/checkpoint-6/adapter_model.safetensors")
    assert final.keys() == again.keys() and all(final[name].equal(again[name]) for name in final)


def test_going_on_with_an_adapter(run, saved):
    shutil.copytree(saved, "given")
    Path("c.toml").write_text(re.sub(r"(?s)\[model.lora\].*?\[\[", 'adapter = "given"\n[[', CONFIG))
    code, _, err = run("--set", "train.lr=0", "--set", 'train.lr_for={ "query" = 0.01 }')
    assert code == 0, err
    before, after = load_file("given/adapter_model.safetensors"), load_file("run/adapter/adapter_model.safetensors")
    assert {n for n in before if not before[n].equal(after[n])} == {n for n in before if "query" in n}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["model.keep_layers=[0]"], "without adapter, keep_layers, twins"),
        (["model.twins=true"], "without adapter, keep_layers, twins"),
        (["model.adapter=x"], "without adapter, keep_layers, twins"),
        (["model.lora.rank=0"], "needs a rank"),
        (["model.lora.rank=-1"], "rank in .* is -1"),
        (["model.lora.targets=['uery']"], "a target of LoRA is 'uery'"),
        (["model.lora.targets=query"], "targets in .* must be a list"),
    ],
)
def test_wrong_settings(run, more, says):
    code, _, err = run(*(part for setting in more for part in ("--set", setting)))
    assert code == 2 and len(err.splitlines()) == 1
    assert re.search(says, err)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "fsdp"), [(0, "false"), (40, "false"), (40, "true")])
def test_two_ranks_are_one(run, tmp_path, tokens, fsdp):
    text = re.sub("dropout = .*", "dropout = 0", CONFIG).replace("= 40", f"= {tokens}\nfsdp = {fsdp}")
    (tmp_path / "c.toml").write_text(text)
    code, _, err = run()
    assert code == 0, err
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", ROOT / "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, "--config", "c.toml", "--set", "output=two"], env=environment, check=True)
    for file in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        one, two = (load_file(f"{run}/{file}") for run in ("run", "two"))
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)


def test_the_recipe():
    config = load_config(ROOT / "configs/lora.toml", [])
    assert config.model.lora.rank == 16
