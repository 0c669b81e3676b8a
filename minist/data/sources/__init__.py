"""Text collections made at home, each by one file of this folder. `source = "wordnet/similarity"` in [[data]] reads
data/wordnet/similarity/train.jsonl, has heldout.jsonl beside it for [[eval]], and makes all of data/wordnet where it is
missing. The same package, or the same installation, gives the same rows."""

from pathlib import Path

from minist.checks import pick
from minist.data.sources import freedict, packages, python_docs, wordnet
from minist.files import complete_folder

SOURCES = {"python_docs": python_docs, "packages": packages, "wordnet": wordnet, "freedict": freedict}
PARTS = {"wordnet": tuple(wordnet.PARTS), "freedict": freedict.LANGUAGES}  # the others are one set


def prepare_source(name: str) -> None:
    """Make data/<name>/train.jsonl, and what belongs to it. ValueError lists the names."""
    names = {f"{source}/{part}".rstrip("/"): source for source in SOURCES for part in PARTS.get(source, [""])}
    make_source(source := pick("config: source", name, names))
    if not (Path("data") / name / "train.jsonl").exists():  # other ranks wait for it
        raise ValueError(f"data/{source} is there, without {name}/train.jsonl: remove data/{source}, it is made anew")


def make_source(source: str, given: Path | None = None) -> None:
    """Make all of data/<source>, unless it is there: of files in the folder `given`, else of found or fetched ones."""
    folder, module = Path("data") / source, pick("source", source, SOURCES)
    if folder.exists() and any(folder.iterdir()):
        return print(f"the text collection {folder} is there already", flush=True)
    print(f"making the text collection {folder}", flush=True)
    with complete_folder(folder) as partial:
        module.make(partial, given)
        if not all(file.stat().st_size for file in partial.rglob("*.jsonl")):
            raise ValueError(f"{given or 'what was fetched'} has too few texts for {folder}: is that the right folder?")
