"""Files of Debian's (and Ubuntu's) packages, without root: what is not installed is fetched into a temporary folder."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ADVICE = "use Debian or Ubuntu with a network, or a folder with the files: python -m minist.data.sources NAME FOLDER"


@contextmanager
def package_files(packages: Sequence[str], files: Sequence[str]) -> Iterator[Path]:
    """Yields a folder below which the `files` of `packages` lie as in an installation; "/" where they are installed.
    ValueError where they cannot be fetched."""
    if all((Path("/") / file).exists() for file in files):
        yield Path("/")
        return
    with package_lists() as folder:
        apt_get(folder, "download", *packages)
        for package in sorted(folder.glob("*.deb")):
            run(folder, "dpkg-deb", "-x", package.name, "unpacked")
        yield folder / "unpacked"


@contextmanager
def package_lists() -> Iterator[Path]:
    """Yields a temporary folder with the lists of packages, fresh, and their descriptions (*_Translation-en)."""
    with tempfile.TemporaryDirectory(prefix="minist_") as name:
        print("fetching Debian's lists of packages", flush=True)
        apt_get(Path(name), "update")
        yield Path(name)


def apt_get(folder: Path, *arguments: str) -> None:
    """apt-get, with all that it reads and writes in `folder`, but which mirrors there are."""
    own = {"Dir::State::Lists": folder, "Dir::Cache": folder, "APT::Sandbox::User": "root"}  # no change of user
    plain = {"Acquire::Languages": "en", "Acquire::GzipIndexes": "false", "Acquire::Retries": "0"}
    run(folder, "apt-get", *(f"-o{key}={value}" for key, value in (own | plain).items()), *arguments)


def run(folder: Path, *command: str) -> None:
    """Run a program in `folder`; ValueError holds the last line of what it says when it fails."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError(f"{command[0]} is not installed: {ADVICE}") from None
    except subprocess.CalledProcessError as e:
        reason = (e.stderr.strip().splitlines() or ["no reason"])[-1]
        raise ValueError(f"{command[0]} fails, {reason}: {ADVICE}") from None
