"""Models by their name on the Hugging Face hub: find one, push one. The only file that imports huggingface_hub.

It arrives with tokenizers and knows the cache, tokens, mirrors and offline mode (HF_HOME, HF_HUB_CACHE, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE). What it cannot know is said here: which files a model needs, and so when all of it is in
the cache. The imports stand inside the functions: they take 0.2 seconds, for which a local folder need not wait."""

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from minist.models.adapter import CONFIG, WEIGHTS
from minist.models.adapter import KINDS as ADAPTERS
from minist.models.folder import (
    Content,
    has_head,
    listed_modules,
    load_folder,
    routed_modules,
    router_file,
    with_adapter,
)
from minist.models.reading import KINDS, read_optional, reading
from minist.module import Module
from minist.modules import MODULES
from minist.modules.router import Router

PART = r"\w([\w.-]*\w)?"
NAME = re.compile(rf"(?!.*(--|\.\.|\.git$))({PART}/)?{PART}", re.ASCII)
ROUTERS = ("router_config.json", "_Asym/config.json")  # ends of the files that name routes
# names of JSON files, but for those that no model is read from: all of a vocabulary is in tokenizer.json
UNREAD = r"(vocab|added_tokens|generation_config|data_config|trainer_state|.+_results|.+\.index)\.json"
SETTINGS = re.compile(rf"(?!{UNREAD}$)[^/]+\.json")


def find_model(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: a local one, else the one in the Hugging Face cache, else fetched from the hub.

    A name is "owner/name"; one without a slash is looked for under sentence-transformers/, then among those older than
    owners, such as "bert-base-uncased". `revision` is a branch, tag or commit (None: main); `token` opens private and
    gated models (None: the one you are logged in with). What is all in the cache is used as it is: the hub is not even
    asked whether the branch has moved on. ValueError says why there is no model; errors of the disk are OSErrors."""
    name, path = str(name_or_path), Path(name_or_path)
    if name and path.exists():
        if revision is None and path.is_dir():
            return path
        what = f"is a folder here, which has no revision {revision!r}" if path.is_dir() else "is not a folder"
        raise ValueError(f"{path} {what}: give the path of a saved model alone")
    if name_or_path != name or not NAME.fullmatch(name):  # a Path is meant as one, and equals no text
        raise ValueError(f"there is no folder {name!r}: give one, or a name on the hub, which looks like owner/name")
    repos = _repos(name)
    cached = filter(None, (_cached_folder(repo, revision) for repo in repos))
    return next((folder for folder in cached if not missing_files(folder)), None) or _fetch(repos, revision, token)


def _repos(name: str) -> list[str]:
    return [name] if "/" in name else [f"sentence-transformers/{name}", name]


def open_content(name: str | Path, revision: str | None, token: str | None, adapter: str | Path | None) -> Content:
    """What is in a model's folder, with the adapter in another one, if given."""
    content = load_folder(find_model(name, revision, token))
    return content if adapter is None else with_adapter(content, find_model(adapter, token=token))


def name_of(folder: Path) -> tuple[str, str | None]:
    """What find_model finds a folder by: its name and commit on the hub, if it is in the cache; else its own path."""
    owner, commits = folder.parent.parent.name, folder.parent.name
    if commits == "snapshots" and owner.startswith("models--"):
        return owner.removeprefix("models--").replace("--", "/"), folder.name
    return str(folder.resolve()), None  # from wherever it is opened


def needed_files(folder: Path, files: Collection[str]) -> list[str]:
    """What a model is read from: the settings among `files`, which are all that there are, and what its modules are
    not read without, there or not. What names modules or shards is read in `folder`, once it is there."""
    needed = [file for file in files if file in ("modules.json", "config_sentence_transformers.json")]  # of the root
    for kind, place in module_folders(folder):
        path = PurePosixPath(place.relative_to(folder).as_posix())
        names = [PurePosixPath(file).name for file in files if PurePosixPath(file).parent == path]
        required = _required(MODULES[kind], place, names)
        needed += [str(path / name) for name in [*filter(SETTINGS.fullmatch, names), *required]]
    return list(dict.fromkeys(needed))


def _required(module: type[Module], folder: Path, names: Sequence[str]) -> list[str]:
    """The files without which a module of this class is not read from a folder with `names`."""
    if module is Router:
        return [router_file(folder).name]
    if CONFIG in names and "config.json" not in names:  # all else is in the model that it was made for
        return [next((kind for kind in ADAPTERS if kind in names), WEIGHTS)]
    required = ["config.json"] if module.has_config else []
    if "texts" in module.takes:
        required += ["vocab.txt" if "vocab.txt" in names and "tokenizer.json" not in names else "tokenizer.json"]
    for whole in KINDS if module.has_weights else ():  # the first that a folder has is read
        if whole in names:
            return [*required, whole]
        if (index := f"{whole}.index.json") in names:
            content = read_optional(folder / index) or {"weight_map": {}}
            with reading(folder / index):
                return [*required, index, *sorted({str(shard) for shard in content["weight_map"].values()})]
    return required + ["model.safetensors"] * module.has_weights


def module_folders(folder: Path) -> list[tuple[str, Path]]:
    """Class and folder of each module in modules.json and of each route; without it an encoder in the root."""
    modules = listed_modules(folder)
    for kind, path in modules:  # it grows by the modules of routes
        routed = routed_modules(router_file(path)) if MODULES[kind] is Router else {}
        modules += [module for module in routed.values() if module not in modules]
    return modules


def missing_files(folder: Path) -> list[str]:
    """What a snapshot folder of the Hugging Face cache lacks for its model to be read; nothing: it can be used."""
    # what another library fetched may look like a plain checkpoint, and lack the pooling: so it must be known that the
    # commit has no modules.json, which huggingface_hub notes here
    none = folder.parents[1] / ".no_exist" / folder.name / "modules.json"
    # a file is there only when complete: until then, its link leads nowhere
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.exists()]
    is_plain = "modules.json" in files or none.exists() or has_head(folder)  # a classifier has no pooling to lack
    needed = [*([] if is_plain else ["modules.json"]), *needed_files(folder, files)]
    return [file for file in needed if file not in files]


