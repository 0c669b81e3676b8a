"""Spearman correlation with the human scores of SemEval's STS tasks, as they are published: score, text, text.

python tests/benchmarks/sts.py --model sentence-transformers/all-MiniLM-L6-v2 sts/*.test.tsv

The files are tab separated and have no header. Those of a year, which is what their names begin with, are one task.
Pairs that nobody scored have an empty score and are left out. The published numbers are those of the MTEB leaderboard.
"""

import argparse
from itertools import groupby
from pathlib import Path

from minist import SentenceTransformer
from minist.data.rows import read_places
from minist.evaluation import EmbeddingSimilarityEvaluator

COLUMNS = {"score": 0, "text1": 1, "text2": 2}
PUBLISHED = {
    "all-MiniLM-L6-v2": {"2013": 80.60, "2014": 75.59, "2015": 85.39},
    "all-mpnet-base-v2": {"2013": 83.48, "2014": 78.00, "2015": 85.66},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("files", nargs="+", type=Path)
    args = parser.parse_args()
    model = SentenceTransformer(args.model)
    published = PUBLISHED.get(Path(args.model).name, {})
    print(f"{'':<8}{'pairs':>8}{'Spearman x 100':>16}{'published':>11}")
    for year, files in groupby(sorted(args.files, key=lambda file: file.name), lambda file: file.name.split(".")[0]):
        evaluator = EmbeddingSimilarityEvaluator(
            **EmbeddingSimilarityEvaluator.of_rows(read_places(files, COLUMNS, "tsv"))
        )
        found = 100 * evaluator(model)["spearman_cosine"]
        known = f"{published[year]:.2f}" if year in published else ""
        print(f"STS{year[2:]:<5}{len(evaluator.scores):>8,}{found:>16.2f}{known:>11}", flush=True)


if __name__ == "__main__":
    main()
