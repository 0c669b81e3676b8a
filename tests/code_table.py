"""Prints how large and how plain the code is beside what is asked for, and exits with 1 where a limit is missed.

python tests/code_table.py, or with another checkout's folder after it. A code line is one that is neither blank, nor a
comment alone, nor part of a docstring. With --write it also puts the files' lines into the tables of minist/README.md
and the lessons of README.md.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
NOT_FOR_READERS = ("# noqa", "# type:", "# ----")  # comments that explain nothing

# what a reader meets who follows one training step: MultipleNegativesRankingLoss in MatryoshkaLoss, in mini-batches.
# minist/README.md, "One step, read in order", has the same files, and names those that a step calls in passing
STEP = """
train.py
minist/training/step.py
minist/training/task.py
minist/batch.py
minist/data/packed.py
minist/training/gradcache.py
minist/models/stack.py
minist/encoders/bert.py
minist/encoders/attention.py
minist/modules/pooling.py
minist/collectives.py
minist/encoders/encoder.py
minist/losses/matryoshka.py
minist/losses/contrastive.py
minist/losses/wrapper.py
minist/losses/base.py
""".strip().splitlines()


class Counts(NamedTuple):
    """Of one file."""

    lines: int
    code: int
    comments: int
    isinstance: int
    raises: int
    functions: list[int]  # lines of each


class Figure(NamedTuple):
    """A line of the table; the limit is the most that is right, or the least where it is negative."""

    name: str
    value: float
    limit: float = float("inf")
    note: str = ""

    @property
    def is_kept(self) -> bool:
        return self.value <= self.limit if self.limit >= 0 else self.value >= -self.limit

    def __str__(self) -> str:
        value = f"{self.value:,.1f}" if isinstance(self.value, float) else f"{self.value:,}"
        asked = "" if self.limit == float("inf") else f"at {'least' if self.limit < 0 else 'most'} {abs(self.limit):,}"
        return f"{self.name:<44}{value:>8}   {asked:<16}{'' if self.is_kept else 'MISSED  '}{self.note}".rstrip()


def docstring_lines(tree: ast.AST) -> set[int]:
    """The numbers of the lines that docstrings fill."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | FUNCTION) and ast.get_docstring(node) is not None:
            found |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


def measure(text: str) -> Counts:
    """Count in the source of a file."""
    tree, lines = ast.parse(text), text.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    alone = {i for i, line in enumerate(lines, 1) if not line.strip() or line.strip().startswith("#")}
    nodes = list(ast.walk(tree))
    called = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return Counts(
        lines=len(lines),
        code=len(lines) - len(alone | docstring_lines(tree)),
        comments=sum(not comment.string.startswith(NOT_FOR_READERS) for comment in comments),
        isinstance=called.count("isinstance"),
        raises=sum(isinstance(node, ast.Raise) for node in nodes),
        functions=[node.end_lineno - node.lineno + 1 for node in nodes if isinstance(node, FUNCTION)],
    )


def figures(root: Path) -> list[Figure]:
    """The table of a checkout: the library and its two scripts."""
    sources = [*sorted((root / "minist").rglob("*.py")), root / "train.py", root / "encode.py"]
    files = {file.relative_to(root).as_posix(): measure(file.read_text("utf-8")) for file in sources}
    code = sum(counts.code for counts in files.values())
    models = [counts for name, counts in files.items() if name.startswith("minist/models/")]
    lengths = sorted(length for counts in files.values() for length in counts.functions)
    longest = max(files, key=lambda name: files[name].lines)
    step = [files[name] for name in STEP if name in files]
    missing = [name for name in STEP if name not in files]
    asked = 1000 * sum(counts.isinstance for counts in models) / sum(counts.code for counts in models)
    return [
        Figure("files", len(files)),
        Figure("lines", sum(counts.lines for counts in files.values()), 13_000),
        Figure("code lines", code),
        Figure("isinstance in models/, of 1,000 code lines", asked, 8),
        Figure("raise, of 1,000 code lines", 1000 * sum(counts.raises for counts in files.values()) / code, 28),
        Figure("comments, of 100 code lines", 100 * sum(counts.comments for counts in files.values()) / code, -10),
        Figure("function length, median", lengths[len(lengths) // 2]),
        Figure("function length, nine in ten", lengths[len(lengths) * 9 // 10], 18),
        Figure("function length, longest", lengths[-1], 40),
        Figure("longest file", files[longest].lines, 280, longest),
        Figure("one step: files", len(step), 16),
        Figure("one step: lines", sum(counts.lines for counts in step), 1600),
        Figure("one step: files that are not there", len(missing), 0, ", ".join(missing)),
    ]


NUMBERED = re.compile(r"(`([\w/]+\.py)`(?: \| | \())([\d,]+)( \||\s+lines\))")  # `file.py` | 12 |, `file.py` (12 lines)
TOTAL = re.compile(r"(\| 16 files \| )([\d,]+)")
GUIDES = ("README.md", "minist/README.md")


def with_line_counts(text: str, root: Path) -> str:
    """A guide with the number of lines that each file has now."""

    def lines(name: str) -> int:
        return len((root / name).read_text("utf-8").splitlines())

    text = NUMBERED.sub(lambda found: f"{found[1]}{lines(found[2])}{found[4]}", text)
    return TOTAL.sub(lambda found: f"{found[1]}{sum(map(lines, STEP)):,}", text)


def main(root: Path, write: bool = False) -> int:
    for guide in GUIDES if write else ():
        text = (root / guide).read_text("utf-8")
        (root / guide).write_text(with_line_counts(text, root), "utf-8")
    table = figures(root)
    print("\n".join(map(str, table)))
    return int(not all(figure.is_kept for figure in table))


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--write"]
    sys.exit(main(Path(given[0]) if given else ROOT, "--write" in sys.argv))
