"""Models by their name on the Hugging Face hub: find one, push one. The only file that imports huggingface_hub.

It arrives with tokenizers and knows the cache, tokens, mirrors and offline mode (HF_HOME, HF_HUB_CACHE, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE). What it cannot know is said here: which files a model needs, and so when all of it is in
the cache. The imports stand inside the functions: they take 0.2 seconds, for which a local folder need not wait.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from minist.files import read_json

PART = r"\w([\w.-]*\w)?"
NAME = re.compile(rf"(?!.*(--|\.\.|\.git$))({PART}/)?{PART}", re.ASCII)
IN_ROOT = ("modules.json", "config_sentence_transformers.json")  # wherever the modules themselves are
# JSON that no model is read from: the vocabulary is all in tokenizer.json, the rest is for other uses
UNREAD = re.compile(
    r"(vocab|added_tokens|special_tokens_map|generation_config|data_config|trainer_state|.+_results|.+\.index)\.json"
)
WEIGHTS = (  # the first kind that a folder has
    r"model\.safetensors",
    r"model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json",
    r"pytorch_model\.bin",
)


def find_model(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: a local one, else the one in the Hugging Face cache, else fetched from the hub.

    A name is "owner/name"; one without a slash is looked for under sentence-transformers/. `revision` is a branch, tag
    or commit (None: main); `token` opens private and gated models (None: the one you are logged in with). What is all
    in the cache stays as it is: the hub is not asked, not even whether the branch has moved on. ValueError says why
    there is no model; errors of the disk are OSErrors.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name and path.exists():
        return _local_folder(path, revision)
    if isinstance(name_or_path, Path) or not NAME.fullmatch(name):
        raise ValueError(f"there is no folder {name!r}: give one, or a name on the hub, which looks like owner/name")
    repo = name if "/" in name else f"sentence-transformers/{name}"
    snapshot = _in_cache(repo, revision)
    if snapshot is None or snapshot.missing():
        with _explained(name, repo, revision), _bars():
            snapshot = _download(repo, revision, token)
    return snapshot.folder


def _local_folder(path: Path, revision: str | None) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder: give the path of a saved model")
    if revision is not None:
        raise ValueError(f"{path} is a folder here, which has no revision {revision!r}: leave the revision out")
    return path


# ---------------------------------------------------------------- which files


def needed_files(files: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Those of all `files` of a repository from which a model with modules in `folders` is read; "" is the root."""
    needed = [file for file in files if file in IN_ROOT]
    for folder in folders:
        names = [PurePosixPath(file) for file in files if PurePosixPath(file).parent == PurePosixPath(folder)]
        needed += [str(f) for f in names if f.suffix == ".json" and not UNREAD.fullmatch(f.name)]
        kinds = [[str(file) for file in names if re.fullmatch(kind, file.name)] for kind in WEIGHTS]
        needed += next(filter(None, kinds), [])
    return list(dict.fromkeys(needed))


def module_folders(folder: Path) -> list[str]:
    """The folders that modules.json names, and those of a Router's routes; without modules.json the root alone.

    ValueError for a path that leaves the model folder, and for a file of another shape.
    """
    file = folder / "modules.json"
    if not file.exists():
        return [""]
    try:
        folders = [_inside(file, entry["path"]) for entry in read_json(file)]
        for module in folders:  # it grows: a route may lead to a Router again
            file = folder / module / "router_config.json"
            routes = [_inside(file, f"{module}/{name}") for name in read_json(file)["types"]] if file.exists() else []
            folders += [route for route in routes if route not in folders]
    except (KeyError, TypeError) as e:
        raise ValueError(f"{file} is not as a saved model has it ({type(e).__name__}: {e})") from None
    return folders


def _inside(file: Path, relative: str) -> str:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file} names the path {relative!r}, which leaves the model folder")
    return str(path)


# ---------------------------------------------------------------- cache and hub


class _Snapshot(NamedTuple):
    """One commit of a repository: its folder in the cache, and the size of each file that it has on the hub."""

    folder: Path
    sizes: dict[str, int]

    def missing(self) -> list[str]:
        """What is needed and not here, or not with its size. First the lists of modules, which say what else."""
        lists = [file for file in self.sizes if PurePosixPath(file).name == "router_config.json"]
        lists.append("modules.json" if "modules.json" in self.sizes else "config.json")
        return self._lacking(lists) or self._lacking(needed_files(list(self.sizes), module_folders(self.folder)))

    def _lacking(self, files: Sequence[str]) -> list[str]:
        here = {file: (self.folder / file).stat().st_size for file in files if (self.folder / file).is_file()}
        return [file for file in files if here.get(file, -1) != self.sizes.get(file)]


