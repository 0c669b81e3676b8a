"""Rows for training and rows held out: which are which depends on their texts alone."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minist.data.texts import words

Row = dict[str, Any]
HELD_OUT, MOST = 1000, 100_000  # rows of heldout.jsonl, and of train.jsonl


def hash_of(text: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def texts_of(row: Row) -> set[str]:
    """As a reader takes them: two that differ in capitals or punctuation are one."""
    texts = (value for column, value in row.items() if column not in ("label", "score"))
    return {" ".join(words(text)) or text for text in texts}  # a symbol has no words


def without_repeats(rows: Iterable[Row]) -> list[Row]:
    """The rows none of whose texts came before: a second right answer would count as a wrong one."""
    kept, seen = [], set[str]()
    for row in rows:
        texts = texts_of(row)
        if not texts & seen:
            seen |= texts
            kept.append(row)
    return kept


def in_hash_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: hash_of(json.dumps(row)))


def write_split(folder: Path, rows: Iterable[Row]) -> None:
    """The first in hash order are held out."""
    ordered = in_hash_order(rows)
    write_halves(folder, ordered[HELD_OUT:], ordered[:HELD_OUT])


def write_halves(folder: Path, train: Iterable[Row], held_out: Iterable[Row]) -> None:
    """At most so many of each; and no text that is held out is trained on."""
    held = in_hash_order(held_out)[:HELD_OUT]
    texts = set[str]().union(*map(texts_of, held))
    write_rows(folder / "heldout.jsonl", held)
    write_rows(folder / "train.jsonl", [row for row in in_hash_order(train) if not texts & texts_of(row)][:MOST])


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
