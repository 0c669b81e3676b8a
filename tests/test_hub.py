"""Hub names, against a hub on this machine and caches that the tests make themselves."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from local_hub import LocalHub, _Handler
from tiny import ROOT, tiny_model

from minist import SentenceTransformer
from minist.models.folder import load_folder
from minist.models.hub import find_model, missing_files, module_folders, needed_files
from minist.models.hub import push as push_saved
from minist.modules.dense import Dense

NAME = "someone/tiny"
# what repositories hold beside the model
OTHER = ["README.md", ".gitattributes", "vocab.txt", "vocab.json", "generation_config.json", "trainer_state.json"]
OTHER += ["onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.bin", "tf_model.h5", "pytorch_model.bin"]
OTHER += ["flax_model.msgpack", "rust_model.ot", "train_script.py", "image.png", "eval/results.json"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a model folder that the model is read from: {path: content}."""
    model = tiny_model()
    model.stack.append(Dense(16, 8))
    folder = tmp_path_factory.mktemp("saved") / "m"
    model.save(folder)
    (folder / "README.md").unlink()
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that huggingface_hub asks instead of the real one, an empty cache, and nobody logged in."""
    local = LocalHub()
    template = local.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", local.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # the next one reads the environment again
    yield local
    local.close()
    enable_progress_bars()  # a push without a terminal turned them off


@pytest.fixture
def full(hub, files):
    """The hub with the model, and with what else lies in repositories."""
    hub.add(NAME, files | dict.fromkeys(OTHER, b"other"))
    return hub


def refusal(*arguments, **options):
    """The one sentence of a ValueError."""
    with pytest.raises(ValueError) as caught:
        find_model(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- which files


def test_needed_files(tmp_path):
    files = [*OTHER, "modules.json", "config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"]
    files += ["2_Dense/config.json", "2_Dense/pytorch_model.bin", "2_Dense/deeper/config.json", "3_Other/config.json"]
    folder = snapshot(
        tmp_path, ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense/", "Dense"), ("4_N", "Normalize")
    )
    expected = ["modules.json", "config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
    expected += ["2_Dense/config.json", "2_Dense/pytorch_model.bin"]
    assert needed_files(folder, files) == expected


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ["pytorch_model.bin"]),
        ([*SHARDS, "model.safetensors.index.json"], ["model.safetensors.index.json", *SHARDS]),
        (["model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json"], None),
        (["adapter_model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"], ["pytorch_model.bin"]),
    ],
)
def test_weights_of_one_kind(tmp_path, files, needed):
    folder = snapshot(tmp_path, ("", "Dense"), ("a", "Dense"))
    needed, index = needed or ["model.safetensors"], json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))})
    both = [*files, *(f"a/{file}" for file in files)]
    known = [name for name in needed if name not in SHARDS]  # the index says what else there is, once it is there
    assert needed_files(folder, both) == ["config.json", *known, "a/config.json", *(f"a/{name}" for name in known)]
    write(folder, dict.fromkeys(["model.safetensors.index.json", "a/model.safetensors.index.json"], index.encode()))
    assert needed_files(folder, both) == ["config.json", *needed, "a/config.json", *(f"a/{name}" for name in needed)]


def test_settings_of_the_root_where_no_module_is(tmp_path):
    files = ["modules.json", "config_sentence_transformers.json", "model.safetensors", "0_Dense/config.json"]
    folder = snapshot(tmp_path, ("0_Dense", "Dense"))
    assert needed_files(folder, files) == [*files[:2], files[3], "0_Dense/model.safetensors"]


@pytest.mark.parametrize("plain", [False, True])
def test_an_adapter_and_its_base(hub, files, tmp_path, plain):
    """Two repositories; of PEFT's own, the one has nothing but the adapter."""
    hub.add(NAME, files)
    model = SentenceTransformer(NAME)
    model.add_adapter(2, 4)
    model.save(tmp_path / "m")
    config = json.loads((tmp_path / "m/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == NAME and config["revision"] == hub.branches[NAME]["main"]
    own = {path.relative_to(tmp_path / "m").as_posix(): path for path in (tmp_path / "m").rglob("*") if path.is_file()}
    hub.add("a/lora", {name: p.read_bytes() for name, p in own.items() if not plain or name.startswith("adapter_")})
    shutil.rmtree(tmp_path / "cache")
    expected = model.encode(["read a file"])
    for opened in (SentenceTransformer("a/lora"), SentenceTransformer(NAME, adapter="a/lora")):
        assert opened.is_adapted and (opened.encode(["read a file"]) == expected).all()
    hub.status["/"] = 500  # all is in the cache
    assert SentenceTransformer("a/lora").is_adapted


def test_module_folders(tmp_path):
    assert module_folders(tmp_path) == [("Transformer", tmp_path)]
    entries = [{"path": "", "type": "sentence_transformers.models.Router"}, {"path": "1_Dense", "type": "Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    expected = [("Router", tmp_path), ("Dense", tmp_path / "1_Dense")]
    assert module_folders(tmp_path) == expected
    (tmp_path / "router_config.json").write_text(
        '{"types": {"query_0_Static": "a.Normalize", "document_0_Router": "b.Router"}}'
    )
    place = tmp_path / "document_0_Router"
    place.mkdir()
    (place / "router_config.json").write_text('{"types": {"x_0_C": "c.Pooling", ".": "b.Router"}}')
    expected += [("Normalize", tmp_path / "query_0_Static"), ("Router", place), ("Pooling", place / "x_0_C")]
    assert module_folders(tmp_path) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"path": "../x", "type": "Dense"}]', "names the path '../x', which leaves the model folder"),
        ('[{"path": "/etc", "type": "Dense"}]', "names the path '/etc', which leaves"),
        ('[{"name": "0"}]', "modules.json is not as a saved model has it"),
        ('[{"path": "a"}]', "modules.json is not as a saved model has it"),
        ('[{"path": 1, "type": "Dense"}]', "modules.json is not as a saved model has it"),
        ('[{"path": "", "type": "a.New"}]', "the class of a module is 'New', known are"),
        ("3", "modules.json is not as a saved model has it"),
        ("[{", "modules.json is not JSON"),
    ],
)
def test_module_folders_that_cannot_be(tmp_path, text, words):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        module_folders(tmp_path)
    (tmp_path / "modules.json").write_text('[{"path": "", "type": "Router"}]')
    (tmp_path / "router_config.json").write_text('{"types": {"../x": "Transformer"}}')
    with pytest.raises(ValueError, match=r"router_config\.json: it names the path '../x'"):
        module_folders(tmp_path)
    (tmp_path / "router_config.json").write_text('{"types": ["x"]}')
    with pytest.raises(ValueError, match=r"router_config\.json is not as a saved model has it"):
        module_folders(tmp_path)


