"""Commands: python -m minist COMMAND, and --help after it says more.

mine   find hard negatives for the pairs of a file
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from minist.checks import number
from minist.cli import run_command
from minist.data.rows import check_text, format_of, read_places, read_rows
from minist.data.texts import Texts
from minist.files import complete_file
from minist.models import open_model
from minist.models.sentence_transformer import SentenceTransformer
from minist.retrieval.choice import SAMPLING
from minist.retrieval.mined_rows import FORMATS
from minist.retrieval.mining import mine_hard_negatives

MINE = """Find hard negatives for the pairs of a file, with the embeddings of a model.

python -m minist mine --model M --pairs pairs.jsonl --output triplets.jsonl --relative-margin 0.05
python -m minist mine --model M --pairs p.tsv --corpus docs.txt --output t.jsonl --format n-tuple --num-negatives 5

Equal queries are one with several positives. Negatives are texts of --corpus, and positives of other queries.
The embeddings stay beside the output, in .triplets.jsonl.embeddings: a run that was killed goes on from there, and one
with other limits begins with them. Delete the folder when you need it no more."""
# options that are arguments of mine_hard_negatives of the same name
NUMBERS: dict[str, tuple[type, str]] = {
    "range_min": (int, "skip so many of the best that are left (0)"),
    "range_max": (int, "and take none after so many; by itself enough for the negatives and for what is left out"),
    "max_score": (float, "leave out what scores above"),
    "min_score": (float, "leave out what scores below"),
    "absolute_margin": (float, "leave out what scores above p - margin, p: the query's least similar positive"),
    "relative_margin": (float, "leave out what scores above p - |p| * margin"),
}
PROMPTS = ("query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name")


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: --help lists what there is\n")


def parse() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m minist", description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_mine(commands.add_parser("mine", help="find hard negatives", description=MINE, formatter_class=plain))
    return parser.parse_args()


def add_mine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("--revision", help="branch, tag or commit of a model on the hub")
    add("--pairs", type=Path, required=True, help="jsonl, json, csv, tsv, parquet: a query and a positive in each row")
    add("--query-column", help="its name; else it is the first column")
    add("--positive-column", help="its name; else it is the second column")
    add("--corpus", type=Path, help="more documents: lines of text, or a file with a column `text`")
    add("--output", type=Path, required=True, help="the file to write, .jsonl")
    add("--format", default="triplet", choices=FORMATS, help="what a row holds (triplet)")
    add("--output-scores", action="store_true", help="write similarities too, or in place of labels")
    add("--num-negatives", type=int, default=3, help="for each query (3)")
    for name, (kind, text) in NUMBERS.items():
        add(option(name), type=kind, default=0 if name == "range_min" else None, help=text)
    add("--sampling", default="top", choices=SAMPLING, help="the best of what is left (top), or any of it")
    add("--seed", type=int, default=0, help="of the draws of --sampling random (0)")
    add("--cross-encoder", help="a model folder or name: its scores replace the similarities of the nearest candidates")
    add("--include-positives", action="store_true", help="rank the positives too; format n-tuple or reranking")
    for name in PROMPTS:
        text = "this prompt of the model" if name.endswith("name") else "this"
        add(option(name), help=f"put {text} before each {'query' if 'query' in name else 'document'}")
    add("--batch-tokens", type=int, default=0, help="tokens per forward pass: bounds the memory of the model")
    add("--memory-mb", type=int, default=256, help="megabytes for scores and candidates, beside the embeddings (256)")
    add("--device", help="cpu, cuda, cuda:1 .. (default: the GPU if there is one)")
    add("--dtype", default="float32", help="float32 (default); bfloat16; auto: bfloat16 where the device is fast at it")
    add("--debug", action="store_true", help="show the traceback of an error")


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def mine(args: argparse.Namespace) -> None:
    """Read, mine, write: the output appears when it is complete."""
    check_output(args.output, [args.pairs, *([args.corpus] if args.corpus else [])])
    queries, positives = read_pairs(args.pairs, args.query_column, args.positive_column)
    corpus = read_corpus(args.corpus) if args.corpus else []
    given = {name: value for name, value in vars(args).items() if name in (*NUMBERS, *PROMPTS)}
    where: Any = {"device": args.device, "dtype": args.dtype}
    model = SentenceTransformer(args.model, revision=args.revision, **where)
    scorer: Any = open_model(args.cross_encoder, "CrossEncoder", **where) if args.cross_encoder else None
    rows, summary = mine_hard_negatives(
        model,
        queries,
        positives,
        corpus,
        cross_encoder=scorer,
        num_negatives=args.num_negatives,
        sampling_strategy=args.sampling,
        seed=args.seed,
        include_positives=args.include_positives,
        output_format=args.format,
        output_scores=args.output_scores,
        batch_tokens=args.batch_tokens,
        memory_mb=args.memory_mb,
        cache_folder=args.output.with_name(f".{args.output.name}.embeddings"),
        **given,
    )
    print(summary)
    if not rows:
        raise ValueError("no row is left: ask for fewer negatives, or give a larger --corpus or milder limits")
    with complete_file(args.output) as partial, open(partial, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"written to {args.output}")


def check_output(output: Path, read: Iterable[Path]) -> None:
    """ValueError before anything is loaded, where the output cannot be written or would replace what is read."""
    if output.suffix != ".jsonl" or output.is_dir():
        raise ValueError(f"--output is {output}: it must be a file, and end in .jsonl")
    if output.exists() and any(file.exists() and file.samefile(output) for file in read):
        raise ValueError(f"--output is {output}, which is also read: name another file")


def read_pairs(file: Path, query: str | None, positive: str | None) -> tuple[list[str], list[str]]:
    """Queries and positives, side by side; of the columns that are not named, the first and the second of the file."""
    names = list(next(iter(read_rows(file, []))))
    if len(names) < 2 and not (query and positive):
        shown = f"the column {names[0]!r} alone" if names else "no columns without their names"
        raise ValueError(f"{file} has {shown}: queries and positives are two, --query-column and --positive-column")
    columns = {"query": query or names[0], "positive": positive or names[1]}
    if columns["query"] == columns["positive"]:
        raise ValueError(f"queries and positives are both the column {columns['query']!r}: name the other one too")
    pairs = [(check_text(p, "query"), check_text(p, "positive")) for p in read_places([file], columns)]
    return [query for query, _ in pairs], [positive for _, positive in pairs]


def read_corpus(file: Path) -> list[str]:
    """The documents of a file; blank ones, such as a last line, are left out, since they teach nothing."""
    texts = Texts((file,), () if format_of(file, "", "txt") == "txt" else ("text",))
    texts.check()
    documents = [text for text in texts if isinstance(text, str) and text.strip()]
    number(f"the number of texts in {file}", len(documents), 1)
    return documents


COMMANDS = {"mine": mine}

if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: COMMANDS[arguments.command](arguments), arguments.debug)