def _in_cache(repo: str, revision: str | None) -> _Snapshot | None:
    """What is known of a revision without the network; None where the cache does not say which files belong to it."""
    try:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:
        raise ValueError(f"for {repo} huggingface_hub 1.31 is needed: pip install -U huggingface_hub") from None
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(repo, revision=revision)}
    except CachedRepoTreeNotFoundError:
        return None
    folder = _cached_folder(repo, revision)
    return _Snapshot(folder, sizes) if folder else None


def _cached_folder(repo: str, revision: str | None) -> Path | None:
    """Where the cache has files of a revision, be it all of them or one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None


def _download(repo: str, revision: str | None, token: str | None) -> _Snapshot:
    """Bring what is missing into the cache."""
    from huggingface_hub import HfApi, RepoFile, constants, hf_hub_download, snapshot_download

    api = HfApi(token=token)  # asked first: snapshot_download answers many an error with whatever the cache has
    commit = api.model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
    listing = api.list_repo_tree(repo, recursive=True, revision=commit)
    sizes = {file.path: file.size for file in listing if isinstance(file, RepoFile)}
    first = ["modules.json", "config.json"]
    if not any(file in sizes for file in first):
        raise ValueError(f"{repo} on the hub is no model: it has neither modules.json nor config.json")
    # this also notes in the cache which commit the revision is, and which files belong to it
    folder = Path(snapshot_download(repo, revision=revision, token=token, allow_patterns=first))
    snapshot = _Snapshot(folder, sizes)
    for _ in range(2):  # the lists of modules, then what they name
        for file in snapshot.missing():
            damaged = (folder / file).exists()
            hf_hub_download(repo, file, revision=folder.name, token=token, force_download=damaged)
    if missing := snapshot.missing():
        raise ValueError(f"{missing[0]} of {repo} did not arrive with the size that the hub says: try again")
    return snapshot


def push_folder(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Upload all files of `folder` in one commit, and return the address of the repository.

    The repository is created where there is none, `private` or for all to see; so is the branch `revision` (None:
    main). One that exists stays as private as it is, and keeps its other files. `message` is the commit's. ValueError
    for a folder without files, and when the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"{folder} is no folder with files in it: save a model there first")
    added = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    api = HfApi(token=token)
    try:
        with _bars():
            url = api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(url.repo_id, branch=revision, exist_ok=True)
            api.create_commit(url.repo_id, added, commit_message=message or "Add a model", revision=revision)
    except _failures() as e:
        advice = "check the name, and that the token may write there"
        raise ValueError(f"{folder} could not be pushed to {repo} ({_reason(e)}): {advice}") from None
    return str(url)


def _bars() -> AbstractContextManager[Any]:
    """The hub's progress bars only where a person watches a terminal, as ours; its environment variable goes first."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    hide = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty()
    return disable_progress_bars() if hide else nullcontext()


# ---------------------------------------------------------------- what may go wrong


@contextmanager
def _explained(name: str, repo: str, revision: str | None) -> Iterator[None]:
    """Every way in which the hub does not give a model, as one sentence."""
    from huggingface_hub import constants, errors

    nothing = f"there is no folder {name}"
    try:
        yield
    except errors.GatedRepoError:
        page = f"{constants.ENDPOINT}/{repo}"
        raise ValueError(f"{repo} is gated: ask for access at {page}, and give the token of that account") from None
    except errors.RepositoryNotFoundError:
        what = f"{nothing}, and no model {repo} on the hub that this token may see"
        raise ValueError(f"{what}: check the name; a private model needs a token (HF_TOKEN)") from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{repo} has no revision {revision!r}: give one of its branches, tags or commits") from None
    except errors.OfflineModeIsEnabled:
        what = f"{nothing}, {constants.HF_HUB_CACHE} has not all of {repo}, and HF_HUB_OFFLINE is set"
        raise ValueError(f"{what}: {_without_network(repo, revision)}") from None
    except _failures() as e:
        what = f"{nothing}, and {repo} could not be fetched from the hub ({_reason(e)})"
        raise ValueError(f"{what}: {_without_network(repo, revision)}") from None


def _without_network(repo: str, revision: str | None) -> str:
    """What a person can do. Another library may have cached everything without a list of it: only a person knows."""
    folder = None if _in_cache(repo, revision) else _cached_folder(repo, revision)
    known = f", or give {folder} if you know that it is whole" if folder else ""
    return f"download it where there is a network, and give the folder{known}"


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's library raises: its transport's errors, OSErrors, and those of its compiled downloader."""
    from huggingface_hub.errors import HTTPError  # of whichever package it sends its requests with

    return HTTPError, OSError, RuntimeError, JSONDecodeError


def _reason(error: Exception) -> str:
    """One line that says why. An error of the disk, which has a number, is raised as it is."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        said = error.server_message or error.response.reason_phrase
        return f"the hub answered {error.response.status_code}, {' '.join(said.split())}"
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
