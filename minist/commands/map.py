"""Draw texts as points in a web page: those that mean the same are near, clusters have colours and their own words.

python -m minist map --model M docs.txt --output map.html
python -m minist map --model M articles.jsonl --column title --clusters 8 --pca

Places are those of t-SNE, which keeps neighbours together: distances between far groups mean little, and no axis means
anything. The page is one file, needs no network, and shows a text when the pointer is on it."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from minist.checks import number
from minist.commands.mine import read_corpus
from minist.files import complete_file
from minist.models import open_model
from minist.progress import progress_bar
from minist.retrieval.clustering import kmeans, words_of_clusters
from minist.retrieval.layout import STEPS, lay_out, pca

HELP = "draw texts as points in a web page"
PAGE = Path(__file__).with_name("map.html")  # with one place for the data
SHOWN = 300  # characters of each text
COLOURS = 12  # that an eye can tell apart


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("corpus", type=Path, help="lines of text, or a jsonl, csv, tsv or parquet file with a column of texts")
    add("--column", default="text", help="its name, of a file that has columns (text)")
    add("--output", type=Path, default=Path("map.html"), help="the page to write (map.html)")
    add("--clusters", type=int, help=f"how many, 1 to {COLOURS} (more for more texts)")
    add("--pca", action="store_true", help="by the two directions of largest variance: at once")


def run(args: argparse.Namespace) -> None:
    if args.output.suffix not in (".html", ".htm"):
        raise ValueError(f"--output is {args.output}: it must end in .html")
    texts = read_corpus(args.corpus, args.column)
    few = min(COLOURS, max(1, len(texts) // 20))  # unless it is said, a cluster of fewer texts says little
    count = number("--clusters", few if args.clusters is None else args.clusters, 1, min(COLOURS, len(texts)))
    model = open_model(args.model, "SentenceTransformer", device=args.device, revision=args.revision)
    x = F.normalize(torch.as_tensor(model.encode(texts)).float(), dim=-1)
    labels, _ = kmeans(x, count)
    with progress_bar(STEPS, "steps", "laying out") as bar:
        places = pca(x) if args.pca else lay_out(x, done=bar.update)
    write_page(args.output, args.corpus.name, texts, labels.tolist(), places)
    print(f"{len(texts):,} texts in {count} clusters, in {args.output}: open it in a browser")


def write_page(output: Path, title: str, texts: list[str], labels: list[int], places: torch.Tensor) -> None:
    low, words = places.amin(0, keepdim=True), words_of_clusters(texts, labels, 4)
    spread = (places.amax(0, keepdim=True) - low).clamp_min(1e-12)
    data: dict[str, Any] = {
        "title": title,
        "words": [", ".join(words.get(k, [])) or f"cluster {k + 1}" for k in range(1 + max(labels))],
        "texts": [text[:SHOWN] for text in texts],
        "labels": labels,
        "places": [[round(v, 4) for v in place] for place in ((places - low) / spread).tolist()],  # 0 to 1
    }
    inside = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # a text cannot end the script
    with complete_file(output) as partial:
        partial.write_text(PAGE.read_text("utf-8").replace("DATA", inside, 1), "utf-8")
