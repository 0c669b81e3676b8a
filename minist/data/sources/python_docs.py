"""A text collection that train.py can make by itself, from the documentation in every Python installation.

The docstrings of the standard library, torch and numpy are read with `ast`: nothing is imported and nothing is
downloaded. Each gives a pair, the summary line (what a person might search for) and the body (what they hope to find):
    {"summary": "Return a list of the words in the string.", "body": "sep The separator used to ..."}
Eight thousand pairs are few, so for training each body gives further ones by the Inverse Cloze Task (Lee et al. 2019,
arXiv:1906.00300): a span of it is the query, the rest is what to find."""

import ast
import hashlib
import importlib.util
import random
import sysconfig
from contextlib import suppress
from pathlib import Path

from minist.data.sources.split import write_rows
from minist.data.texts import words
from minist.progress import progress_bar

HELD_OUT = 1000  # pairs that training never sees
SKIPPED = {"test", "tests", "testing", "idle_test", "site-packages", "__pycache__", "_vendor", "_internal"}
MIN_SUMMARY_WORDS, MIN_BODY_WORDS = 3, 8
MAX_BODY_WORDS = 300  # more than a small model reads
CLOZES = 12  # further training pairs from each body
MIN_SPAN, MAX_SPAN = 5, 12  # words of a span: as long as summaries are
WINDOW = 30  # words of the rest that are kept: short texts train faster
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def make(folder: Path, given: Path | None) -> None:
    """Write train.jsonl and heldout.jsonl into `folder`, of the files below `given`, else of the libraries here."""
    pairs = collect_pairs([given] if given else library_folders())
    held_out, train = pairs[:HELD_OUT], pairs[HELD_OUT:]  # before clozes: no part of a held-out body is trained on
    train += [cloze for summary, body in train for cloze in cloze_pairs(summary, body)]
    for name, rows in (("heldout", held_out), ("train", train)):
        write_rows(folder / f"{name}.jsonl", [{"summary": summary, "body": body} for summary, body in rows])


def library_folders() -> list[Path]:
    """Where the standard library, torch and numpy are installed; find_spec does not run them."""
    specs = [importlib.util.find_spec(name) for name in ("torch", "numpy")]
    return [Path(sysconfig.get_path("stdlib")), *(Path(spec.origin).parent for spec in specs if spec and spec.origin)]


def collect_pairs(folders: list[Path]) -> list[tuple[str, str]]:
    """All (summary, body) pairs below `folders`; no summary, and no body, comes twice. In hash order."""
    below = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.py"))]
    files = [file for folder, file in below if not SKIPPED & set(file.relative_to(folder).parts)]
    pairs, seen = dict[str, tuple[str, str]](), set[str]()  # by hash; all texts so far
    with progress_bar(len(files), "files", "reading docstrings") as bar:
        for file in files:
            tree = ast.Module([], [])
            with suppress(SyntaxError, ValueError, RecursionError):  # a file that is not Python has no docstrings
                tree = ast.parse(file.read_bytes())
            nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
            for summary, body in filter(None, (split_docstring(ast.get_docstring(node) or "") for node in nodes)):
                keys = {" ".join(words(summary)), " ".join(words(body))}
                if not keys & seen:  # else a pair would be wrong as another's negative
                    seen |= keys
                    pairs[hashlib.sha256(f"{summary}\n{body}".encode()).hexdigest()] = (summary, body)
            bar.update(1)
    return [pairs[key] for key in sorted(pairs)]


def split_docstring(text: str) -> tuple[str, str] | None:
    """First paragraph and the rest; None where either says too little, or the rest repeats the first."""
    summary, _, body = text.partition("\n\n")
    summary, body = " ".join(summary.split()), " ".join(body.split()[:MAX_BODY_WORDS])
    is_short = len(words(summary)) < MIN_SUMMARY_WORDS or len(words(body)) < MIN_BODY_WORDS
    return None if is_short or len(summary) > 200 or contains(body, summary) else (summary, body)


def cloze_pairs(summary: str, body: str) -> list[tuple[str, str]]:
    """Random spans of `body`, each with a window of what is left, every other one under its summary."""
    text, draw = body.split(), random.Random(body)  # the same spans on every machine
    pairs = []
    for i in range(CLOZES if len(text) >= MIN_BODY_WORDS + MAX_SPAN else 0):
        size = draw.randint(MIN_SPAN, MAX_SPAN)
        start = draw.randrange(len(text) - size)
        rest = text[:start] + text[start + size :]
        first = draw.randrange(max(1, len(rest) - WINDOW))
        kept = " ".join(rest[first : first + WINDOW])
        query, found = " ".join(text[start : start + size]), kept if i % 2 else f"{summary} {kept}"
        if not contains(found, query):  # a search for its own words teaches nothing
            pairs.append((query, found))
    return pairs


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text`, in a row."""
    return f" {' '.join(words(part))} " in f" {' '.join(words(text))} "
