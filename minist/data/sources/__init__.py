"""Text collections that train.py can make by itself, by the name that `source` has in a config."""

from pathlib import Path

from minist.checks import pick
from minist.data.sources import python_docs

SOURCES = {"python_docs": python_docs.prepare}


def prepare_source(name: str) -> None:
    """Make the files data/<name>/ unless they are there. ValueError lists the sources."""
    folder, prepare = Path("data") / name, pick("config: source", name, SOURCES)
    if not folder.exists():
        print(f"making the text collection {folder}", flush=True)
        prepare(folder)
