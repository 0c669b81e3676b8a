"""Text collections made at home, each by one file of this folder. `source = "wordnet/similarity"` in [[data]] reads
data/wordnet/similarity/train.jsonl, has heldout.jsonl beside it for [[eval]], and makes all of data/wordnet where it is
missing. The same package, or the same installation, gives the same rows."""

from pathlib import Path

from minist.checks import pick
from minist.data.sources import freedict, packages, python_docs, wordnet
from minist.files import complete_folder

# make(folder, given) writes into `folder`; `given` is a folder with the files, None: they are found or fetched
SOURCES = {
    "python_docs": python_docs.make,
    "packages": packages.make,
    "wordnet": wordnet.make,
    "freedict": freedict.make,
}
PARTS = {"wordnet": tuple(wordnet.PARTS), "freedict": freedict.LANGUAGES}  # the others are one set


def prepare_source(name: str) -> None:
    """Make data/<name>/train.jsonl, and what belongs to it. ValueError lists the names."""
    parts = {f"{source}/{part}": source for source, parts in PARTS.items() for part in parts}
    source = pick("config: source", name, {source: source for source in SOURCES if source not in PARTS} | parts)
    make_source(source)
    if not (Path("data") / name / "train.jsonl").exists():
        raise ValueError(f"data/{source} is there, without {name}/train.jsonl: remove data/{source}, it is made anew")


def make_source(source: str, given: Path | None = None) -> None:
    """Make all of data/<source>, unless it is there."""
    folder, make = Path("data") / source, pick("source", source, SOURCES)
    if folder.exists() and any(folder.iterdir()):
        return print(f"the text collection {folder} is there already", flush=True)
    print(f"making the text collection {folder}", flush=True)
    with complete_folder(folder) as partial:
        make(partial, given)
