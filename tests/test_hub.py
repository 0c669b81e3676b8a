"""Hub names, against a hub on this machine and caches that the tests make themselves."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, hf_hub_download, snapshot_download
from huggingface_hub.utils import are_progress_bars_disabled
from local_hub import LocalHub
from tiny import ROOT, tiny_model

from minist.models.folder import load_folder
from minist.models.hub import find_model, module_folders, needed_files, push_folder
from minist.modules.dense import Dense

NAME = "someone/tiny"
# what repositories hold beside the model
OTHER = ["README.md", ".gitattributes", "vocab.txt", "vocab.json", "special_tokens_map.json", "trainer_state.json"]
OTHER += ["onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.bin", "tf_model.h5", "pytorch_model.bin"]
OTHER += ["flax_model.msgpack", "rust_model.ot", "train_script.py", "image.png", "eval/results.json"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model folder's files: {path: content}."""
    model = tiny_model()
    model.stack.append(Dense(16, 8))
    folder = tmp_path_factory.mktemp("saved") / "m"
    model.save(folder)
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


def test_needed_files():
    files = [*OTHER, "modules.json", "config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"]
    files += ["2_Dense/config.json", "2_Dense/pytorch_model.bin", "2_Dense/deeper/config.json", "3_Other/config.json"]
    expected = ["modules.json", "config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
    expected += ["2_Dense/config.json", "2_Dense/pytorch_model.bin"]
    assert needed_files(files, ["", "1_Pooling", "2_Dense/", "4_Normalize"]) == expected


@pytest.mark.parametrize(
    ("files", "needed"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ["pytorch_model.bin"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (["model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json"], None),
        (["adapter_model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json"], ["pytorch_model.bin"]),
    ],
)
def test_weights_of_one_kind(files, needed):
    assert needed_files(files, [""]) == (needed or ["model.safetensors"])
    assert needed_files([f"a/{file}" for file in files], ["a"]) == [f"a/{f}" for f in needed or ["model.safetensors"]]


def test_settings_of_the_root_where_no_module_is():
    files = ["modules.json", "config_sentence_transformers.json", "model.safetensors", "0_Transformer/config.json"]
    assert needed_files(files, ["0_Transformer"]) == [*files[:2], files[3]]


def test_module_folders(tmp_path):
    assert module_folders(tmp_path) == [""]
    (tmp_path / "modules.json").write_text('[{"path": "", "type": "Router"}, {"path": "1_Dense"}]')
    assert module_folders(tmp_path) == [".", "1_Dense"]
    (tmp_path / "router_config.json").write_text('{"types": {"query_0_Static": "a", "document_0_Router": "b"}}')
    (tmp_path / "document_0_Router").mkdir()
    (tmp_path / "document_0_Router/router_config.json").write_text('{"types": {"x_0_Transformer": "a", ".": "b"}}')
    inner = "document_0_Router/x_0_Transformer"
    assert module_folders(tmp_path) == [".", "1_Dense", "query_0_Static", "document_0_Router", inner]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"path": "../x"}]', "names the path '../x', which leaves the model folder"),
        ('[{"path": "/etc"}]', "names the path '/etc', which leaves"),
        ('[{"name": "0"}]', "modules.json is not as a saved model has it"),
        ('[{"path": 1}]', "modules.json is not as a saved model has it"),
        ("3", "modules.json is not as a saved model has it"),
        ("[{", "modules.json is not JSON"),
    ],
)
def test_module_folders_that_cannot_be(tmp_path, text, words):
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        module_folders(tmp_path)
    (tmp_path / "modules.json").write_text('[{"path": ""}]')
    (tmp_path / "router_config.json").write_text('{"types": {"../x": "Transformer"}}')
    with pytest.raises(ValueError, match=r"router_config\.json names the path './../x'"):
        module_folders(tmp_path)


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
    assert "there is no folder " in (message := refusal(name)) and "owner/name" in message
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
    assert "no model sentence-transformers/other" in refusal("other")


def only_config():
    hf_hub_download(NAME, "config.json")


def all_but_modules():
    """As a library does that reads the encoder alone: this looks like a plain checkpoint."""
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        hf_hub_download(NAME, file)


def all_but_pooling():
    snapshot_download(NAME, ignore_patterns=["1_Pooling/*"])


def interrupted():
    weights = (find_model(NAME) / "model.safetensors").resolve()
    weights.rename(f"{weights}.incomplete")


def shortened(file="model.safetensors"):
    file = (find_model(NAME) / file).resolve()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def shortened_modules():
    shortened("modules.json")


@pytest.mark.parametrize(
    "prepare", [only_config, all_but_modules, all_but_pooling, interrupted, shortened, shortened_modules]
)
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


