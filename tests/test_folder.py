"""The on-disk format: what is written, both generations read, and what is refused."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import sentences, tiny_model

from minist.encoders.bert import BertConfig
from minist.encoders.mpnet import MPNetConfig
from minist.encoders.weights import checkpoint_names, modernize
from minist.models.folder import load_folder, load_module
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Dense, Normalize

TEXTS = sentences(12, seed=5)


def full_model(encoder=None):
    """Encoder, pooling, dense and normalize, with every setting changed."""
    model = tiny_model(encoder=encoder, mode="max")
    model.stack.append(Dense(16, 6, True, "torch.nn.modules.activation.Tanh"))
    model.stack.append(Normalize())
    model.prompts = {"query": "find: ", "document": "", "topic": "sort: "}
    model.default_prompt_name, model.similarity_name, model.truncate_dim = "topic", "dot", 4
    return model


def same(a, b):
    return torch.equal(*(model.encode(TEXTS, convert_to_tensor=True) for model in (a, b)))


def edit(file: Path, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def folder(tmp_path):
    tiny_model().save(tmp_path / "m")
    return tmp_path / "m"


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("encoder", [{}, {"model_type": "mpnet"}], ids=["bert", "mpnet"])
def test_saved_and_read_again(tmp_path, encoder):
    encoder = encoder or {"type_vocab_size": 1}
    model = full_model(encoder)
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    assert same(model, loaded)
    assert loaded.prompts == model.prompts
    assert (loaded.default_prompt_name, loaded.similarity_name, loaded.truncate_dim) == ("topic", "dot", 4)
    assert loaded.tokenizer.max_length == model.tokenizer.max_length
    assert loaded.stack[0].config == model.stack[0].config
    loaded.save(tmp_path / "again")
    files = sorted(path.relative_to(tmp_path / "m") for path in (tmp_path / "m").rglob("*") if path.is_file())
    assert len(files) == 10
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "m" / file).read_bytes(), file


def test_the_files_are_those_of_version_5(tmp_path):
    full_model().save(tmp_path / "m")
    modules = json.loads((tmp_path / "m/modules.json").read_text())
    assert [(m["idx"], m["name"], m["path"], m["type"]) for m in modules] == [
        (0, "0", "", "sentence_transformers.models.Transformer"),
        (1, "1", "1_Pooling", "sentence_transformers.models.Pooling"),
        (2, "2", "2_Dense", "sentence_transformers.models.Dense"),
        (3, "3", "3_Normalize", "sentence_transformers.models.Normalize"),
    ]
    pooling = json.loads((tmp_path / "m/1_Pooling/config.json").read_text())
    assert pooling["pooling_mode_max_tokens"] is True
    assert pooling["pooling_mode_mean_tokens"] is False
    assert pooling["word_embedding_dimension"] == 16
    weights = load_file(tmp_path / "m/model.safetensors")
    assert weights["encoder.layer.1.attention.self.key.weight"].shape == (16, 16)
    assert not any("qkv" in name for name in weights)


def test_bfloat16_weights_are_read_as_single_precision(folder):
    weights = {name: t.bfloat16() for name, t in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    assert {t.dtype for t in load_module("Transformer", folder).state_dict().values()} == {torch.float32}


# ---------------------------------------------------------------- what others wrote


@pytest.mark.parametrize(("mode", "modes"), [("cls", ("cls",)), (["max", "cls"], ("max", "cls"))])
def test_pooling_of_version_6(folder, mode, modes):
    content = {"embedding_dimension": 16, "pooling_mode": mode, "include_prompt": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(content))
    pooling = load_folder(folder).stack[1]
    assert (pooling.modes, pooling.include_prompt) == (modes, False)


def test_class_names_of_version_6(folder):
    modules = json.loads((folder / "modules.json").read_text())
    for module, package in zip(modules, ("base", "sentence_transformer"), strict=True):
        name = module["type"].split(".")[-1]
        module["type"] = f"sentence_transformers.{package}.modules.{name.lower()}.{name}"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert same(SentenceTransformer(folder), tiny_model())


def test_several_modes_of_version_5(folder):
    edit(folder / "1_Pooling/config.json", pooling_mode_cls_token=True)
    model = SentenceTransformer(folder)
    assert model.stack[1].modes == ("cls", "mean")
    assert model.width == 32


def test_plain_checkpoint_is_mean_pooled(folder):
    for file in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / file).unlink()
    shutil.rmtree(folder / "1_Pooling")
    loaded = SentenceTransformer(folder)
    assert same(loaded, tiny_model())
    assert loaded.similarity_name == "cosine"


def test_names_of_old_and_larger_checkpoints(folder):
    """A prefix, gamma and beta, a head, a pooler, and a buffer that newer ones do not have."""
    weights = load_file(folder / "model.safetensors")
    old = {
        "bert." + n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in weights.items()
    }
    old |= {"cls.predictions.bias": torch.zeros(3), "bert.pooler.dense.weight": torch.zeros(2)}
    old["bert.embeddings.position_ids"] = torch.arange(3)
    save_file(old, folder / "model.safetensors")
    assert same(SentenceTransformer(folder), tiny_model())


def test_pytorch_model_bin(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert same(SentenceTransformer(folder), tiny_model())


@pytest.mark.parametrize(
    ("own", "config", "expected"),
    [(20, 10, 20), (None, 10, 10), (None, 1e30, 34), (None, None, 34), (500, None, 34)],
)
def test_max_length_is_the_first_that_is_given_and_fits(folder, own, config, expected):
    edit(folder / "sentence_bert_config.json", max_seq_length=own)
    edit(folder / "tokenizer_config.json", model_max_length=config)
    assert load_folder(folder).tokenizer.max_length == expected


def test_longest_text_of_each_encoder():
    """MPNet's first two positions belong to the padding id and what is below it."""
    assert BertConfig(max_position_embeddings=512).max_length == 512
    assert MPNetConfig(max_position_embeddings=514).max_length == 512


