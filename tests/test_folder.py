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
from minist.models.tokenizer_files import wordpiece
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
    assert len(files) == 11
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
    table = {"layers.{i}.qkv": "a.{i}.q|k", "norm": "LayerNorm"}
    assert checkpoint_names("layers.11.qkv.bias", table) == ["a.11.q.bias", "a.11.k.bias"]
    assert checkpoint_names("norm.weight", table) == ["LayerNorm.weight"]


def test_modernize_keeps_only_the_encoder_of_a_larger_model():
    state = {"bert.x.gamma": torch.ones(1), "bert.x.beta": torch.zeros(1), "cls.y": torch.ones(1)}
    assert modernize(state, "bert.") == {"x.weight": 1, "x.bias": 0}
    assert modernize({"x.weight": torch.ones(1)}, "bert.") == {"x.weight": 1}


# ---------------------------------------------------------------- saving into a folder that exists


def others_files(folder):
    """What a person may have beside a model."""
    for name in (".git/HEAD", "README.md", "onnx/model.onnx", "1_Pooling/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return {name: name for name in (".git/HEAD", "README.md", "onnx/model.onnx", "1_Pooling/notes.txt")}


@pytest.mark.parametrize("target", ["m", "link", "."])
def test_saving_keeps_everything_else_there(tmp_path, monkeypatch, target):
    tiny_model().save(tmp_path / "m")
    kept = others_files(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    monkeypatch.chdir(tmp_path / "m" if target == "." else tmp_path)
    other = tiny_model(seed=3)
    other.save(target)
    assert {name: (tmp_path / "m" / name).read_text() for name in kept} == kept
    assert (tmp_path / "link").is_symlink()
    assert same(SentenceTransformer(tmp_path / "m"), other)
    assert not list(tmp_path.rglob("*.partial"))


def test_saving_onto_a_file(tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(ValueError, match="m is a file: name a folder to save the model into"):
        tiny_model().save(tmp_path / "m")
    assert (tmp_path / "m").read_text() == "mine"


def test_saving_where_nothing_can_be_written(folder, monkeypatch):
    """The old model stays whole; to root all folders are open, so the refusal is played."""
    before, written = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}, tiny_model(seed=3)

    def refused(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(OSError, match="Permission denied"):
        written.save(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_settings_that_we_do_not_know_are_kept(folder, tmp_path):
    edit(folder / "config_sentence_transformers.json", their_own={"a": [1]}, prompts={"query": "find: ", "x": "y"})
    SentenceTransformer(folder).save(tmp_path / "again")
    content = json.loads((tmp_path / "again/config_sentence_transformers.json").read_text())
    assert content["their_own"] == {"a": [1]}
    assert content["prompts"] == {"query": "find: ", "document": "", "x": "y"}
    assert load_folder(tmp_path / "again").settings["their_own"] == {"a": [1]}


# ---------------------------------------------------------------- older folders


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_lengths_in_files_of_all_seven_names(folder, kind):
    (folder / "sentence_bert_config.json").unlink()
    content = {"max_seq_length": 11, "do_lower_case": True}
    (folder / f"sentence_{kind}_config.json").write_text(json.dumps(content))
    tokenizer = load_folder(folder).tokenizer
    assert tokenizer.max_length == 11
    assert tokenizer.backend.normalizer.normalize_str("READ") == "read"


def without_lower_case(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("about", "lowered"),
    [
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": True}, True),
        ({"tokenizer_class": "BertTokenizer", "do_lower_case": False}, False),
        ({"tokenizer_class": "BertTokenizer"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, False),
    ],
)
def test_do_lower_case_in_tokenizer_config(folder, tmp_path, about, lowered):
    """As transformers has it: BERT's own classes change their normalizer by it, the generic class does not."""
    without_lower_case(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    model = SentenceTransformer(folder)
    assert model.tokenizer.backend.normalizer.normalize_str("READ") == ("read" if lowered else "READ")
    model.save(tmp_path / "again")
    again = SentenceTransformer(tmp_path / "again").tokenizer
    assert again.backend.normalizer.normalize_str("READ") == ("read" if lowered else "READ")


def only_vocab_txt(folder, **about):
    """What a folder of 2019 has in place of a tokenizer.json."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.get)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), "utf-8")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def test_vocab_txt_alone(folder):
    assert same(SentenceTransformer(only_vocab_txt(folder)), tiny_model())
    tokens = load_folder(folder).tokenizer([("READ it", "write")])
    expected = tiny_model().tokenizer([("READ it", "write")])
    assert tokens.input_ids.tolist() == expected.input_ids.tolist()
    assert tokens.token_type_ids.tolist() == expected.token_type_ids.tolist()


def test_vocab_txt_of_a_cased_model(folder):
    tokenizer = load_folder(only_vocab_txt(folder, do_lower_case=False)).tokenizer
    assert tokenizer.backend.normalizer.normalize_str("READ") == "READ"


def test_vocab_txt_without_a_special_token(folder):
    only_vocab_txt(folder, cls_token="<s>")
    with pytest.raises(KeyError, match="<s>"):
        wordpiece(folder / "vocab.txt", {"cls_token": "<s>"})
    with pytest.raises(ValueError, match=r"vocab\.txt is not as a saved model has it: '<s>' is missing"):
        load_folder(folder)


def test_vocab_txt_of_another_family(tmp_path):
    """Only BERT's says all of the tokenizer."""
    tiny_model(encoder={"model_type": "mpnet"}).save(tmp_path / "m")
    only_vocab_txt(tmp_path / "m")
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        load_folder(tmp_path / "m")


# ---------------------------------------------------------------- tokenizer_config.json


def test_special_tokens_are_written(folder, tmp_path):
    """A checkpoint of BERT's class need not name them; the class that we write knows none by itself."""
    about = {"tokenizer_class": "BertTokenizer", "cls_token": {"content": "[CLS]"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    SentenceTransformer(folder).save(tmp_path / "again")
    content = json.loads((tmp_path / "again/tokenizer_config.json").read_text())
    assert [content[f"{name}_token"] for name in ("pad", "unk", "sep", "mask")] == ["[PAD]", "[UNK]", "[SEP]", "[MASK]"]
    assert content["cls_token"] == {"content": "[CLS]"}  # what was there stays


def test_special_tokens_of_the_older_file(folder, tmp_path):
    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[UNK]"}))
    SentenceTransformer(folder).save(tmp_path / "again")
    assert json.loads((tmp_path / "again/tokenizer_config.json").read_text())["pad_token"] == "[UNK]"


@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_token_types_of_a_bert_are_as_its_folder_says(folder, tmp_path, names):
    edit(folder / "tokenizer_config.json", model_input_names=names)
    model = SentenceTransformer(folder)
    has_types = "token_type_ids" in names
    assert model.tokenizer([("read", "write")]).token_type_ids.any() == has_types
    model.save(tmp_path / "again")
    written = json.loads((tmp_path / "again/tokenizer_config.json").read_text())["model_input_names"]
    assert ("token_type_ids" in written) == has_types
    again = SentenceTransformer(tmp_path / "again")
    assert again.tokenizer([("read", "write")]).token_type_ids.any() == has_types


# ---------------------------------------------------------------- a loaded model


def test_a_loaded_model_is_in_eval_mode(tmp_path):
    rates = {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.4}
    model = tiny_model(encoder=rates)
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    assert not any(module.training for module in loaded.modules())
    tokens = loaded.tokenizer(TEXTS).packed()
    with torch.no_grad():  # with gradients attention lays texts out otherwise, and sums in another order
        ((first,),), ((second,),) = loaded([tokens]), loaded([tokens])
    assert torch.equal(first, second)
    loaded.train()
    ((third,),) = loaded([tokens])
    assert not torch.allclose(first, third)  # the dropout is there
    with loaded.inference():
        ((again,),) = loaded([tokens])
    assert torch.equal(again, first)
    assert loaded.training