def _cached_folder(repo: str, revision: str | None) -> Path | None:
    """Where the cache has files of a revision, be it all of them or one."""
    from huggingface_hub import errors, snapshot_download

    with suppress(errors.LocalEntryNotFoundError):
        return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[]))
    return None


def _fetch(repos: Sequence[str], revision: str | None, token: str | None) -> Path:
    """The model of the first of `repos` that there is. ValueError says why the hub does not give it."""
    from huggingface_hub import constants, errors

    (repo, *others), nothing = repos, f"there is no folder {repos[-1]}, "
    try:
        return _download(repo, revision, token)
    except errors.GatedRepoError:  # a RepositoryNotFoundError too, so it comes first
        why = f"{repo} is gated: ask for access at {constants.ENDPOINT}/{repo}, and give the token of that account"
    except errors.RepositoryNotFoundError:
        if others:
            return _fetch(others, revision, token)
        tried = repo if "/" in repo else f"sentence-transformers/{repo} or {repo}"
        why = f"{nothing}and no model {tried} on the hub that this token may see: check the name, or give a token"
    except errors.RevisionNotFoundError:
        why = f"{repo} has no revision {revision!r}: give one of its branches, tags or commits"
    except Exception as e:
        what = f"{constants.HF_HUB_CACHE} has not all of {repo}, which could not be fetched from the hub"
        why = f"{nothing}{what} ({_reason(e)}): download it where there is a network, and give the folder"
        folder = _cached_folder(repo, revision)  # only a person knows whether it is a plain checkpoint
        if folder is not None and missing_files(folder) == ["modules.json"]:
            why += f", or give {folder} if you know that it is whole"
    raise ValueError(why)


def _download(repo: str, revision: str | None, token: str | None) -> Path:
    """Bring what is missing into the cache, in an order in which half of it is never taken for all: weights come last.
    Those of another library may be there already: so modules.json, for which missing_files waits too, comes after the
    small files that a model can be read without."""
    from huggingface_hub import HfApi, constants, errors, hf_hub_download

    # asked first: hf_hub_download answers many an error with whatever the cache has
    info = HfApi(token=token).model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    files = [file.rfilename for file in info.siblings or []]
    root = next((file for file in ("modules.json", "config.json", CONFIG) if file in files), None)
    if root is None:
        raise ValueError(f"{repo} on the hub is no model: it has neither modules.json nor config.json")
    fetch = partial(hf_hub_download, repo, revision=info.sha, token=token)  # one commit, though the branch may move
    settings = [file for file in files if file.endswith(ROUTERS) or SETTINGS.fullmatch(file)]
    *_, last = map(fetch, sorted(settings, key=lambda file: file == root))
    folder = Path(last).parent
    while absent := [f for f in needed_files(folder, files) if f in files and not (folder / f).exists()]:
        fetch(min(absent, key=lambda file: not file.endswith(".json")))
    with suppress(errors.EntryNotFoundError):  # the cache notes the commit of the revision, and if there is this file
        hf_hub_download(repo, "modules.json", revision=revision, token=token)
    return folder


def push(
    save: Callable[[Path, str], None], repo: str, *, private: bool, token: str | None, revision: str | None
) -> str:
    """Upload what `save` writes into a folder for a repository of that name, in one commit; returns its address. It and
    the branch `revision` (None: main) are created where there is none; one that exists stays as private as it is, and
    keeps other files. Its README.md lies in the folder before: a person's card stays, see model_card.py."""
    from huggingface_hub import HfApi, constants, errors, hf_hub_download, utils

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty():
        utils.disable_progress_bars()  # they are for people at a terminal; those of downloads know that themselves
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        name = url.repo_id  # with its owner
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        with TemporaryDirectory() as folder:
            with suppress(errors.EntryNotFoundError):
                hf_hub_download(name, "README.md", revision=revision, token=token, local_dir=folder)
            save(Path(folder), name)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Add a model", revision=revision)
    except Exception as e:
        advice = "check the name, and that the token may write there"
        raise ValueError(f"the model could not be pushed to {repo} ({_reason(e)}): {advice}") from None
    return str(url)


def hub_name(source: str | Path, revision: str | None = None) -> str:
    """The whole name on the hub of a model in the cache, by its folder or what find_model takes; "" of any other."""
    path = Path(source)
    if NAME.fullmatch(str(source)) and not path.exists():
        path = next(filter(None, (_cached_folder(repo, revision) for repo in _repos(str(source)))), path)
    return next((name for name, commit in map(name_of, (path, *path.parents)) if commit), "")


def front_matter(data: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """The YAML at the head of a model card; `results` are the fields of EvalResults."""
    from huggingface_hub import EvalResult, ModelCardData

    return ModelCardData(**data, eval_results=[EvalResult(**result) for result in results] or None).to_yaml()


def _reason(error: Exception) -> str:
    """One line that says why the hub, or the way to it, failed. Other errors are raised: the disk's have a number."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # of whichever package it sends its requests with

    match error:
        case HfHubHTTPError():
            said = error.server_message or str(error)
            return f"the hub answered {error.response.status_code}, {' '.join(said.split())}"
        case HTTPError() | OSError(errno=None) | RuntimeError() | JSONDecodeError():  # Runtime..: of its downloader
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    raise error
