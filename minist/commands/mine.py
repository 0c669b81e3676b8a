"""Find hard negatives for the pairs of a file, with the embeddings of a model.

python -m minist mine --model M --pairs pairs.jsonl --output triplets.jsonl --relative-margin 0.05
python -m minist mine --model M --pairs p.tsv --corpus docs.txt --output t.jsonl --format n-tuple --num-negatives 5

Equal queries are one with several positives. Negatives are texts of --corpus, and positives of other queries. The
embeddings stay in .triplets.jsonl.embeddings, for a run that was killed or has other limits, until you delete them."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from minist.checks import listing
from minist.data.rows import format_of, read_rows
from minist.data.texts import FIRST, SECOND, Texts
from minist.files import complete_file
from minist.models import open_model
from minist.models.device import DTYPE_HELP, INT8
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval.mining import Options, mine_hard_negatives

HELP = "find hard negatives"
OPTIONS = [f for f in fields(Options) if "help" in f.metadata]
SHORT = {"output_format": "format", "sampling_strategy": "sampling"}  # other names on the command line


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("--pairs", type=Path, required=True, help="jsonl, json, csv, tsv, parquet: a query and a positive in each row")
    add("--query-column", help="its name; else it has a usual one, such as query, or is the first column")
    add("--positive-column", help="its name; else it has a usual one, such as positive, or is the second column")
    add("--corpus", type=Path, help="more documents: lines of text, or a file with a column `text`")
    add("--output", type=Path, required=True, help="the file to write, .jsonl")
    add("--cross-encoder", help="a model folder or name: its scores replace the similarities of the nearest candidates")
    for f in OPTIONS:
        kinds = (*get_args(f.type), f.type)  # the first is int, of `int | None` too
        what = {"action": "store_true"} if f.type is bool else {"type": kinds[0], "choices": f.metadata["known"]}
        text = f.metadata["help"] + ("" if f.default is None or f.type is bool else f" ({f.default})")
        add("--" + SHORT.get(f.name, f.name).replace("_", "-"), dest=f.name, default=f.default, help=text, **what)
    add("--dtype", default="float32", help=DTYPE_HELP)


def run(args: argparse.Namespace) -> None:
    output, read = args.output, [file for file in (args.pairs, args.corpus) if file]
    if output.suffix != ".jsonl" or output.is_dir():  # before anything is loaded
        raise ValueError(f"--output is {output}: it must be a file, and end in .jsonl")
    if args.dtype == INT8:
        raise ValueError("--dtype is int8, whose embeddings cannot be kept: use float32, bfloat16 or auto")
    if output.exists() and any(file.exists() and file.samefile(output) for file in read):
        raise ValueError(f"--output is {output}, which is also read: name another file")
    options = Options(**{f.name: vars(args)[f.name] for f in OPTIONS})
    options.cache_folder = output.with_name(f".{output.name}.embeddings")
    queries, positives = read_pairs(args.pairs, args.query_column, args.positive_column)
    corpus = read_corpus(args.corpus) if args.corpus else []
    where: Any = {"device": args.device, "dtype": args.dtype}
    model = SentenceTransformer(args.model, revision=args.revision, **where)
    options.cross_encoder = open_model(args.cross_encoder, "CrossEncoder", **where) if args.cross_encoder else None
    rows, summary = mine_hard_negatives(model, queries, positives, corpus, options)
    print(summary)
    if not rows:
        raise ValueError("no row is left: ask for fewer negatives, or give a larger --corpus or milder limits")
    with complete_file(output) as partial, open(partial, "w", encoding="utf-8") as stream:  # whole, or not there
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"written to {output}")


def read_pairs(file: Path, query: str | None, positive: str | None) -> tuple[list[str], list[str]]:
    """Queries and positives. Columns that are not named are those with usual names, else the first and the second."""
    names = list(next(iter(read_rows(file, []))))
    usual = [[name for name in names if name.lower() in known] for known in (FIRST, SECOND)]
    first, second = usual[0] + usual[1] if [len(found) for found in usual] == [1, 1] else [*names, "", ""][:2]
    query, positive = query or first, positive or second
    if not query or not positive or query == positive:
        given = f"queries are {query!r}, positives {positive!r}, of the columns {listing(names)} of {file}"
        raise ValueError(f"{given}: name two by --query-column and --positive-column")
    print(f"queries are the column {query!r}, positives {positive!r}")  # a header that is none would show here
    pairs: list[Any] = list(Texts((file,), (query, positive)))
    full = [pair for pair in pairs if all(text.strip() for text in pair)]  # an empty positive would be mined
    if lost := len(pairs) - len(full):
        print(f"{lost:,} pairs of {len(pairs):,} left out: a text is empty")
    if not full:
        raise ValueError(f"{file} holds no pair of texts: all of its rows are blank")
    return [a for a, _ in full], [b for _, b in full]


def read_corpus(file: Path, column: str = "text") -> list[str]:
    texts = Texts((file,), () if format_of(file, "", "txt") == "txt" else (column,))
    documents = [text for text in map(str, texts) if text.strip()]  # blank ones, as a last line, teach nothing
    if not documents:
        raise ValueError(f"{file} holds no text: all of its lines are blank")
    return documents
