"""Weights of a folder: safetensors, shards, pickles that run nothing, and modules filled from them."""

import json
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from minist.models.reading import read_weights, write_weights
from minist.modules.dense import Dense

INDEX = "model.safetensors.index.json"  # which shard holds which weight
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.ones(1).bfloat16()}


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def write_shards(folder, places):
    """Shards that hold STATE as `places` says, and the index."""
    for shard in set(places.values()):
        save_file({name: STATE[name] for name in places if places[name] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 30}, "weight_map": places}))


PLACES = {"a.weight": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}

# ---------------------------------------------------------------- safetensors, whole and in shards


def test_written_and_read(tmp_path):
    write_weights(STATE, tmp_path)
    check_same(read_weights(tmp_path), STATE)
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shards(tmp_path):
    write_shards(tmp_path, PLACES)
    check_same(read_weights(tmp_path), STATE)


def test_the_whole_file_goes_before_shards_and_these_before_a_pickle(tmp_path):
    torch.save({"pickle": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert list(read_weights(tmp_path)) == ["pickle"]
    write_shards(tmp_path, PLACES)
    assert set(read_weights(tmp_path)) == set(STATE)
    save_file({"whole": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(read_weights(tmp_path)) == ["whole"]


def test_shards_of_pickles(tmp_path):
    index = tmp_path / "pytorch_model.bin.index.json"
    places = {
        name: shard.replace("model", "pytorch_model").replace("safetensors", "bin") for name, shard in PLACES.items()
    }
    for shard in set(places.values()):
        torch.save({name: STATE[name] for name in places if places[name] == shard}, tmp_path / shard)
    index.write_text(json.dumps({"weight_map": places}))
    check_same(read_weights(tmp_path), STATE)
    (tmp_path / "pytorch_model-2.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=f"{tmp_path.name}: the weights are damaged"):
        read_weights(tmp_path)
    index.write_text(json.dumps({"weight_map": {"b": "../pytorch_model-2.bin"}}))
    with pytest.raises(ValueError, match="which leaves the model folder"):
        read_weights(tmp_path)


def test_a_shard_is_missing(tmp_path):
    write_shards(tmp_path, PLACES)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the weights are damaged: .*model-2\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize("shard", ["../model-2.safetensors", "x/model-2.safetensors", "/model-2.safetensors", "..", ""])
def test_a_shard_elsewhere(tmp_path, shard):
    folder = tmp_path / "m"
    (folder / "x").mkdir(parents=True)
    write_shards(folder, PLACES)
    for place in (tmp_path, folder / "x"):
        save_file({"b": STATE["b"]}, place / "model-2.safetensors")
    shard = f"{tmp_path}{shard}" if shard.startswith("/") else shard
    (folder / INDEX).write_text(json.dumps({"weight_map": PLACES | {"b": shard}}))
    with pytest.raises(ValueError, match=rf"{INDEX} names the file '{shard}', which leaves the model folder"):
        read_weights(folder)


def test_a_weight_is_in_no_shard(tmp_path):
    write_shards(tmp_path, PLACES)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": PLACES | {"d": "model-2.safetensors"}}))
    with pytest.raises(ValueError, match=rf"the weight d is not in model-2\.safetensors, as {INDEX} says"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not as a saved model has it"),
        ("{}", "is not as a saved model has it"),
        ('{"weight_map": ["model-1.safetensors"]}', "is not as a saved model has it"),
        ('{"weight_map": {"b": 2}}', "is not as a saved model has it"),
        ('{"weight_map": {"b": ["model-2.safetensors"]}}', "is not as a saved model has it"),
    ],
)
def test_broken_index(tmp_path, content, message):
    write_shards(tmp_path, PLACES)
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ValueError, match=f"{INDEX} {message}"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model-2.safetensors"])
def test_damaged_safetensors(tmp_path, name):
    write_shards(tmp_path, PLACES) if "-" in name else write_weights(STATE, tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{tmp_path.name}: the weights are damaged: "):
        read_weights(tmp_path)


def test_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"no weights: neither model\.safetensors nor pytorch_model\.bin is there"):
        read_weights(tmp_path)


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_pickle(tmp_path, new, kind):
    torch.save(kind(STATE), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    check_same(read_weights(tmp_path), STATE)


class Bomb:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_a_pickle_is_not_executed(tmp_path, how):
    state = {"a": torch.ones(1), "b": Bomb(tmp_path / "executed")}
    if how == "pickle":
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"b": state["b"]}, protocol=2))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match="the weights are damaged: Weights only load failed"):
        read_weights(tmp_path)
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False) if how != "pickle" else pickle.loads(
        (tmp_path / "pytorch_model.bin").read_bytes()
    )
    assert (tmp_path / "executed").exists(), "careless reading would have done it"


@pytest.mark.filterwarnings("ignore")  # torch speaks of old formats
def test_damaged_pickles(tmp_path):
    """Whatever error torch has for them."""
    torch.save(STATE, tmp_path / "old", _use_new_zipfile_serialization=False)
    torch.save(STATE, tmp_path / "new")
    old, new = (tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()
    for content in (
        b"",
        b"x",
        b"\x80\x02.",
        b"some text",
        bytes(range(40)),
        new[:-30],
        new[30:],
        *(old[:n] for n in range(1, len(old) - 1, 9)),
    ):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match=f"{tmp_path.name}: the weights are damaged: "):
            read_weights(tmp_path)


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), {"a": [1.0]}, {"model": {"a": torch.ones(1)}}])
def test_a_pickle_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="the weights are damaged: "):
        read_weights(tmp_path)


# ---------------------------------------------------------------- modules


def test_a_module_written_and_read(tmp_path):
    written, read = Dense(3, 2, residual=True), Dense(3, 2, residual=True)
    write_weights(written.to_folder()[1], tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == {"linear.weight", "linear.bias", "residual.weight"}
    read.fill(read_weights(tmp_path))
    for name, parameter in written.named_parameters():
        assert torch.equal(read.get_parameter(name), parameter)
        assert read.get_parameter(name).requires_grad


def test_strided_weights_are_written(tmp_path):
    module = Dense(3, 2, bias=False)
    module.linear.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).T)
    write_weights(module.to_folder()[1], tmp_path)
    assert load_file(tmp_path / "model.safetensors")["linear.weight"].tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_module_is_filled_in_single_precision(tmp_path, dtype):
    write_weights({"linear.weight": torch.ones(2, 3, dtype=dtype) / 3}, tmp_path)
    module = Dense(3, 2, bias=False)
    module.fill(read_weights(tmp_path))
    assert module.linear.weight.dtype == torch.float32
    assert torch.equal(module.linear.weight, (torch.ones(2, 3, dtype=dtype) / 3).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear.weight": torch.ones(3, 2)}, r"linear\.weight is \[3, 2\], by its config\.json it has shape \[2, 3\]"),
        ({"linear.bias": None}, r"linear\.bias is missing, by its config\.json it has shape \[2\]"),
        (
            {"x": torch.ones(1)},
            r"the weight x belongs to no Dense of this shape, which has linear\.weight, linear\.bias",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path, change, message):
    state = {"linear.weight": torch.ones(2, 3), "linear.bias": torch.ones(2)} | change
    write_weights({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path)
    module = Dense(3, 2)
    before = module.linear.weight.clone()
    with pytest.raises(ValueError, match=message):
        module.fill(read_weights(tmp_path))
    assert torch.equal(module.linear.weight, before)


def test_weights_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match=r"none/model\.safetensors could not be written"):
        write_weights(STATE, tmp_path / "none")
