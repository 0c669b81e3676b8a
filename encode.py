"""Embed texts of any number: lines of text files, or one column of jsonl, csv, tsv or parquet files.

python encode.py --model DIR corpus.txt --output corpus.npy
zcat a.gz | python encode.py --model DIR - --output a.npy
torchrun --nproc_per_node=4 encode.py --model DIR a.jsonl.gz b.jsonl.gz --field text --output corpus.npy

Row i of the output belongs to text i + 1 of the inputs, in their order. Lines end at \\n (a \\r before it is
dropped); an empty line is a text too. `np.load("corpus.npy", mmap_mode="r")` reads the result, [texts, dimensions].
Under torchrun every process reads all of the inputs, embeds its share, and writes into the same file, which must
lie where all of them reach it.
"""

import argparse
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minist import distributed
from minist.cli import run_command
from minist.data.embedding_file import FORMATS, EmbeddingFile
from minist.data.texts import Texts, text_inputs
from minist.files import complete_file
from minist.models.hub import find_model
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.text_model import CHUNK
from minist.progress import progress_bar
from minist.quantization import PRECISIONS, check_ranges, merge_ranges, needs_ranges, quantize, quantized_width


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("input", nargs="+", help="UTF-8 text, jsonl, csv, tsv (or these with .gz), parquet; - is standard input")
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("--revision", help="branch, tag or commit of a model on the hub")
    add("--output", type=Path, required=True, help=f"the file to write: {', '.join(FORMATS)}")
    add("--field", help="the field of jsonl that holds the text")
    add("--column", help="the column of csv, tsv or parquet that holds the text")
    add("--batch-tokens", type=int, default=0, help="tokens per forward pass: bounds the memory")
    add("--dtype", default="float32", help="float32 (default); bfloat16; auto: bfloat16 where the device is fast at it")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="put this before each text")
    prompts.add_argument("--prompt-name", help="put this prompt of the model before each text")
    add("--role", help="query or document, or a route of the model: go that way, with its prompt unless one is given")
    add("--keep-layers", help="only these layers of the encoder, the first is 0: 0,1,2")
    add("--normalize", action="store_true", help="scale each embedding to length one")
    add("--truncate-dim", type=int, help="keep only the first dimensions")
    add("--precision", choices=PRECISIONS, default="float32", help="numbers to write; int8 and uint8 use --ranges")
    add("--ranges", type=Path, help=".npy [2, D] of an earlier int8 or uint8 output; else found and written beside it")
    add("--device", help="cpu, cuda, cuda:1 .. (default: the GPU if there is one)")
    add("--resume", action="store_true", help="go on where a killed run with the same settings ended")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def encode(args: argparse.Namespace) -> None:
    """Read, embed block by block, write; the output appears when it is complete."""
    started = time.perf_counter()
    rank, world, device = distributed.start()
    texts = Texts(text_inputs(args.input), args.field, args.column)
    check(args, texts, world)
    folder = find_model(args.model, args.revision)
    model = load(args, folder, str(device) if world > 1 else None)
    prompt, tokenizer = model.find_prompt(args.prompt_name, args.prompt, args.role), model.tokenizer_for(args.role)
    ranges = read_ranges(args.ranges, model.out_width) if args.ranges else None

    # int8 of unknown ranges is made of all float32 rows at the end, anything else as it comes
    stored = "float32" if needs_ranges(args.precision) and ranges is None else args.precision
    out = EmbeddingFile(args.output, quantized_width(model.out_width, stored), PRECISIONS[stored])
    if rank == 0:
        out.start(settings(args, texts, folder, prompt, world), args.resume)
    distributed.barrier()
    out.open()
    with out.kept() if rank == 0 else nullcontext():
        total = texts.count() if rank == 0 else None
        with progress_bar(total or 0, "texts", "encoding", None if rank == 0 else False, out.rows) as bar:
            tick = lambda n: bar.update(n * world)  # noqa: E731
            for block in islice(texts.chunks(CHUNK * world), out.blocks, None):
                start, end = (len(block) * share // world for share in (rank, rank + 1))
                embeddings, cut = model.embed(block[start:end], prompt, args.batch_tokens, tick, args.role)
                rows = model.finish(embeddings, None, args.normalize).cpu().numpy()
                out.write(out.rows + start, quantize(rows, stored, ranges))
                out.complete_block(len(block), int(distributed.total(cut)))  # waits until all ranks have written
                if rank == 0:
                    out.commit()
        if out.rows == 0:
            raise ValueError(f"{', '.join(args.input)} is empty")
        if rank == 0:
            finish(args, out, stored)
            cut_note = f"{out.cut} cut at {tokenizer.max_length} tokens" if out.cut else "none cut"
            seconds = time.perf_counter() - started
            print(f"{out.rows} texts, {model.out_width} dimensions, {seconds:.1f} s, {cut_note}, in {args.output}")
    distributed.stop()


def check(args: argparse.Namespace, texts: Texts, world: int) -> None:
    """What can be wrong before anything is loaded."""
    if args.output.suffix not in FORMATS:
        raise ValueError(f"--output is {args.output}: it must end in {', '.join(FORMATS)}")
    if args.output.is_dir():
        raise ValueError(f"--output is {args.output}, which is a folder: name a file")
    if args.batch_tokens < 0:
        raise ValueError(f"--batch-tokens is {args.batch_tokens}: it must be positive")
    if args.ranges and not needs_ranges(args.precision):
        raise ValueError(f"--ranges is for int8 and uint8, but --precision is {args.precision}")
    if "-" in args.input and (args.resume or world > 1):
        raise ValueError("standard input is read once, by one process: write it to a file for --resume or torchrun")
    texts.check()


def load(args: argparse.Namespace, folder: Path, device: str | None) -> SentenceTransformer:
    """The model as the command line wants it; says which numbers `auto` chose."""
    model = SentenceTransformer(
        folder,
        device=args.device or device,
        dtype=args.dtype,
        truncate_dim=args.truncate_dim,
        keep_layers=None if args.keep_layers is None else read_numbers(args.keep_layers),
    )
    if args.dtype == "auto" and distributed.rank() == 0:
        print(f"--dtype auto: {str(model.dtype).removeprefix('torch.')}, which is fast on this {model.device.type}")
    return model


def read_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--keep-layers is {text!r}: give numbers such as 0,1,2") from None


def read_ranges(file: Path, width: int) -> np.ndarray:
    """Minimum and maximum of each dimension, [2, D]."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        return check_ranges(np.load(file), width)
    except (ValueError, EOFError) as e:
        raise ValueError(f"--ranges {file}: {e}") from None


def settings(args: argparse.Namespace, texts: Texts, folder: Path, prompt: str, world: int) -> dict[str, Any]:
    """All that decides about the rows, to be compared at --resume."""
    same = ("field", "column", "role", "batch_tokens", "dtype", "keep_layers", "normalize", "truncate_dim", "precision")
    content = {name: value for name, value in vars(args).items() if name in same}
    files = [*(file for file in texts.inputs if file.is_file()), *sorted(folder.rglob("*.*"))]
    stamps = {f"the file {file.absolute()}": [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    ranges = None if args.ranges is None else np.load(args.ranges).tolist()
    return content | {"prompt": prompt, "ranges": ranges, "processes": world} | stamps


def finish(args: argparse.Namespace, out: EmbeddingFile, stored: str) -> None:
    """Turn the stored rows into the result. Ranges of all rows are written beside it, for the queries to come."""
    if stored == args.precision and args.output.suffix != ".jsonl":
        out.finish()
        return
    ranges = None
    if stored != args.precision:
        ranges = merge_ranges(out.read())
        with complete_file(args.output.with_suffix(".ranges.npy")) as partial, open(partial, "wb") as stream:
            np.save(stream, ranges)
        print(f"the ranges of the {args.precision} codes are in {args.output.with_suffix('.ranges.npy')}")
    codes = (rows if stored == args.precision else quantize(rows, args.precision, ranges) for rows in out.read())
    out.finish_with(codes, out.width, PRECISIONS[args.precision])


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: encode(arguments), arguments.debug)
