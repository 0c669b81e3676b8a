"""Embed the lines of a text file.

python encode.py --model DIR corpus.txt --output corpus.npy

Row i of the output is line i + 1 of the input. Lines end at \\n (a \\r before it is dropped); an empty
line is a text too. `np.load("corpus.npy")` reads the result, [lines, dimensions] float32.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from minist.cli import run_command
from minist.data.rows import read_lines
from minist.files import complete_file
from minist.models.sentence_transformer import CHUNK, SentenceTransformer
from minist.progress import progress_bar


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a UTF-8 text file, one text per line")
    parser.add_argument("--model", required=True, help="a model folder")
    parser.add_argument("--output", type=Path, required=True, help="the .npy file to write")
    parser.add_argument("--batch-tokens", type=int, default=0, help="tokens per forward pass: bounds the memory")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16, which is faster")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-name", help="put this prompt of the model before each text")
    prompts.add_argument(
        "--role", choices=["query", "document"], help="put the model's prompt for this role before each text"
    )
    parser.add_argument("--normalize", action="store_true", help="scale each embedding to length one")
    parser.add_argument("--truncate-dim", type=int, help="keep only the first dimensions")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 .. (default: the GPU if there is one)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def encode(args: argparse.Namespace) -> None:
    """Read, embed chunk by chunk, write; the output appears when it is complete."""
    if args.output.suffix != ".npy":
        raise ValueError(f"--output is {args.output}: it must end in .npy")
    if args.batch_tokens < 0:
        raise ValueError(f"--batch-tokens is {args.batch_tokens}: it must be positive")
    lines = read_file(args.input)
    model = SentenceTransformer(args.model, device=args.device, dtype=args.dtype, truncate_dim=args.truncate_dim)
    prompt = model.role_prompt(args.role) if args.role else model.find_prompt(args.prompt_name, None)
    started, cut = time.perf_counter(), 0
    with (
        complete_file(args.output) as partial,
        open(partial, "wb") as stream,
        progress_bar(len(lines), "texts", "encoding") as bar,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(lines), model.out_width)}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(lines), CHUNK):
            embeddings, cut_here = model.embed(lines[start : start + CHUNK], prompt, args.batch_tokens, bar.update)
            stream.write(model.finish(embeddings, None, args.normalize).cpu().numpy().tobytes())
            cut += cut_here
    seconds = time.perf_counter() - started
    was_cut = f"{cut} cut at {model.tokenizer.max_length} tokens" if cut else "none cut"
    print(f"{len(lines)} texts, {model.out_width} dimensions, {seconds:.1f} s, {was_cut}, in {args.output}")


def read_file(file: Path) -> list[str]:
    """The lines of a UTF-8 file, split on \\n alone. ValueError if there are none, or one is not UTF-8."""
    lines = [line.removesuffix("\n").removesuffix("\r") for line in read_lines(file)]
    if not lines:
        raise ValueError(f"{file} is empty")
    return lines


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: encode(arguments), arguments.debug)
