"""Show the words of a text by their weights in a sparse model, those that it does not contain marked by +.

python -m minist expand --model M "how do I sort a list?"
python -m minist expand --model M --role query --top-k 10 --json "sort a list" "open a file"
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from minist.models.sparse_encoder import SparseEncoder

HELP = "show the words by which a sparse model knows a text"
BAR = 40  # characters of the largest weight


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a sparse model: a folder, or a name on the Hugging Face hub")
    add("text", nargs="+", help="one or several")
    add("--role", help="query or document: the route that the texts take, and the prompt")
    add("--top-k", type=int, default=30, help="words of each text (30)")
    add("--json", action="store_true", help="a line for each text, for programs")


def run(args: argparse.Namespace) -> None:
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