ENCODER, WEIGHTS = ["config.json", "tokenizer.json", "model.safetensors"], "model.safetensors"


def snapshot(tmp_path, *modules):
    """A snapshot folder of the cache with modules.json alone, from pairs of path and class."""
    folder = tmp_path / "models--a--b/snapshots/1234"
    entries = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    write(folder, {"modules.json": json.dumps(entries).encode()})
    return folder


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        ("Transformer", ENCODER),
        ("StaticEmbedding", ["tokenizer.json", WEIGHTS]),
        ("Pooling", ["config.json"]),
        ("Dropout", ["config.json"]),
        ("Normalize", []),
        ("Dense", ["config.json", WEIGHTS]),
        ("Router", ["router_config.json"]),
    ],
)
def test_what_a_module_is_not_read_without(tmp_path, kind, needed):
    folder = snapshot(tmp_path, ("1_Module", kind))
    assert missing_files(folder) == [f"1_Module/{name}" for name in needed]
    write(folder, {f"1_Module/{name}": b'{"types": {}}' for name in needed})
    assert missing_files(folder) == []


def test_all_modules_and_routes_count(tmp_path):
    folder = snapshot(tmp_path, ("", "Router"), ("1_Pooling", "Pooling"))
    assert missing_files(folder) == ["router_config.json", "1_Pooling/config.json"]
    write(folder, {"router_config.json": b'{"types": {"q": "x.StaticEmbedding", "d": "x.Transformer"}}'})
    routes = [f"q/{name}" for name in ENCODER[1:]] + [f"d/{name}" for name in ENCODER]
    assert missing_files(folder) == ["1_Pooling/config.json", *routes]


