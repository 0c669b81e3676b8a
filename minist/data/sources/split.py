"""Rows for training and rows held out: which are which depends on their texts alone."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from minist.data.texts import words

Row = dict[str, Any]
HELD_OUT, MOST = 1000, 100_000  # rows of heldout.jsonl, and of train.jsonl


def hash_of(text: str) -> int:
    """A number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def in_hash_order(rows: Iterable[Row], text_of: Callable[[Row], str] = json.dumps) -> list[Row]:
    return sorted(rows, key=lambda row: hash_of(text_of(row)))


def texts_of(row: Row) -> set[str]:
    """As a reader takes them: two that differ in capitals or punctuation are one."""
    texts = (value for column, value in row.items() if column not in ("label", "score"))
    return {" ".join(words(text)) or text for text in texts}  # a symbol has no words


def without_repeats(rows: Iterable[Row]) -> list[Row]:
    """The rows none of whose texts came before: a second right answer would count as a wrong one."""
    kept, seen = [], set[str]()
    for row in rows:
        if not seen & texts_of(row):
            seen |= texts_of(row)
            kept.append(row)
    return kept


def hold_out(rows: Iterable[Row], text_of: Callable[[Row], str] = json.dumps) -> tuple[list[Row], list[Row]]:
    """(for training, held out): without repeats the first in hash order are held out, a third at most."""
    ordered = in_hash_order(without_repeats(rows), text_of)
    size = min(HELD_OUT, len(ordered) // 3)
    return ordered[size:], ordered[:size]


def write_split(folder: Path, train: list[Row], held_out: list[Row]) -> None:
    """The first of each; and no text that is held out is trained on."""
    held = held_out[:HELD_OUT]
    texts = set[str]().union(*map(texts_of, held))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", [row for row in train if not texts & texts_of(row)][:MOST]), ("heldout", held)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
