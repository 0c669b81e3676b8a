"""The report of a run as of now, or several runs laid over each other.

python -m minist report --output compare.html runs/a runs/b

A run is a folder that train.py has written, or is writing. The page is one file and needs no network."""

import argparse
from pathlib import Path

from minist.training.report import write_page

HELP = "draw the curves of runs in a web page"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, the `output` of their configs")
    parser.add_argument("--output", type=Path, default=Path("compare.html"), help="the page to write (compare.html)")


def run(args: argparse.Namespace) -> None:
    write_page(args.output, args.runs)
    print(f"{args.output} is written: open it in a browser")
