"""Prints how large and how plain the code is: `python tests/code_table.py`, or with another checkout's folder after it.

A code line is one that is neither blank, nor a comment alone, nor part of a docstring.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
# what a reader meets who follows one training step: MultipleNegativesRankingLoss in MatryoshkaLoss, in mini-batches
STEP = """
train.py
""".split()  # noqa: SIM905  (the table in README.md, "One step, read in order", holds the same files)


def sources(root: Path) -> list[Path]:
    """The library and its two scripts."""
    return [*sorted((root / "minist").rglob("*.py")), root / "train.py", root / "encode.py"]


def docstring_lines(tree: ast.AST) -> set[int]:
    """The numbers of the lines that docstrings fill."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                found |= set(range(first.lineno, first.end_lineno + 1))
    return found


def measure(file: Path) -> dict[str, int | list[int]]:
    """Counts of one file."""
    text = file.read_text("utf-8")
    tree, lines = ast.parse(text), text.splitlines()
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type:", "# ----"))
    }
    docs = docstring_lines(tree)
    alone = {i for i, line in enumerate(lines, 1) if line.strip().startswith("#")}
    code = [i for i, line in enumerate(lines, 1) if line.strip() and i not in docs and i not in alone]
    names = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {
        "lines": len(lines),
        "code": len(code),
        "comments": len(comments),
        "isinstance": names.count("isinstance"),
        "raise": sum(isinstance(node, ast.Raise) for node in ast.walk(tree)),
        "functions": [node.end_lineno - node.lineno + 1 for node in functions],
    }


def main(root: Path) -> None:
    """Print the table."""
    files = {file.relative_to(root).as_posix(): measure(file) for file in sources(root)}
    total = {key: sum(counts[key] for counts in files.values()) for key in ("lines", "code", "comments", "raise")}
    models = [counts for name, counts in files.items() if name.startswith("minist/models/")]
    asked = 1000 * sum(counts["isinstance"] for counts in models) / sum(counts["code"] for counts in models)
    lengths = sorted(length for counts in files.values() for length in counts["functions"])
    longest = max(files, key=lambda name: files[name]["lines"])
    step = [root / name for name in STEP if (root / name).exists()]
    rows = [
        ("files", len(files)),
        ("lines", f"{total['lines']:,}"),
        ("code lines", f"{total['code']:,}"),
        ("isinstance in models/, of 1,000 code lines", f"{asked:.1f}"),
        ("raise, of 1,000 code lines", f"{1000 * total['raise'] / total['code']:.1f}"),
        ("comments, of 100 code lines", f"{100 * total['comments'] / total['code']:.1f}"),
        ("function length: median, nine in ten, longest", f"{lengths[len(lengths) // 2]}, {lengths[len(lengths) * 9 // 10]}, {lengths[-1]}"),
        ("longest file", f"{files[longest]['lines']} {longest}"),
        ("one step: files, lines", f"{len(step)}, {sum(len(f.read_text('utf-8').splitlines()) for f in step):,}"),
    ]
    for name, value in rows:
        print(f"{name:<50} {value}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