def test_what_weights_are(tmp_path):
    folder, shards = snapshot(tmp_path, ("", "Dense")), [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    write(folder, {"config.json": b"", shards[0]: b""})
    assert missing_files(folder) == [WEIGHTS]  # without an index nobody knows how many there are
    write(folder, {"pytorch_model.bin": b""})
    assert missing_files(folder) == []
    index = folder / "model.safetensors.index.json"  # it is read rather than the old weights
    index.write_text(json.dumps({"weight_map": dict(zip("abc", [*shards, shards[0]], strict=True))}))
    assert missing_files(folder) == shards[1:]
    write(folder, {shards[1]: b""})
    assert missing_files(folder) == []
    index.write_text("[]")
    with pytest.raises(ValueError, match=r"index\.json is not as a saved model has it"):
        missing_files(folder)
    write(folder, {WEIGHTS: b""})
    assert missing_files(folder) == []


def test_modules_json_is_there_or_known_not_to_be(tmp_path):
    folder = tmp_path / "models--a--b/snapshots/1234"
    write(folder, {"README.md": b""})
    assert missing_files(folder) == ["modules.json", *ENCODER]
    write(folder, dict.fromkeys(ENCODER, b"{}"))
    assert missing_files(folder) == ["modules.json"]
    write(tmp_path / "models--a--b/.no_exist", {"5678/modules.json": b"", "1234/config_other.json": b""})
    assert missing_files(folder) == ["modules.json"]
    write(tmp_path / "models--a--b/.no_exist", {"1234/modules.json": b""})
    assert missing_files(folder) == []


def test_a_classifier_has_no_modules_to_miss(tmp_path):
    """As transformers and version 5 cache a cross-encoder, without asking for modules.json."""
    folder = tmp_path / "models--a--b/snapshots/1234"
    write(folder, {"config.json": b'{"architectures": ["BertForSequenceClassification"]}'})
    assert missing_files(folder) == [file for file in ENCODER if file != "config.json"]


# ---------------------------------------------------------------- finding


def test_a_local_folder(tmp_path, hub):
    (tmp_path / "owner/name").mkdir(parents=True)
    assert find_model("owner/name") == Path("owner/name")
    assert find_model(tmp_path / "owner") == tmp_path / "owner"
    assert "owner/name is a folder here, which has no revision 'v1'" in refusal("owner/name", revision="v1")
    (tmp_path / "file").touch()
    assert "file is not a folder" in refusal("file")
    assert hub.requests == []


PATHS = ["./missing", "../missing", "/abs/missing", "runs/x/model", "~/m", "m/", "a\\b", Path("runs/model"), Path("m")]
FORBIDDEN = ["", "a b", "é", "-m", "m-", "a/b.", "a--b", "a..b", "a--b/c", "owner/name.git", "\0", "a\n"]


@pytest.mark.parametrize("name", PATHS + FORBIDDEN, ids=repr)
def test_no_folder_and_no_name(hub, name):
    message = refusal(name)
    assert "there is no folder " in message and "owner/name" in message
    assert hub.requests == []


@pytest.mark.parametrize("name", ["a", "a/b", "_a/b", "BAAI/bge-small-en-v1.5", "1a/2_b.c-d"])
def test_names(hub, name):
    assert f"there is no folder {name}, and no model" in refusal(name)


def test_fetches_what_the_model_needs(full, files):
    folder = find_model(NAME)
    assert content(folder) == files
    assert full.fetched() == sorted(files)
    assert load_folder(folder).tokenizer.vocab_size > 0


def test_a_full_cache_asks_nobody(full):
    folder = find_model(NAME)
    full.requests.clear()
    assert find_model(NAME) == folder
    assert find_model(NAME, revision="main") == folder
    assert find_model(NAME, revision=folder.name) == folder
    assert full.requests == []
    full.add(NAME, {})  # the branch moves on
    assert find_model(NAME) == folder


def test_a_full_cache_without_network(full, monkeypatch):
    folder = find_model(NAME)
    full.close()
    assert find_model(NAME) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model(NAME) == folder


def test_a_name_without_owner(hub, files):
    hub.add("sentence-transformers/tiny", files)
    assert content(find_model("tiny")) == files
    assert "no model sentence-transformers/other or other on the hub" in refusal("other")


@pytest.mark.parametrize("offline", [False, True])
def test_a_name_older_than_owners(hub, files, monkeypatch, offline):
    """As "bert-base-uncased": what is under sentence-transformers/ goes first."""
    hub.add("tiny", files)
    folder = find_model("tiny")
    assert content(folder) == files
    assert "models--tiny" in folder.parts
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    hub.requests.clear()
    assert find_model("tiny") == folder
    assert hub.requests == []
    hub.add("sentence-transformers/tiny", newer := files | {"config.json": files["config.json"] + b"\n"})
    shutil.rmtree(folder.parents[1])
    if not offline:
        assert content(find_model("tiny")) == newer


def test_old_weights_in_shards_and_a_vocabulary_of_lines(hub, files):
    rest = {name: data for name, data in files.items() if name not in ("model.safetensors", "tokenizer.json")}
    shards = {f"pytorch_model-0000{i}-of-00002.bin": b"x" * i for i in (1, 2)}
    index = {"pytorch_model.bin.index.json": json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()}
    whole = rest | shards | index | {"vocab.txt": b"[UNK]"}
    hub.add(NAME, whole | {"README.md": b"", "tf_model.h5": b""})
    folder = find_model(NAME)
    assert content(folder) == whole
    hub.requests.clear()
    assert find_model(NAME) == folder
    assert hub.requests == []
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert missing_files(folder) == ["pytorch_model-00002-of-00002.bin"]


def by_another_library(names, revision=None):
    """File by file, also those that the repository turns out not to have; nothing says that these are all."""
    for name in names:
        with suppress(EntryNotFoundError):
            hf_hub_download(NAME, name, revision=revision)


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("revision", [None, "main", "v2", "commit"])
def test_a_cache_that_another_library_filled(full, files, monkeypatch, offline, revision):
    commit = full.add(NAME, files | dict.fromkeys(OTHER, b"other"), "v2")
    revision = commit if revision == "commit" else revision
    by_another_library(["README.md", "sentence_roberta_config.json", *files, "vocab.txt"], revision)
    full.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert files.items() <= content(find_model(NAME, revision=revision)).items()
    assert full.requests == []


PLAIN = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def only_config():
    by_another_library(["config.json"])


def all_but_modules():
    """As a library does that reads the encoder alone: this looks like a plain checkpoint."""
    by_another_library(PLAIN)


def all_but_pooling():
    snapshot_download(NAME, ignore_patterns=["1_Pooling/*"])


def interrupted():
    weights = (find_model(NAME) / "model.safetensors").resolve()
    weights.rename(f"{weights}.incomplete")


@pytest.mark.parametrize("prepare", [only_config, all_but_modules, all_but_pooling, interrupted])
def test_an_incomplete_cache_is_completed(full, files, monkeypatch, prepare):
    prepare()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "has not all of someone/tiny" in refusal(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = find_model(NAME)
    assert files.items() <= content(folder).items()
    full.requests.clear()
    assert find_model(NAME) == folder
    assert full.requests == []


def test_what_looks_like_a_plain_checkpoint(full, files, monkeypatch):
    """Offline only a person can know; asked, the hub gives what is missing and nothing twice."""
    all_but_modules()
    folder = Path(hf_hub_download(NAME, "config.json")).parent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"and give the folder, or give {folder} if you know that it is whole" in refusal(NAME)
    (folder / "model.safetensors").rename(folder / "x")
    message = refusal(NAME)
    assert "and give the folder" in message and "whole" not in message
    (folder / "x").rename(folder / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    full.requests.clear()
    assert content(find_model(NAME)) == files
    assert full.fetched() == sorted(set(files) - set(PLAIN))


@pytest.mark.parametrize("cut", ["model.safetensors", "2_Dense/model.safetensors", "1_Pooling/config.json"])
def test_an_interrupted_fetch_is_completed(full, files, monkeypatch, cut):
    """Small files first: were the weights there, what else is missing might be such as no rule asks for."""
    only_config()  # so the cache knows the commit of main
    full.cut.add(cut)
    assert "could not be fetched" in refusal(NAME)
    here = set(content(Path(hf_hub_download(NAME, "config.json")).parent))
    small = {name for name in files if name.endswith(".json")}
    assert here >= small if cut.endswith(".safetensors") else here <= small
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "has not all of someone/tiny" in refusal(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    full.cut.clear()
    full.requests.clear()
    assert content(find_model(NAME)) == files
    assert full.fetched() == sorted(set(files) - here)


@pytest.mark.parametrize(
    "cut", ["sentence_bert_config.json", "config_sentence_transformers.json", "d/router_config.json"]
)
def test_an_interrupted_fetch_beside_weights_of_another_library(full, files, cut):
    """Once modules.json is there nothing is missing, though the model would be read with other settings."""
    modules = b'[{"path": "", "type": "Transformer"}]'
    full.add(NAME, files | {"modules.json": modules, "d/router_config.json": b'{"types": {}}'})
    all_but_modules()
    full.cut.add(cut)
    assert "could not be fetched" in refusal(NAME)
    full.cut.clear()
    assert cut in content(find_model(NAME))


def test_a_missing_shard(hub, files, monkeypatch):
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()}
    rest = {name: data for name, data in files.items() if name != "model.safetensors"}
    hub.add(NAME, whole := rest | index | dict.fromkeys(shards, b"x") | {shards[1]: b"yy"})
    by_another_library(set(whole) - {shards[1]})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "has not all of someone/tiny" in refusal(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.requests.clear()
    assert content(find_model(NAME)) == whole
    assert hub.fetched() == shards[1:]


def test_a_cache_that_has_no_more_than_the_model(full, files, monkeypatch):
    """Whoever chose the files of a snapshot left a list of all that the repository has: it does not matter."""
    snapshot_download(NAME, allow_patterns=list(files))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert content(find_model(NAME)) == files


def test_a_branch_that_moves_during_the_fetch(hub, files, monkeypatch):
    """What is fetched is one commit all the same."""
    first, file = hub.add(NAME, files), _Handler.file
    later = {name: data + b" " if name.endswith(".json") else data for name, data in files.items()}

    def move_and_answer(handler, repo, commit, path):
        file(handler, repo, commit, path)
        hub.add(NAME, later)

    monkeypatch.setattr(_Handler, "file", move_and_answer)
    folder = find_model(NAME)
    assert (folder.name, content(folder)) == (first, files)
    assert content(find_model(NAME)) == later


def test_unchanged_weights_of_another_revision_are_not_fetched_again(full, files):
    find_model(NAME)
    full.add(NAME, files | {"config.json": files["config.json"] + b"\n"}, "v2")
    full.requests.clear()
    assert content(find_model(NAME, revision="v2"))["config.json"].endswith(b"\n\n")
    assert full.fetched() == ["config.json"]
    full.requests.clear()
    find_model(NAME, revision="v2")
    assert full.requests == []


def test_revisions(hub, files):
    first = hub.add(NAME, files, "feature/v1")
    second = hub.add(NAME, files | {"config.json": b"{}"})
    assert find_model(NAME).name == second
    assert find_model(NAME, revision="feature/v1").name == first
    assert content(find_model(NAME, revision=first)) == files
    assert "someone/tiny has no revision 'v9': give one of its branches" in refusal(NAME, revision="v9")


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("by", ["us", "another library"])
def test_a_plain_checkpoint(hub, files, monkeypatch, by, offline):
    """That it has no modules.json is noted in the cache, by the commit."""
    commit = hub.add(NAME, {name: files[name] for name in PLAIN} | dict.fromkeys(OTHER, b"other"))
    if by == "us":
        assert sorted(content(find_model(NAME))) == sorted(PLAIN)
    else:
        by_another_library(["modules.json", *PLAIN])
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    for revision in (None, "main", commit):
        assert sorted(content(find_model(NAME, revision=revision))) == sorted(PLAIN)
    assert hub.requests == []


def test_shards_and_old_weights(hub, files):
    shards = {f"model-0000{i}-of-00002.safetensors": b"x" * i for i in (1, 2)}
    shards["model.safetensors.index.json"] = json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    old = {"pytorch_model.bin": b"weights"}
    rest = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
    hub.add(NAME, rest | shards | old, "shards")
    hub.add(NAME, rest | old | {"2_Dense/pytorch_model.bin": b"dense"}, "old")
    assert content(find_model(NAME, revision="shards")) == rest | shards
    assert content(find_model(NAME, revision="old")) == rest | old | {"2_Dense/pytorch_model.bin": b"dense"}


def test_a_router(hub):
    routes = b'{"types": {"query_0_A": "StaticEmbedding", "doc_0_B": "Router"}}'
    files = {"modules.json": b'[{"path": "", "type": "Router"}]', "router_config.json": routes}
    files |= {"query_0_A/tokenizer.json": b"{}", "query_0_A/model.safetensors": b"q"}
    files |= {"doc_0_B/router_config.json": b'{"types": {"c": "Pooling"}}', "doc_0_B/c/config.json": b"{}"}
    hub.add(NAME, files | {"doc_0_B/readme.txt": b"", "other/config.json": b"{}"})
    assert content(folder := find_model(NAME)) == files
    hub.requests.clear()
    assert find_model(NAME) == folder
    assert hub.requests == []


def test_a_router_of_version_4(hub):
    routes = b'{"types": {"140_Dense": "sentence_transformers.models.Dense"}}'
    entries = [{"path": "", "type": "StaticEmbedding"}, {"path": "1_Asym", "type": "sentence_transformers.models.Asym"}]
    files = {"modules.json": json.dumps(entries).encode(), "tokenizer.json": b"{}", "model.safetensors": b"s"}
    files |= {"1_Asym/config.json": routes, "1_Asym/140_Dense/config.json": b"{}"}
    hub.add(NAME, files | {"1_Asym/140_Dense/model.safetensors": b"d", "other/config.json": b"{}"})
    assert content(folder := find_model(NAME)) == files | {"1_Asym/140_Dense/model.safetensors": b"d"}
    hub.requests.clear()
    assert find_model(NAME) == folder
    assert hub.requests == []


def test_paths_that_leave_the_folder_are_not_fetched(hub, files):
    hub.add(NAME, files | {"modules.json": b'[{"path": "../other", "type": "Dense"}]'})
    assert "names the path '../other', which leaves the model folder" in refusal(NAME)
    assert "model.safetensors" not in hub.fetched()


def test_a_module_that_we_do_not_have_is_said_before_weights_are_fetched(hub, files):
    hub.add(NAME, files | {"modules.json": b'[{"path": "", "type": "models.CLIPModel"}]'})
    for _ in range(2):  # then modules.json is in the cache
        assert "modules.json: the class of a module is 'CLIPModel', known are Transformer" in refusal(NAME)
    assert "model.safetensors" not in hub.fetched()


# ---------------------------------------------------------------- who may


def test_the_token_is_sent(hub, files, monkeypatch):
    hub.add(NAME, files)
    hub.readers[NAME] = "secret"
    assert content(find_model(NAME, token="secret")) == files
    assert {authorization for _, _, authorization in hub.requests} == {"Bearer secret"}


def test_the_token_of_the_environment(hub, files, monkeypatch):
    hub.add(NAME, files)
    hub.readers[NAME] = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert content(find_model(NAME)) == files


def test_not_found_private_and_gated(full):
    full.readers[NAME] = "secret"
    for name, token in (("someone/other", None), (NAME, None), (NAME, "wrong")):
        message = refusal(name, token=token)
        assert f"there is no folder {name}, and no model {name} on the hub that this token may see" in message
    full.readers.clear()
    full.gated.add(NAME)
    assert f"someone/tiny is gated: ask for access at {full.url}/{NAME}" in refusal(NAME)
    find_model(NAME, token="any")


def test_no_model(hub):
    hub.add(NAME, {"README.md": b"", "weights.gguf": b""})
    assert "someone/tiny on the hub is no model: it has neither modules.json nor config.json" in refusal(NAME)
    snapshot_download(NAME)
    hub.add(NAME, {"config.json": b"{}"})  # the cache knows of the state before
    assert content(find_model(NAME)) == {"config.json": b"{}"}


# ---------------------------------------------------------------- what goes wrong


def test_offline(full, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(NAME)
    assert (
        f"there is no folder {NAME}, {tmp_path}/cache has not all of {NAME}, which could not be fetched" in message
        and "HF_HUB_OFFLINE" in message
    )
    assert full.requests == []


@pytest.mark.parametrize("prepare", [lambda: None, only_config, all_but_pooling])
def test_no_connection(full, prepare):
    prepare()
    full.close()
    message = refusal(NAME)
    assert "there is no folder someone/tiny, " in message
    assert "has not all of someone/tiny, which could not be fetched from the hub" in message
    assert "ConnectError" in message and "give the folder" in message


@pytest.mark.parametrize("prepare", [lambda: None, all_but_pooling])
def test_an_ill_hub(full, prepare):
    prepare()
    full.status["/api/models"] = 503
    assert "could not be fetched from the hub (the hub answered 503, as the test wants it)" in refusal(NAME)
    full.status["/api/models"] = 403
    assert "the hub answered 403, as the test wants it" in refusal(NAME)


def test_a_page_that_is_no_answer(hub, monkeypatch):
    """Behind a wall that asks for a password first."""
    monkeypatch.setattr("local_hub._Handler.do_GET", lambda handler: handler.send(200, b"<html>log in</html>"))
    assert "could not be fetched from the hub (JSONDecodeError" in refusal(NAME)


def test_half_a_file(full, files):
    full.cut.add("model.safetensors")
    message = refusal(NAME)
    assert "could not be fetched from the hub (OSError: Consistency check failed" in message
    full.cut.clear()
    assert content(find_model(NAME)) == files


def test_errors_of_the_disk_pass(full, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(OSError) as caught:
        find_model(NAME)
    assert caught.value.errno is not None


# ---------------------------------------------------------------- pushing


def push(folder, repo=NAME, *, private=False, token="secret", revision=None):
    def save(place, name):
        shutil.copytree(folder, place, dirs_exist_ok=True)

    return push_saved(save, repo, private=private, token=token, revision=revision)


def test_push_and_find(hub, files, tmp_path):
    write(tmp_path / "m", files | {"README.md": b"# tiny"})
    assert push(tmp_path / "m") == f"{hub.url}/{NAME}"
    created, (kind, *commit, pushed) = hub.pushes
    assert created == ("create", NAME, "public")
    assert (kind, commit) == ("commit", [NAME, "main", "Add a model"])
    assert pushed == files | {"README.md": b"# tiny"}
    assert {authorization for _, _, authorization in hub.requests} == {"Bearer secret"}
    assert content(find_model(NAME)) == files


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_push_to_a_branch_of_a_repository_that_exists(hub, tmp_path):
    write(tmp_path / "m", {"config.json": b"new"})
    hub.add(NAME, {"config.json": b"old", "README.md": b"kept"})
    for _ in range(2):  # then the branch exists too, and nothing has changed
        push(tmp_path / "m", private=True, revision="v2")
    assert hub.pushes[0] == ("commit", NAME, "v2", "Add a model", {"config.json": b"new", "README.md": b"kept"})
    assert hub.commits[hub.branches[NAME]["v2"]] == {"config.json": b"new", "README.md": b"kept"}
    assert hub.commits[hub.branches[NAME]["main"]]["config.json"] == b"old"


def test_push_makes_private_repositories_under_ones_own_name(hub, tmp_path):
    write(tmp_path / "m", {"a/config.json": b"new"})
    assert push(tmp_path / "m", "tiny", private=True) == f"{hub.url}/somebody/tiny"
    assert hub.pushes[0] == ("create", "somebody/tiny", "private")
    assert hub.pushes[1][-1] == {"a/config.json": b"new"}


def test_a_card_names_the_owner_too(hub):
    tiny_model().push_to_hub("tiny", token="secret")
    assert 'SentenceTransformer("somebody/tiny")' in hub.pushes[-1][-1]["README.md"].decode()


def test_a_pushed_card_leaves_words_of_a_person_as_they_are(hub):
    model = tiny_model()
    model.push_to_hub(NAME, token="secret")
    first = hub.pushes[-1][-1]["README.md"].decode()
    assert f'SentenceTransformer("{NAME}")' in first  # where everybody finds it
    model.max_length = 16
    model.push_to_hub(NAME, token="secret")
    assert "16 tokens" in hub.pushes[-1][-1]["README.md"].decode(), "nobody has changed the first"
    changed = first.replace("library_name", "license: mit\nlibrary_name").encode()
    hub.add(NAME, {"README.md": changed})
    model.push_to_hub(NAME, token="secret")
    assert "modules.json" in hub.pushes[-1][-1]
    assert hub.commits[hub.branches[NAME]["main"]]["README.md"] == changed


def test_push_that_cannot_be(hub, tmp_path):
    write(tmp_path / "m", {"config.json": b"new"})
    with pytest.raises(ValueError, match=r"could not be pushed to someone/tiny \(the hub answered 401, Invalid user"):
        push(tmp_path / "m", token=None)
    hub.close()
    with pytest.raises(ValueError, match=r"could not be pushed to someone/tiny \(ConnectError"):
        push(tmp_path / "m")


# ---------------------------------------------------------------- the person and the machine


def test_bars_are_for_terminals(full, capfd, monkeypatch):
    find_model(NAME)
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    find_model(NAME)
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_bars_of_uploads_are_for_terminals(hub, tmp_path, monkeypatch, terminal, fails):
    """Large files have some; that they are turned off is seen while the hub answers."""
    disabled, create = [], _Handler.create
    monkeypatch.setattr(
        _Handler,
        "create",
        lambda handler, asked: (disabled.append(are_progress_bars_disabled()), create(handler, asked)),
    )
    hub.status = {f"/api/models/{NAME}/commit": 403} if fails else {}
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    write(tmp_path / "m", {"config.json": b"new"})
    with pytest.raises(ValueError, match="answered 403, as the test wants it") if fails else nullcontext():
        push(tmp_path / "m")
    assert disabled == [not terminal]


@pytest.mark.slow
def test_the_environment_is_heard(full, files, tmp_path):
    """In a process of its own, since huggingface_hub reads it when it is imported."""
    full.readers[NAME] = "secret"
    other = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": full.url, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0"}
    program = f"from minist.models.hub import find_model; print(find_model({NAME!r}))"
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = keep | other | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home/hub")
    assert content(Path(done.stdout.strip())) == files