def test_a_cache_without_a_list_of_files_is_believed_after_asking(full, files, monkeypatch):
    """As sentence-transformers leaves it, file by file: nothing is fetched again."""
    for file in files:
        hf_hub_download(NAME, file)
    folder = Path(hf_hub_download(NAME, "config.json")).parent
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"or give {folder} if you know that it is whole" in refusal(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    full.requests.clear()
    assert content(find_model(NAME)) == files
    assert full.requests and full.downloads() == []


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


def test_a_plain_checkpoint(hub, files):
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    hub.add(NAME, {name: files[name] for name in names} | dict.fromkeys(OTHER, b"other"))
    assert sorted(content(find_model(NAME))) == sorted(names)


def test_shards_and_old_weights(hub, files):
    shards = {f"model-0000{i}-of-00002.safetensors": b"x" * i for i in (1, 2)}
    shards["model.safetensors.index.json"] = b"{}"
    old = {"pytorch_model.bin": b"weights"}
    rest = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
    hub.add(NAME, rest | shards | old, "shards")
    hub.add(NAME, rest | old | {"2_Dense/pytorch_model.bin": b"dense"}, "old")
    assert content(find_model(NAME, revision="shards")) == rest | shards
    assert content(find_model(NAME, revision="old")) == rest | old | {"2_Dense/pytorch_model.bin": b"dense"}


def test_a_router(hub):
    files = {"modules.json": b'[{"path": ""}]', "router_config.json": b'{"types": {"query_0_A": "", "doc_0_B": ""}}'}
    files |= {"query_0_A/config.json": b"{}", "query_0_A/model.safetensors": b"q", "doc_0_B/config.json": b"{}"}
    hub.add(NAME, files | {"doc_0_B/readme.txt": b"", "other/config.json": b"{}"})
    assert content(find_model(NAME)) == files


def test_paths_that_leave_the_folder_are_not_fetched(hub, files):
    hub.add(NAME, files | {"modules.json": b'[{"path": ""}, {"path": "../other"}]'})
    assert "names the path '../other', which leaves the model folder" in refusal(NAME)
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
    assert f"there is no folder {NAME}, {tmp_path}/cache has not all of {NAME}, and HF_HUB_OFFLINE is set" in message
    assert full.requests == []


@pytest.mark.parametrize("prepare", [lambda: None, only_config, all_but_pooling])
def test_no_connection(full, prepare):
    prepare()
    full.close()
    message = refusal(NAME)
    assert "there is no folder someone/tiny, and someone/tiny could not be fetched" in message
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


def test_sizes_that_do_not_agree(full):
    full.claimed["model.safetensors"] = 1
    assert "model.safetensors of someone/tiny did not arrive with the size that the hub says" in refusal(NAME)
    assert "did not arrive" in refusal(NAME)  # what lies in the cache now is not taken for the model


def test_errors_of_the_disk_pass(full, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(OSError) as caught:
        find_model(NAME)
    assert caught.value.errno is not None


def test_an_old_library(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.ModuleType("huggingface_hub"))
    assert "huggingface_hub 1.31 is needed: pip install" in refusal(NAME)


# ---------------------------------------------------------------- pushing


def test_push_and_find(hub, files, tmp_path):
    write(tmp_path / "m", files | {"README.md": b"# tiny"})
    assert push_folder(tmp_path / "m", NAME, token="secret") == f"{hub.url}/{NAME}"
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
        push_folder(tmp_path / "m", NAME, token="secret", revision="v2", message="Second", private=True)
    assert hub.pushes[0] == ("commit", NAME, "v2", "Second", {"config.json": b"new"})
    assert hub.commits[hub.branches[NAME]["v2"]] == {"config.json": b"new", "README.md": b"kept"}
    assert hub.commits[hub.branches[NAME]["main"]]["config.json"] == b"old"


def test_push_makes_private_repositories_under_ones_own_name(hub, tmp_path):
    write(tmp_path / "m", {"a/config.json": b"new"})
    assert push_folder(tmp_path / "m", "tiny", token="secret", private=True) == f"{hub.url}/somebody/tiny"
    assert hub.pushes[0] == ("create", "somebody/tiny", "private")
    assert hub.pushes[1][-1] == {"a/config.json": b"new"}


def test_push_that_cannot_be(hub, tmp_path):
    (tmp_path / "m").mkdir()
    for folder in (tmp_path / "m", tmp_path / "none"):
        with pytest.raises(ValueError, match="is no folder with files in it"):
            push_folder(folder, NAME)
    write(tmp_path / "m", {"config.json": b"new"})
    with pytest.raises(ValueError, match=r"m could not be pushed to someone/tiny \(the hub answered 401, Invalid user"):
        push_folder(tmp_path / "m", NAME)
    hub.close()
    with pytest.raises(ValueError, match=r"could not be pushed to someone/tiny \(ConnectError"):
        push_folder(tmp_path / "m", NAME, token="secret")


# ---------------------------------------------------------------- the person and the machine


def test_bars_are_for_terminals(full, capfd, monkeypatch):
    find_model(NAME)
    assert capfd.readouterr() == ("", "")
    assert not are_progress_bars_disabled()
    shutil.rmtree(constants.HF_HUB_CACHE)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    find_model(NAME)
    assert "100%" in capfd.readouterr().err


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
