"""Search in a file of texts: by their words, by a dense or a sparse model, or by several, and rerank what is found.

python -m minist search --corpus docs.txt "how do I sort a list?"
python -m minist search --corpus docs.jsonl --bm25 --dense M1 --rerank M2

Without a query it asks for queries until a line is empty. The first start embeds all texts, and keeps that in
docs.txt.index; a later one embeds those that are new. The order is by rank in all searches, then by --rerank."""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

from minist.checks import number, whole
from minist.data.rows import is_unicode
from minist.models import MODELS
from minist.models.device import find_device
from minist.models.folder import load_folder
from minist.models.hub import find_model
from minist.retrieval.bm25 import WORD, words
from minist.retrieval.corpus_index import CorpusIndex
from minist.retrieval.pipeline import MIXES, Hit, Pipeline, Retriever, by_embedding, by_index, by_words

HELP = "search in a file of texts"
KINDS = {"dense": "SentenceTransformer", "sparse": "SparseEncoder", "rerank": "CrossEncoder"}  # of the options
SHOWN, BEFORE = 200, 40  # characters of a text, and of them before the words of the query


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("query", nargs="?", help="what to search for; else you are asked for queries")
    corpus = "lines of text; or jsonl, json, csv, tsv, parquet with a column text"
    add("--corpus", type=Path, required=True, help=corpus)
    add("--column", default="", help="another column with the text")
    add("--dense", help="a dense model: a folder, or a name on the Hugging Face hub")
    add("--sparse", help="a sparse model")
    add("--bm25", action="store_true", help="search for words too; alone if no model is named")
    add("--rerank", help="a cross-encoder, which reads query and text together")
    add("--top-k", type=int, default=10, help="texts to show (10)")
    add("--candidates", type=int, default=100, help="texts that each search names (100)")
    add("--rerank-top", type=int, default=50, help="how many of them are reranked (50)")
    mix = "the order by its score, or by the sum of its and all searches' (sum)"
    add("--rerank-mix", default="sum", choices=MIXES, help=mix)
    add("--index", type=Path, help="the folder of the index (the corpus and .index)")
    add("--json", action="store_true", help="a line for each query, for programs")


def run(args: argparse.Namespace) -> None:
    whole("--top-k", args.top_k, 1)  # before anything is embedded
    if not is_unicode(args.query or ""):
        raise ValueError(f"the query {args.query!r} is not UTF-8 text")
    say = partial(print, file=sys.stderr)  # so that the output of --json is for programs alone
    models = {option: load(args, option) for option in KINDS if vars(args)[option]}
    index = CorpusIndex(args.corpus, args.column, args.index or Path(f"{args.corpus}.index"), say)
    found, limits = retrievers(args, index, models), (args.candidates, args.rerank_top, args.rerank_mix)
    pipeline = Pipeline(index.texts, found, models.get("rerank"), *limits)
    if not (args.dense or args.sparse or args.bm25 or args.rerank):
        say("BM25 alone: --dense M finds texts that say it in other words, --rerank M puts the best ones first")
    for query in ask("" if args.json else "> ") if args.query is None else [args.query]:
        started = time.perf_counter()
        hits = [about(hit, index) for hit in pipeline.search(query, args.top_k)]
        seconds = round(time.perf_counter() - started, 4)
        if args.json:
            answer = {"query": query, "seconds": seconds, "hits": hits}
            print(json.dumps(answer, ensure_ascii=False, default=str), flush=True)  # str: an id may be a date
        else:
            show(query, hits)
            print(f"{len(hits)} of {len(index.texts):,} texts" + (f", {seconds:.3f} s" if args.query is None else ""))


def load(args: argparse.Namespace, option: str) -> Any:
    """Its model. ValueError for one of another kind names the right option."""
    name, wanted = vars(args)[option], KINDS[option]
    content = load_folder(find_model(name, args.revision))
    plain = "SentenceTransformer" if option == "rerank" else wanted  # a plain checkpoint has no scores yet
    if (kind := content.settings.get("model_type", plain)) != wanted:
        right = next((f"give it to --{other}" for other in KINDS if KINDS[other] == kind), "it is for training")
        raise ValueError(f"--{option} takes a {wanted}, but {name} is a {kind}: {right}")
    model = MODELS[wanted](content, device=find_device(args.device))
    if option == "rerank":
        number(f"the number of scores that {name} gives a text", model.width, 1, 1)
    return model


def retrievers(args: argparse.Namespace, index: CorpusIndex, models: dict[str, Any]) -> dict[str, Retriever]:
    """Those that are asked for, after their part of the index is made."""
    found = dict[str, Retriever]()
    try:
        with index.locked():
            if args.bm25 or not (args.dense or args.sparse):
                found["bm25"] = by_words(index.bm25())
            if args.dense:
                found["dense"] = by_embedding(models["dense"], index.dense(args.dense, models["dense"]))
            if args.sparse:
                found["sparse"] = by_index(models["sparse"], index.sparse(args.sparse, models["sparse"]))
    except OSError as e:
        raise ValueError(f"the index {index.folder} cannot be made: {e.strerror}: name another by --index") from None
    return found


def ask(prompt: str) -> Iterator[str]:
    """Queries that a person types, up to an empty line or the end of the input."""
    with suppress(EOFError):
        while query := input(prompt).strip():
            yield query


def about(hit: Hit, index: CorpusIndex) -> dict[str, Any]:
    text, row, name = index.documents[hit.row]
    stages = {stage: {"score": round(score, 6), "rank": rank} for stage, (score, rank) in hit.stages.items()}
    return {"score": round(hit.score, 6), "row": row, "id": name, "text": text, "stages": stages}


def show(query: str, hits: list[dict[str, Any]]) -> None:
    colour = ("\033[1;33m", "\033[0m") if sys.stdout.isatty() and not environ.get("NO_COLOR") else ("", "")
    for rank, hit in enumerate(hits, 1):
        where = f"row {hit['row']}" if hit["id"] is None else hit["id"]
        stages = ", ".join(f"{name} {stage['score']:.4g} (#{stage['rank']})" for name, stage in hit["stages"].items())
        print(f"{rank:3}. {excerpt(hit['text'], set(words(query)), *colour)}\n     {where}: {stages}")


def excerpt(text: str, wanted: set[str], start: str, end: str) -> str:
    """The part of a text with most of the `wanted` words, each of them between `start` and `end`."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text)  # a terminal would obey control characters
    found = [(m.start(), m[0].lower()) for m in WORD.finditer(text) if m[0].lower() in wanted]
    found, room = found[:1000], SHOWN - BEFORE
    near = [{w for place, w in found[i : i + room] if place + len(w) <= at + room} for i, (at, _) in enumerate(found)]
    most = max(near, key=lambda found: sum(map(len, found)), default=set[str]())  # a long word says more than "to"
    at = max(found[near.index(most)][0] - BEFORE, 0) if len(text) > SHOWN and found else 0
    first = text.find(" ", at, at + BEFORE) + 1 or at if at else 0  # no word is cut where it begins
    part = text[first : first + SHOWN]
    part = WORD.sub(lambda m: f"{start}{m[0]}{end}" if m[0].lower() in wanted else m[0], part)
    return ("… " if first else "") + part.strip() + (" …" if first + SHOWN < len(text) else "")
