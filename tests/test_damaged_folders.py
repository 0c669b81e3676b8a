"""Folders that were damaged, by hand or by a disk: one plain sentence, whatever a file holds."""

import copy
import json
import os
import re
import shutil

import pytest
import torch
from routed import asymmetric
from safetensors.torch import load_file, save_file
from test_folder import edit
from tiny import tiny_model
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece

from minist.models.folder import load_folder, load_module
from minist.models.reading import read_optional, read_table, reading
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Dense, Dropout, LayerNorm, Normalize
from minist.modules.pooling import Pooling
from minist.modules.weighted_layer_pooling import WeightedLayerPooling

DEEP = "nested"
VALUES = [None, [], {}, -1, "x", float("inf"), True, 10**30, "\ud800", "../x", DEEP]
PYTHON = ("object", "codec", "iterable", "operand", "NoneType", "argument", "expected str,", "not supported between")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two models that have a module of every class between them."""
    folder, model = tmp_path_factory.mktemp("damaged"), tiny_model()
    tokens = [model.stack[0], WeightedLayerPooling(16, 2, 1), Dense(16, 16), Pooling(16)]
    modules = [*tokens, Dense(16, 8), LayerNorm(8), Dropout(0.1), Normalize()]
    SentenceTransformer.from_modules(modules, model.tokenizer).save(folder / "long")
    asymmetric(mappings={"q": "query"}).save(folder / "routes")
    return folder


@pytest.fixture
def folder(tmp_path):
    tiny_model().save(tmp_path / "m")
    return tmp_path / "m"


def check(folder):
    """It loads, or says in one plain line why it does not."""
    try:
        load_folder(folder)
    except (ValueError, OSError) as e:
        assert "\n" not in str(e)
        assert len(str(e)) < 1200
        assert not any(word in str(e) for word in PYTHON), e
        return str(e)
    return ""


def places(value, path=()):
    """The paths to all that a JSON value holds, but no more than three entries of a list."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    whole = part = copy.deepcopy(value)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = new
    return whole


def json_files(folder):
    return [file for file in sorted(folder.rglob("*.json")) if file.name != "tokenizer.json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long", "routes"])
def test_every_json_value_replaced(saved, tmp_path, name):
    shutil.copytree(saved / name, tmp_path / "m")
    deep = "[" * 100_000 + "]" * 100_000
    for n, file in enumerate(json_files(tmp_path / "m")):
        text = file.read_text()
        for i, path in enumerate(places(json.loads(text))):
            new = VALUES[(i + n) % len(VALUES)]  # a few of them here, all of them over the files
            content = json.dumps(changed(json.loads(text), path, new))
            file.write_text(content.replace(json.dumps(DEEP), deep))
            check(tmp_path / "m")
        file.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long", "routes"])
def test_every_file_cut_emptied_or_another_thing(saved, tmp_path, name):
    shutil.copytree(saved / name, tmp_path / "m", ignore=shutil.ignore_patterns("README.md"))  # which is not read
    for file in sorted(path for path in (tmp_path / "m").rglob("*") if path.is_file()):
        content = file.read_bytes()
        for damaged in (b"", content[: len(content) // 2], b"\xff" + content, b"null", b"3", b"[]"):
            file.write_bytes(damaged)
            assert check(tmp_path / "m") or damaged in (b"", b"null", b"[]") or file.name == "tokenizer_config.json"
        file.unlink()
        file.mkdir()
        assert check(tmp_path / "m"), file
        file.rmdir()
        os.mkfifo(file)
        assert check(tmp_path / "m"), file
        file.unlink()
        file.write_bytes(content)


def test_a_named_pipe_is_not_waited_for(folder):
    for name in ("modules.json", "config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"):
        (folder / name).rename(folder / "kept")
        os.mkfifo(folder / name)
        assert check(folder).endswith(f"{name} is no file")
        (folder / "kept").replace(folder / name)


@pytest.mark.parametrize("length", ["a", -1, 0, [], float("nan")])
@pytest.mark.parametrize(
    ("file", "key"), [("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")]
)
def test_lengths_that_are_none(folder, file, key, length):
    edit(folder / file, **{key: length})
    assert f"{key} is {length!r}: use a number at least 1" in check(folder)


def test_a_length_without_an_end(folder):
    edit(folder / "sentence_bert_config.json", max_seq_length=1e30)
    assert load_folder(folder).tokenizer.max_length == 34


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": {"query": 3}}, "prompts.query is 3: it must be a text or null"),
        ({"default_prompt_name": 3}, "default_prompt_name is 3: it must be a text or null"),
        ({"similarity_fn_name": []}, "similarity_fn_name is []: it must be a text or null"),
        ({"truncate_dim": "x"}, "truncate_dim is 'x': use a number at least 1"),
        ({"truncate_dim": 0}, "truncate_dim is 0: use a number at least 1"),
    ],
)
def test_settings_of_another_kind(folder, change, message):
    edit(folder / "config_sentence_transformers.json", **change)
    assert check(folder) == f"{folder}/config_sentence_transformers.json: {message}"


