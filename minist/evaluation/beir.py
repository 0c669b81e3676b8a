"""Collections on disk as BEIR lays them out (Thakur et al. 2021, arXiv:2104.08663); ids say what belongs together.

queries.jsonl   _id, text
corpus.jsonl    _id, text, and often title, which is put before the text
qrels/*.tsv     query-id, corpus-id, score: how relevant the document is, 0 and less is not; without a score it is
bm25.jsonl      query-id, corpus-ids: the candidates of a first stage, best first (NanoBEIR; need not be there)"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minist.checks import listing, pick
from minist.data.rows import Place, check_number, check_text, read_rows

Relevant = dict[str, dict[str, float]]  # query id -> document id -> how relevant it is


def read_collection(queries: Path, corpus: Path, qrels: Path) -> dict[str, Any]:
    """queries and corpus by id, relevant_docs. A document that is judged and not in the corpus counts as not found;
    `note` says how many there are, and queries likewise. ValueError where no judgement goes with both files."""
    texts, documents, relevant = read_texts(queries), read_texts(corpus), Relevant()
    for i, row in enumerate(read_rows(qrels, ["query-id", "corpus-id"]), 1):
        score = check_number(Place(qrels, i, {"score": 1} | row), "score")
        if score > 0:
            relevant.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = score
    judged, notes = dict.fromkeys(i for ids in relevant.values() for i in sorted(ids)), []
    for file, named, known in ((queries, relevant, texts), (corpus, judged, documents)):
        if lost := [i for i in named if i not in known]:
            notes.append(f"{qrels} names {len(lost):,} ids that {file} has not, such as {', '.join(lost[:3])}")
    if not any(ids.keys() & documents.keys() for query, ids in relevant.items() if query in texts):
        notes.insert(0, f"no query of {queries} has a relevant document in {corpus}: do the ids agree?")
        raise ValueError(" ".join(notes))
    return {"queries": texts, "corpus": documents, "relevant_docs": relevant, "note": "; ".join(notes)}


def read_texts(file: Path) -> dict[str, str]:
    """id -> title and text. ValueError for an id that stands for two texts."""
    found: dict[str, str] = {}
    for i, row in enumerate(read_rows(file, ["_id", "text"]), 1):
        place, key = Place(file, i, row), str(row["_id"])
        title = check_text(place, "title") if row.get("title") else ""  # some have null, some no such column
        text = f"{title} {check_text(place, 'text')}".strip()
        if found.setdefault(key, text) != text:
            raise ValueError(f"{file}, row {i}: the id {key!r} has another text in a row before")
    return found


def files_of(folder: Path, split: str) -> dict[str, Path]:
    """queries, corpus and qrels: {split}.tsv; "" is the only one there, or test.tsv."""
    found = {file.stem: file for file in sorted((folder / "qrels").glob("*.tsv"))}
    qrels = pick(f"split of {folder / 'qrels'}", split or (next(iter(found)) if len(found) == 1 else "test"), found)
    return {"queries": folder / "queries.jsonl", "corpus": folder / "corpus.jsonl", "qrels": qrels}


def collections_in(folder: Path, names: Iterable[str] | None, without: Iterable[str] = ()) -> dict[str, Path]:
    """Short name -> folder of those that are asked for, None: of all but some. ValueError where there is none."""
    folders = sorted(file.parent for file in folder.glob("*/corpus.jsonl"))
    known = {found.name.lower().removeprefix("nano"): found for found in folders}
    own = [name for name in known if name not in without]
    chosen = [name.lower().removeprefix("nano") for name in (own if names is None else names)]
    if not chosen:
        rule = "a data set is a folder in it with a corpus.jsonl"
        raise ValueError(f"no data set of {folder} is chosen: {rule}, and it has {listing(known)}")
    return {name: pick(f"data set in {folder}", name, known) for name in chosen}
