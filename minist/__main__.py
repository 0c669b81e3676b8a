"""Commands: python -m minist COMMAND, and --help after it says more."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from minist.checks import listing, number
from minist.cli import run_command
from minist.data.rows import format_of, read_rows
from minist.data.texts import FIRST, SECOND, Texts
from minist.files import complete_file
from minist.models import open_model
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.sparse_encoder import SparseEncoder
from minist.retrieval.mining import Options, mine_hard_negatives

MINE = """Find hard negatives for the pairs of a file, with the embeddings of a model.

python -m minist mine --model M --pairs pairs.jsonl --output triplets.jsonl --relative-margin 0.05
python -m minist mine --model M --pairs p.tsv --corpus docs.txt --output t.jsonl --format n-tuple --num-negatives 5

Equal queries are one with several positives. Negatives are texts of --corpus, and positives of other queries. The
embeddings stay in .triplets.jsonl.embeddings, for a run that was killed or has other limits, until you delete them."""
EXPAND = """Show the words of a text by their weights in a sparse model, those that it does not contain marked by +.

python -m minist expand --model M "how do I sort a list?"
python -m minist expand --model M --role query --top-k 10 --json "sort a list" "open a file"
"""
BAR = 40  # characters of the largest weight
OPTIONS = [f for f in fields(Options) if "help" in f.metadata]
SHORT = {"output_format": "format", "sampling_strategy": "sampling"}  # other names on the command line


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: --help lists what there is\n")


def parse() -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m minist", description=__doc__, formatter_class=plain)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("mine", help="find hard negatives", description=MINE, formatter_class=plain).add_argument
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
    add("--dtype", default="float32", help="float32 (default); bfloat16; auto: bfloat16 where the device is fast at it")
    show = commands.add_parser("expand", help="words of a text", description=EXPAND, formatter_class=plain)
    show.add_argument("--model", required=True, help="a sparse model: a folder, or a name on the Hugging Face hub")
    show.add_argument("text", nargs="+", help="one or several")
    show.add_argument("--role", help="query or document: the route that the texts take, and the prompt")
    show.add_argument("--top-k", type=int, default=30, help="words of each text (30)")
    show.add_argument("--json", action="store_true", help="a line for each text, for programs")
    for command in commands.choices.values():
        command.add_argument("--revision", help="branch, tag or commit of a model on the hub")
        command.add_argument("--device", help="cpu, cuda, cuda:1 .. (default: the GPU if there is one)")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def mine(args: argparse.Namespace) -> None:
    check_output(args.output, [file for file in (args.pairs, args.corpus) if file])  # before anything is loaded
    options = Options(**{f.name: vars(args)[f.name] for f in OPTIONS})
    options.cache_folder = args.output.with_name(f".{args.output.name}.embeddings")
    queries, positives = read_pairs(args.pairs, args.query_column, args.positive_column)
    corpus = read_corpus(args.corpus) if args.corpus else []
    where: Any = {"device": args.device, "dtype": args.dtype}
    model = SentenceTransformer(args.model, revision=args.revision, **where)
    options.cross_encoder = open_model(args.cross_encoder, "CrossEncoder", **where) if args.cross_encoder else None
    rows, summary = mine_hard_negatives(model, queries, positives, corpus, options)
    print(summary)
    if not rows:
        raise ValueError("no row is left: ask for fewer negatives, or give a larger --corpus or milder limits")
    with complete_file(args.output) as partial, open(partial, "w", encoding="utf-8") as stream:  # whole, or not there
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"written to {args.output}")


def check_output(output: Path, read: list[Path]) -> None:
    if output.suffix != ".jsonl" or output.is_dir():
        raise ValueError(f"--output is {output}: it must be a file, and end in .jsonl")
    if output.exists() and any(file.exists() and file.samefile(output) for file in read):
        raise ValueError(f"--output is {output}, which is also read: name another file")


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
    number(f"the number of pairs in {file}", len(full), 1)
    return [a for a, _ in full], [b for _, b in full]


def read_corpus(file: Path) -> list[str]:
    texts = Texts((file,), () if format_of(file, "", "txt") == "txt" else ("text",))
    documents = [text for text in map(str, texts) if text.strip()]  # blank ones, as a last line, teach nothing
    number(f"the number of texts in {file}", len(documents), 1)
    return documents


def expand(args: argparse.Namespace) -> None:
    model = SparseEncoder(args.model, revision=args.revision, device=args.device)
    found = model.decode(model.encode(args.text, role=args.role, show_progress_bar=False), args.top_k)
    tokenizer = model.tokenizer_for(args.role)
    for text, weights in zip(args.text, found, strict=True):
        own = {tokenizer.backend.id_to_token(i) for i in tokenizer([text]).input_ids.tolist()}
        words = [{"word": word, "weight": round(weight, 4), "in_text": word in own} for word, weight in weights]
        if args.json:
            print(json.dumps({"text": text, "words": words}, ensure_ascii=False))
        else:
            print(f"\n{text}\n" + "\n".join(bars(words)))


def bars(words: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each word: what it is, + where the text has it not, its weight, drawn too."""
    width = max((len(word["word"]) for word in words), default=0)
    for word in words:
        drawn = "█" * round(BAR * max(word["weight"], 0) / (words[0]["weight"] or 1))
        yield f"  {word['word']:{width}} {' ' if word['in_text'] else '+'} {word['weight']:7.3f} {drawn}"


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: {"mine": mine, "expand": expand}[arguments.command](arguments), arguments.debug)