def test_prompts_that_are_no_table(folder):
    edit(folder / "config_sentence_transformers.json", prompts=["x"])
    assert "config_sentence_transformers.json is not as a saved model has it" in check(folder)


def test_prompts_that_are_null(folder):
    edit(folder / "config_sentence_transformers.json", prompts={"query": None}, default_prompt_name=None)
    assert SentenceTransformer(folder).prompts == {"query": "", "document": ""}


# ---------------------------------------------------------------- tokenizers


def test_a_tokenizer_without_its_unknown_token(folder):
    words = Backend.from_file(str(folder / "tokenizer.json"))
    content = json.loads(words.to_str())
    del content["model"]["vocab"]["[UNK]"]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "the tokenizer fails on a rare letter, is its unknown token there?" in check(folder)
    assert WordPiece({"a": 0}, unk_token="[UNK]")  # as the library lets one be made


def test_special_ids_beyond_the_vocabulary(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [5000]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "the tokenizer gives id 5000, its vocabulary ends at " in check(folder)


def test_ids_with_gaps(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["zebra"] = 70_000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "tokenizer.json has 70001 tokens, the model " in check(folder)


def test_a_template_without_the_id_of_its_token(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    del content["post_processor"]["special_tokens"]["[SEP]"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert check(folder)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.fill_(float("nan")), "has numbers that are NaN or infinite"),
        (lambda w: w.view(-1)[3:4].fill_(float("inf")), "has numbers that are NaN or infinite"),
        (lambda w: w.half().fill_(-float("inf")), "has numbers that are NaN or infinite"),
        (lambda w: w.long(), "is of type int64, which is no float"),
        (lambda w: w.bool(), "is of type bool, which is no float"),
    ],
)
@pytest.mark.parametrize(("below", "name"), [("", "encoder.layer.1.output.dense.weight"), ("4_Dense", "linear.weight")])
def test_weights_that_are_no_finite_floats(saved, tmp_path, below, name, change, message):
    shutil.copytree(saved / "long", tmp_path / "m")
    file = tmp_path / "m" / below / "model.safetensors"
    state = load_file(file)
    new = change(state[name])
    state[name] = new if new.numel() == state[name].numel() else state[name]
    save_file(state, file)
    assert check(tmp_path / "m") == f"{file.parent}: the weight {name} {message}"


def test_large_weights_are_finite(folder):
    """Their sum is not."""
    state = load_file(folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"].fill_(3e38)
    save_file(state, folder / "model.safetensors")
    assert check(folder) == ""


def test_half_precision_is_no_fault(folder):
    state = {name: weight.half() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors")
    assert {weight.dtype for weight in load_module("Transformer", folder).parameters()} == {torch.float32}


# ---------------------------------------------------------------- files that are missing


@pytest.mark.parametrize("left", ["1_Pooling", "config_sentence_transformers.json"])
def test_a_saved_model_without_its_modules_json(folder, left):
    (folder / "modules.json").unlink()
    if left == "1_Pooling":
        (folder / "config_sentence_transformers.json").unlink()
    else:
        shutil.rmtree(folder / "1_Pooling")
    assert check(folder).endswith(f"has no modules.json, but {left}: it is a saved model of which a file is missing")


@pytest.mark.parametrize(
    ("name", "entry", "says"),
    [
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side in .* is 'left', known are right"),
        ("config.json", {"is_decoder": True}, "is_decoder is 'True', known are False"),
        ("adapter_config.json", {"peft_type": "IA3"}, "peft_type is 'IA3', known are LORA"),
    ],
)
def test_what_would_be_read_as_something_else(folder, name, entry, says):
    """The real library does what these say, and gives other vectors than we would."""
    file = folder / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | entry))
    assert re.search(says, check(folder))


# ---------------------------------------------------------------- the handler


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("type"), "f.json is not as a saved model has it: 'type' is missing"),
        (TypeError("'int' object is not iterable"), "f.json is not as a saved model has it: a value in it is of ano"),
        (AttributeError("x"), "f.json is not as a saved model has it"),
        (RecursionError("x"), "f.json is nested too deep"),
        (ValueError("width is 3"), "f.json: width is 3"),
    ],
)
def test_what_is_said_of_an_error(tmp_path, error, message):
    with pytest.raises(ValueError, match=message), reading(tmp_path / "f.json"):
        raise error


def test_tables(tmp_path):
    (tmp_path / "f.json").write_text("[1]")
    with pytest.raises(ValueError, match="a value in it is of another kind"):
        read_table(tmp_path / "f.json")
    assert read_optional(tmp_path / "none.json") == {}
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.json")


def test_a_message_has_no_end_of_names(tmp_path):
    asymmetric().save(tmp_path / "m")
    edit(tmp_path / "m/router_config.json", parameters={"route_mappings": {f"role {i}": "query" for i in range(5000)}})
    assert "and 4,970 more, not all like" in check(tmp_path / "m")