def test_saving_keeps_the_tokenizer_settings_of_others(folder, tmp_path):
    edit(folder / "tokenizer_config.json", strip_accents=None, clean_up=True)
    SentenceTransformer(folder).save(tmp_path / "again")
    content = json.loads((tmp_path / "again/tokenizer_config.json").read_text())
    assert content["clean_up"] is True
    assert content["strip_accents"] is None


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "1_Pooling/../../x"])
def test_paths_stay_inside(folder, path):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"modules\.json: it names the path .* leaves the model folder"):
        load_folder(folder)


class Bomb:
    """Unpickled carelessly, it writes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_a_pickle_is_not_executed(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Bomb(tmp_path / "executed")}, protocol=2))
    with pytest.raises(ValueError, match="the weights are damaged"):
        load_folder(folder)
    assert not (tmp_path / "executed").exists()


def test_unknown_pooling_of_version_5(folder):
    edit(folder / "1_Pooling/config.json", pooling_mode_median=True)
    with pytest.raises(ValueError, match="pooling is 'pooling_mode_median', known are"):
        load_folder(folder)


def test_weights_of_a_third_layer_by_a_config_of_two(folder):
    edit(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"the checkpoint holds encoder\.layer\.1\..*no such weight"):
        load_folder(folder)


def test_dense_of_another_shape(tmp_path):
    full_model().save(tmp_path / "m")
    edit(tmp_path / "m/2_Dense/config.json", out_features=7)
    with pytest.raises(ValueError, match=r"linear\.weight is \[6, 16\], by its config\.json it has shape \[7, 16\]"):
        load_folder(tmp_path / "m")


# ---------------------------------------------------------------- names of weights


def test_checkpoint_names():
    table = {"layers.{i}.qkv": ("a.{i}.q", "a.{i}.k"), "norm": ("LayerNorm",)}
    assert checkpoint_names("layers.11.qkv.bias", table) == ["a.11.q.bias", "a.11.k.bias"]
    assert checkpoint_names("norm.weight", table) == ["LayerNorm.weight"]


def test_modernize_keeps_only_the_encoder_of_a_larger_model():
    state = {"bert.x.gamma": torch.ones(1), "bert.x.beta": torch.zeros(1), "cls.y": torch.ones(1)}
    assert modernize(state, "bert.") == {"x.weight": 1, "x.bias": 0}
    assert modernize({"x.weight": torch.ones(1)}, "bert.") == {"x.weight": 1}
