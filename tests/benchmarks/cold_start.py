"""From the command to the file: ten lines embedded by encode.py, and by a script with sentence-transformers.

python tests/benchmarks/cold_start.py

Counted is the wall time of a fresh process: start of python, imports, loading of the model, ten texts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from side_by_side import MODEL, ROOT, alternate, docstrings, print_table, seconds

THEIRS = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
model, texts, output = sys.argv[1:]
lines = open(texts, encoding="utf-8").read().splitlines()
np.save(output, SentenceTransformer(model).encode(lines))
"""


def run(*command: object) -> float:
    """Seconds of one process."""
    arguments = [sys.executable, *map(str, command)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}  # nobody waits for the network
    return seconds(lambda: subprocess.run(arguments, cwd=ROOT, env=environment, check=True, capture_output=True))


def prepared(folder: Path) -> tuple[Path, Path]:
    """The texts, and where their embeddings go."""
    texts = folder / "texts.txt"
    if not texts.exists():
        texts.write_text("".join(f"{' '.join(text.split())}\n" for text in islice(docstrings(), 10)), "utf-8")
        (folder / "theirs.py").write_text(THEIRS, "utf-8")
    return texts, folder / "texts.npy"


def ours(folder: Path) -> float:
    texts, output = prepared(folder)
    return run("encode.py", "--model", MODEL, texts, "--output", output)


def theirs(folder: Path) -> float:
    return run(folder / "theirs.py", MODEL, *prepared(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours(folder), theirs(folder)  # the files are in the page cache from here on
        times = alternate(lambda: ours(folder), lambda: theirs(folder), args.rounds)
        print_table("cold start: ten lines to a .npy file", {"float32": times})


if __name__ == "__main__":
    main()
