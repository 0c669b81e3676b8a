"""Models by their name on the Hugging Face hub: find one, push one. The only file that imports huggingface_hub.

It arrives with tokenizers and knows the cache, tokens, mirrors and offline mode (HF_HOME, HF_HUB_CACHE, HF_TOKEN,
HF_ENDPOINT, HF_HUB_OFFLINE). What it cannot know is said here: which files a model needs, and so when all of it is in
the cache. The imports stand inside the functions: they take 0.2 seconds, for which a local folder need not wait.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from json import JSONDecodeError
from pathlib import Path, PurePosixPath

from minist.files import read_json
from minist.models.folder import router_file
from minist.models.reading import reading
from minist.models.weight_files import INDEX

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
REQUIRED: dict[str, tuple[str, ...]] = {  # what a module of a class is not read without; see also missing_files
    **dict.fromkeys(("Transformer", "MLMTransformer"), ("config.json", "tokenizer.json", "weights")),
    **dict.fromkeys(("StaticEmbedding", "SparseStaticEmbedding"), ("tokenizer.json", "weights")),
    **dict.fromkeys(("Pooling", "SpladePooling", "Dropout"), ("config.json",)),
    "Router": ("router_config.json",),
    "Asym": ("config.json",),
    "Normalize": (),
}


def find_model(name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a model: a local one, else the one in the Hugging Face cache, else fetched from the hub.

    A name is "owner/name"; one without a slash is looked for under sentence-transformers/. `revision` is a branch, tag
    or commit (None: main); `token` opens private and gated models (None: the one you are logged in with). What is all
    in the cache, whoever put it there, stays as it is: the hub is not asked, not even whether the branch has moved on.
    ValueError says why there is no model; errors of the disk are OSErrors.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name and path.exists():
        return _local_folder(path, revision)
    if isinstance(name_or_path, Path) or not NAME.fullmatch(name):
        raise ValueError(f"there is no folder {name!r}: give one, or a name on the hub, which looks like owner/name")
    repo = name if "/" in name else f"sentence-transformers/{name}"
    folder = _cached_folder(repo, revision)
    if folder is None or missing_files(folder):
        with _explained(name, repo, revision):
            folder = _download(repo, revision, token)
    return folder


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


def missing_files(folder: Path) -> list[str]:
    """What a snapshot folder of the Hugging Face cache lacks for its model to be read; nothing: it can be used.

    A file has its name there only when it is complete. Without modules.json it must be known that the commit has none:
    what another library fetched of a model may look like a plain checkpoint, and lack the pooling.
    """
    none = folder.parents[1] / ".no_exist" / folder.name / "modules.json"  # where huggingface_hub notes that
    needed = [] if none.exists() else ["modules.json"]
    for path, kind in module_folders(folder):
        for name in REQUIRED.get(kind, ("config.json", "weights")):
            names = _weights(folder / path) if name == "weights" else [name]
            needed += [str(PurePosixPath(path, name)) for name in names]
    return [file for file in needed if not (folder / file).exists()]


def _weights(folder: Path) -> list[str]:
    """The files of the kind of weights that would be read; model.safetensors where there are none."""
    kinds = ("model.safetensors", INDEX, "pytorch_model.bin")
    kind = next((name for name in kinds if (folder / name).exists()), kinds[0])
    if kind != INDEX:
        return [kind]
    with reading(folder / INDEX):
        return sorted({str(shard) for shard in read_json(folder / INDEX)["weight_map"].values()})


def module_folders(folder: Path) -> list[tuple[str, str]]:
    """The folder and the class of each module in modules.json and of each route; without it an encoder in the root.

    ValueError for a path that leaves the model folder, and for a file of another shape.
    """
    file = folder / "modules.json"
    if not file.exists():
        return [("", "Transformer")]
    with reading(file):
        modules = [_module(file, entry["path"], entry["type"]) for entry in read_json(file)]
    for path, kind in modules:  # it grows: a route may lead to a Router again
        file = router_file(folder / path) if kind == "Asym" else folder / path / "router_config.json"
        with reading(file):
            types = read_json(file)["types"] if file.exists() else {}
            routes = [_module(file, f"{path}/{name}", kind) for name, kind in types.items()]
        modules += [route for route in routes if route not in modules]
    return modules


def _module(file: Path, relative: str, kind: str) -> tuple[str, str]:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file} names the path {relative!r}, which leaves the model folder")
    return str(path), str(kind).split(".")[-1]


# ---------------------------------------------------------------- cache and hub


def _cached_folder(repo: str, revision: str | None) -> Path | None:
    """Where the cache has files of a revision, be it all of them or one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None


def _download(repo: str, revision: str | None, token: str | None) -> Path:
    """Bring what is missing into the cache, in an order in which half of it is never taken for all.

    Weights come last. Those may be there already, from another library: so modules.json, which can then be the last
    that missing_files waits for, comes after the small files beside it that a model can be read without.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    # asked first: hf_hub_download answers many an error with whatever the cache has
    info = HfApi(token=token).model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    files = [file.rfilename for file in info.siblings or []]
    root = next((file for file in ("modules.json", "config.json") if file in files), None)
    if root is None:
        raise ValueError(f"{repo} on the hub is no model: it has neither modules.json nor config.json")
    fetch = partial(hf_hub_download, repo, revision=info.sha, token=token)
    routers = [file for file in files if file.endswith(("router_config.json", "_Asym/config.json"))]
    for file in [*routers, *needed_files(files, [""])]:
        if file.endswith(".json") and file != root:
            fetch(file)
    folder = Path(fetch(root)).parent
    needed = needed_files(files, [path for path, _ in module_folders(folder)])
    for file in sorted(needed, key=lambda file: not file.endswith(".json")):
        fetch(file)
    with suppress(EntryNotFoundError):  # the cache notes which commit the revision is, and whether modules.json exists
        hf_hub_download(repo, "modules.json", revision=revision, token=token)
    return folder


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


@contextmanager
def _bars() -> Iterator[None]:
    """Bars of uploads, as those of downloads, only where a person watches a terminal; HF_HUB_* variables go first."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    free = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    if hide := free and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


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
    """What a person can do. Of what looks like a plain checkpoint only a person knows that the hub has no more."""
    folder = _cached_folder(repo, revision)
    plain = folder is not None and missing_files(folder) == ["modules.json"]
    known = f", or give {folder} if you know that it is whole" if plain else ""
    return f"download it where there is a network, and give the folder{known}"


def _failures() -> tuple[type[Exception], ...]:
    """What the hub's library raises: its transport's errors, OSErrors, and those of its compiled downloader."""
    from huggingface_hub.errors import HTTPError  # of whichever package it sends its requests with

    return HTTPError, OSError, RuntimeError, JSONDecodeError


def _reason(error: Exception) -> str:
    """One line that says why. An error of the disk, which has a number, is raised as it is."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        said = error.server_message or str(error)
        return f"the hub answered {error.response.status_code}, {' '.join(said.split())}"
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
