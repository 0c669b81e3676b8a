"""Embed any number of texts, lines or a column of jsonl, csv, .. files; or score pairs of texts by a cross-encoder.

python encode.py --model DIR corpus.txt --output corpus.npy
zcat a.gz | python encode.py --model DIR - --output a.npy
torchrun --nproc_per_node=4 encode.py --model DIR a.jsonl.gz b.jsonl.gz --field text --output corpus.npy
python encode.py --model SPARSE corpus.txt --output corpus.npz
python encode.py --model RERANKER pairs.tsv --output scores.npy
python encode.py --model RERANKER pairs.jsonl --column question --column answer --output scores.npy

Row i of the output belongs to text i + 1 of the inputs, in their order. Lines end at \\n (a \\r before it is
dropped); an empty line is a text too. `np.load("corpus.npy", mmap_mode="r")` reads the result, [texts, dimensions].
Scores are [pairs], with several labels [pairs, labels]. The two columns of a pair are found under usual names (query
and document, sentence1 and sentence2, ..), or are the two that a table without a header has.
Sparse embeddings are written to .npz, which scipy.sparse.load_npz reads as CSR, or to .jsonl, the weight of each token.
Under torchrun each process reads all inputs and embeds blocks as it becomes free; the file must lie where all reach it.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from minist import distributed
from minist.checks import number, pick
from minist.cli import run_command
from minist.data.embedding_file import FORMATS, EmbeddingFile, block_name
from minist.data.rows import READERS, is_unicode
from minist.data.sparse_file import SPARSE_FORMATS, SparseFile
from minist.data.texts import Text, Texts
from minist.files import complete_file, read_npy
from minist.models import open_model
from minist.models.device import DTYPE_HELP, INT8, multiplies_int8_fast
from minist.models.folder import holds_scores
from minist.models.hub import find_model
from minist.models.sparse_encoder import SparseEncoder
from minist.models.text_model import TextModel
from minist.progress import Update, progress_bar
from minist.quantization import PRECISIONS, check_ranges, merge_ranges, needs_ranges, quantize, quantized_width

RANGES = ".ranges.npy"  # ends the name of the file with the ranges of int8 codes, for the queries to come
FORMATS_OF = {"embeddings": FORMATS, "scores": FORMATS, "sparse": SPARSE_FORMATS}  # by what a model gives
ENDINGS = (*FORMATS, *SPARSE_FORMATS[:1])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", nargs="+", help="UTF-8 text, jsonl, json, csv, tsv (or these with .gz), parquet; - is standard input")
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("--revision", help="branch, tag or commit of a model on the hub")
    add("--output", type=Path, required=True, help=f"the file to write: {', '.join(ENDINGS)}")
    column = parser.add_mutually_exclusive_group()
    column.add_argument("--column", "--field", action="append", help="the name of what holds the text; twice for pairs")
    column.add_argument("--column-number", type=int, action="append", dest="column", help="or its place, from 0")
    add("--format", default="", choices=READERS, help="what the inputs are, where their endings do not say it")
    add("--batch-tokens", type=int, default=0, help="tokens per forward pass: bounds the memory")
    add("--max-length", type=int, help="tokens at which texts are cut, instead of the model's number")
    add("--dtype", default="float32", help=f"{DTYPE_HELP}; int8: products in 8 bits, on a CPU")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="put this before each text")
    prompts.add_argument("--prompt-name", help="put this prompt of the model before each text")
    add("--role", help="query or document, or a route of the model: go that way, with its prompt unless one is given")
    add("--keep-layers", help="only these layers of the encoder, the first is 0: 0,1,2")
    add("--normalize", action="store_true", help="scale each embedding to length one")
    add("--truncate-dim", type=int, help="keep only the first dimensions")
    add("--max-active-dims", type=int, help="keep only so many weights of each sparse embedding, the largest")
    add("--precision", choices=PRECISIONS, default="float32", help="numbers to write; int8 and uint8 use --ranges")
    add("--ranges", type=Path, help=".npy [2, D] of an earlier int8 or uint8 output; else found and written beside it")
    add("--device", help="cpu, cuda, cuda:1 .. (default: the GPU if there is one)")
    add("--resume", action="store_true", help="go on where a killed run with the same settings ended")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def encode(args: argparse.Namespace) -> None:
    started, (rank, world, device) = time.perf_counter(), distributed.start()
    check(args, world)
    folder = find_model(args.model, args.revision)
    texts = find_texts(args, folder, rank)
    check_output(args, texts, folder)
    model = load(args, folder, str(device) if world > 1 else None, rank)  # each process has a GPU of its own
    prompt = model.find_prompt(args.prompt_name, args.prompt, args.role)
    dim = model.out_width if args.truncate_dim is None else args.truncate_dim
    width = number("--truncate-dim", dim, 1, model.width)
    ranges = None if args.ranges is None else check_ranges(read_npy(args.ranges), width)
    stored = "float32" if needs_ranges(args.precision) and ranges is None else args.precision  # int8 is made at the end
    out = result_file(args, model, width, stored)
    total = (texts.count() or 0) if rank == 0 else 0  # for the bar, which only one process shows
    decisive = settings(args, folder, str(model.dtype), prompt, ranges)
    is_done = rank == 0 and out.start(decisive, stamps(texts.inputs), args.resume)
    kept = out.kept if rank == 0 else nullcontext
    with kept():
        distributed.stop()  # from here on nobody waits for another but by looking at files, which may take any time
    if is_done:
        return print(f"{args.output} is complete: --resume has nothing left to do")
    shown = None if rank == 0 else False
    with kept(), progress_bar(total, "texts", "encoding", shown) as bar:

        def embed(block: list[Text]) -> tuple[Any, int]:
            embeddings, cut = model.embed(block, prompt, args.batch_tokens, bar.update, args.role)
            if embeddings.is_sparse:
                return embeddings, cut
            first = model.activation_fn(embeddings[:, :width])
            first = F.normalize(first, dim=-1) if args.normalize else first  # after the cut, which shortens them
            return quantize(first.numpy(), stored, ranges), cut

        rows, blocks = embed_blocks(texts, out, embed, bar.update)
    if rank > 0:
        return  # no block is left to take; rank 0 waits for those that others still work on
    cut = out.wait_for(blocks)
    finish(args, out, stored, rows)
    what = f"{rows} pairs, {width} scores of each" if model.gives == "scores" else f"{rows} texts, {width} dimensions"
    note = f"{cut} cut at {model.tokenizer_for(args.role).max_length} tokens" if cut else "none cut"
    print(f"{what}, {time.perf_counter() - started:.1f} s, {note}, in {args.output}")


def result_file(args: argparse.Namespace, model: TextModel, width: int, stored: str) -> EmbeddingFile:
    if model.gives == "sparse":
        find = model.tokenizer.backend.id_to_token
        return SparseFile(args.output, [find(column) or f"[{column}]" for column in range(width)])
    return EmbeddingFile(args.output, quantized_width(width, stored), PRECISIONS[stored], model.gives.removesuffix("s"))


def embed_blocks(texts: Texts, out: EmbeddingFile, embed: Callable[..., Any], done: Update) -> tuple[int, list[str]]:
    """Embed the blocks that no other process has taken. Returns the number of all texts, the names of all blocks."""
    rows, blocks = 0, []
    for block in texts.blocks():
        blocks.append(block_name(rows, block))
        if out.claim(blocks[-1]):
            out.write(blocks[-1], rows, *embed(block))
        else:
            done(len(block))  # another process does it, or has done
        rows += len(block)
    if rows == 0:
        raise ValueError(f"{', '.join(map(str, texts.inputs))} is empty")
    return rows, blocks


def find_texts(args: argparse.Namespace, folder: Path, rank: int) -> Texts:
    """The inputs with their columns, found where a cross-encoder needs two and none are given."""
    texts, of_pairs = Texts(tuple(map(Path, args.input)), tuple(args.column or ()), args.format), holds_scores(folder)
    if of_pairs:
        refuse(args, ("normalize", "truncate_dim", "ranges", "role"), "embeddings", "scores")
        if not args.column:
            texts = replace(texts, columns=texts.pair_columns())
            header = "" if isinstance(texts.columns[0], str) else ", without a header: the first line is a pair too"
            if rank == 0:
                print(f"pairs are the columns {texts.columns[0]} and {texts.columns[1]}{header}")
    if len(texts.columns) not in ((2,) if of_pairs else (0, 1, 2)):
        raise ValueError(f"--column is given {len(texts.columns)} times: once for texts, twice for pairs")
    texts.check()
    return texts


def refuse(args: argparse.Namespace, options: Iterable[str], what: str, gives: str) -> None:
    """ValueError where one of the `options`, which are for `what`, is given with a model that gives something else."""
    for option in options:
        if vars(args)[option] not in (None, False):
            raise ValueError(f"--{option.replace('_', '-')} is for {what}, but {args.model} gives {gives}")
    if "normalize" in options:
        pick(f"--precision of {gives}", args.precision, {"float32": "as they are"})


def check(args: argparse.Namespace, world: int) -> None:
    """What can be wrong before anything is loaded: a mistake should not cost the time that takes."""
    for value in map(str, [*args.input, *(args.column or ()), *vars(args).values()]):
        if not is_unicode(value):  # it could not be written to the settings, nor shown
            raise ValueError(f"{value!r} is not UTF-8 text: rename the file, or write it otherwise")
    if args.output.suffix not in ENDINGS or args.output.is_dir():
        raise ValueError(f"--output is {args.output}: it must be a file, and end in {', '.join(ENDINGS)}")
    number("--batch-tokens", args.batch_tokens, 0)
    number("--max-active-dims", 1 if args.max_active_dims is None else args.max_active_dims, 1)
    if args.ranges and not needs_ranges(args.precision):
        raise ValueError(f"--ranges is for int8 and uint8, but --precision is {args.precision}")
    if "-" in args.input and (args.resume or world > 1):
        raise ValueError("standard input is read once, by one process: write it to a file for --resume or torchrun")


def check_output(args: argparse.Namespace, texts: Texts, folder: Path) -> None:
    """ValueError if what is written would replace what is read, by whatever path or link."""
    found = needs_ranges(args.precision) and not args.ranges  # then they are written beside the output
    written = [args.output, args.output.with_suffix(RANGES)] if found else [args.output]
    read = [*texts.inputs, *folder.rglob("*"), *([args.ranges] if args.ranges else [])]
    for file in filter(Path.is_file, written):
        if any(file.samefile(other) for other in read if other.is_file()):
            raise ValueError(f"--output is {args.output}, but {file} is also read: name another file")


def load(args: argparse.Namespace, folder: Path, device: str | None, rank: int) -> TextModel:
    """The model, if all options go with what it gives."""
    try:  # not by argparse, whose errors are longer than a line
        layers = None if args.keep_layers is None else [int(number) for number in args.keep_layers.split(",")]
    except ValueError:
        raise ValueError(f"--keep-layers is {args.keep_layers!r}: give numbers such as 0,1,2") from None
    kind = "SparseEncoder" if args.output.suffix == ".npz" else ""  # a plain checkpoint does not say what it is for
    model = open_model(folder, kind, device=args.device or device, dtype=args.dtype, keep_layers=layers)
    formats = pick(f"what {args.model} gives", model.gives, FORMATS_OF)
    if isinstance(model, SparseEncoder):
        refuse(args, ("normalize", "truncate_dim", "ranges"), "dense embeddings", "sparse embeddings")
        model.max_active_dims = model.kept_active(args.max_active_dims)
    else:
        refuse(args, ("max_active_dims",), "sparse embeddings", model.gives)
    if args.output.suffix not in formats:
        raise ValueError(f"--output is {args.output}: of a model that gives {model.gives}, end in {', '.join(formats)}")
    if args.max_length is not None:
        model.max_length = args.max_length
    if args.dtype == "auto" and rank == 0:
        print(f"--dtype auto: {str(model.dtype).removeprefix('torch.')}, which is fast on this {model.device.type}")
    if args.dtype == INT8 and rank == 0 and not multiplies_int8_fast():
        print("--dtype int8: this processor is not known to have instructions for it (VNNI): float32 is nearly as fast")
    return model


def settings(
    args: argparse.Namespace, folder: Path, dtype: str, prompt: str, ranges: np.ndarray | None
) -> dict[str, Any]:
    """All that decides about the row of a text, to be compared at --resume. The number of processes does not."""
    same = ("role", "batch_tokens", "max_length", "dtype", "keep_layers", "normalize", "truncate_dim", "precision")
    content = {name: value for name, value in vars(args).items() if name in (*same, "max_active_dims")}
    given = None if ranges is None else ranges.tolist()
    found = {"prompt": prompt, "ranges": given, "type of numbers": dtype}  # the one that "auto" stands for here
    return content | found | stamps(sorted(folder.rglob("*")))


def stamps(files: Iterable[Path]) -> dict[str, list[int]]:  # what changes when a file does: its size and time
    return {f"the file {f.absolute()}": [f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()}


def finish(args: argparse.Namespace, out: EmbeddingFile, stored: str, rows: int) -> None:
    """Turn the stored rows into the result. Ranges of all rows are written beside it."""
    if out.kind == "sparse" or (stored == args.precision and args.output.suffix != ".jsonl"):
        return out.finish(rows)  # the rows are where they belong: only the header is missing
    codes: Iterable[np.ndarray] = out.read(rows)  # a generator: never all rows in memory
    if stored != args.precision:
        if rows < 2:
            out.discard()  # --resume could not go on either
        number("the number of texts, which the ranges of dimensions come from,", rows, 2)  # the range of one is 0
        ranges = merge_ranges(out.read(rows))
        beside = args.output.with_suffix(RANGES)
        with complete_file(beside) as partial, open(partial, "wb") as stream:
            np.save(stream, ranges)
        print(f"the ranges of the {args.precision} codes are in {beside}")
        codes = (quantize(block, args.precision, ranges) for block in out.read(rows))
    out.finish_with(codes, rows, out.width, PRECISIONS[args.precision])


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: encode(arguments), arguments.debug)
