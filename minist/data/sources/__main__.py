"""python -m minist.data.sources wordnet [FOLDER]: make data/wordnet, of the files in FOLDER where one is given."""

import argparse
from pathlib import Path

from minist.cli import run_command
from minist.data.sources import SOURCES, make_source


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minist.data.sources", description=__doc__)
    parser.add_argument("source", help=", ".join(SOURCES))
    parser.add_argument("given", type=Path, nargs="?", help="a folder with the files: nothing is searched or fetched")
    run_command(lambda: make_source(**vars(parser.parse_args())), debug=False)


if __name__ == "__main__":
    main()
