"""A text collection that train.py can make by itself, from the documentation in every Python installation.

The docstrings of the standard library, torch and numpy are read with `ast`: no code runs and nothing is
downloaded. Each gives a pair, the summary line (what a person might search for) and the body (what they hope to find):
    {"summary": "Return a list of the words in the string.", "body": "sep The separator used to ..."}
Eight thousand pairs are few, so for training each body gives further ones by the Inverse Cloze Task (Lee et al. 2019,
arXiv:1906.00300): a span of it is the query, the rest is what to find."""

import ast
import gc
import random
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from minist.data.sources.split import Row, hold_out, write_split
from minist.data.texts import words
from minist.progress import progress_bar

SKIPPED = {"test", "tests", "testing", "idle_test", "site-packages", "__pycache__", "_vendor", "_internal"}
MIN_SUMMARY_WORDS, MIN_BODY_WORDS, MAX_BODY_WORDS = 3, 8, 300  # 300 are more than a small model reads
CLOZES = 12  # further training pairs from each body
MIN_SPAN, MAX_SPAN = 5, 12  # words of a span: as long as summaries are
WINDOW = 30  # words of the rest that are kept: short texts train faster
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def make(folder: Path, given: Path | None) -> None:
    """Of the files below `given`, else of the libraries here."""
    libraries = [Path(sysconfig.get_path("stdlib")), Path(torch.__file__).parent, Path(np.__file__).parent]
    gc.disable()  # to look for circles, of which syntax trees have none, takes longer than to parse
    try:
        pairs = collect_pairs([given] if given else libraries)
    finally:
        gc.enable()
    train, held_out = hold_out(pairs, "{summary}\n{body}".format_map)
    train += [cloze for pair in train for cloze in cloze_pairs(**pair)]  # of no body that is held out
    write_split(folder, train, held_out)


def collect_pairs(folders: list[Path]) -> list[Row]:
    """Of all docstrings below `folders`."""
    below = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    files = [file for folder, file in below if not SKIPPED & set(file.relative_to(folder).parts)]
    pairs = list[Row | None]()
    with progress_bar(len(files), "files", "reading docstrings") as bar:
        for file in files:
            with suppress(OSError, SyntaxError, ValueError, RecursionError):  # a link to nowhere, or no Python
                nodes = documented(ast.parse(file.read_bytes()))
                pairs += [split_docstring(ast.get_docstring(node) or "") for node in nodes]
            bar.update(1)
    return [pair for pair in pairs if pair]


def documented(tree: ast.Module) -> list[Documented]:
    """What may have a docstring, level by level; it is in no expression, which most of a tree is made of."""
    level, found = list[ast.AST]([tree]), list[Documented]()
    while level:
        found += [node for node in level if isinstance(node, Documented)]
        level = [child for node in level for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
    return found


def split_docstring(text: str) -> Row | None:
    """First paragraph and the rest; None where either says too little, or the rest repeats the first."""
    summary, _, body = text.partition("\n\n")
    summary, body = " ".join(summary.split()), " ".join(body.split()[:MAX_BODY_WORDS])
    is_short = len(words(summary)) < MIN_SUMMARY_WORDS or len(words(body)) < MIN_BODY_WORDS
    return None if is_short or len(summary) > 200 or contains(body, summary) else {"summary": summary, "body": body}


def cloze_pairs(summary: str, body: str) -> Iterator[Row]:
    """Random spans of `body`, each with a window of what is left, every other one under its summary."""
    text, draw = body.split(), random.Random(body)  # the same spans on every machine
    for i in range(CLOZES if len(text) >= MIN_BODY_WORDS + MAX_SPAN else 0):
        size = draw.randint(MIN_SPAN, MAX_SPAN)
        start = draw.randrange(len(text) - size)
        rest = text[:start] + text[start + size :]
        first = draw.randrange(max(1, len(rest) - WINDOW))
        kept = " ".join(rest[first : first + WINDOW])
        query, found = " ".join(text[start : start + size]), kept if i % 2 else f"{summary} {kept}"
        if not contains(found, query):  # a search for its own words teaches nothing
            yield {"summary": query, "body": found}


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text`, in a row."""
    return f" {' '.join(words(part))} " in f" {' '.join(words(text))} "
