"""Encoding speed beside sentence-transformers: all-MiniLM-L6-v2, docstrings of the standard library as they come.

python tests/benchmarks/encode_speed.py

Counted is `encode` on a list of strings in memory, tokenization included, with the default batch size
of each library; not imports and not the loading of the model. Same process, threads, texts and dtype.
"""

import argparse
import random

import numpy as np
import sentence_transformers
import torch
from side_by_side import MODEL, alternate, docstrings, print_table, seconds

import minist

DTYPES = ("float32", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    texts = random.Random(0).sample(list(docstrings()), args.texts)
    rows = {}
    for dtype in DTYPES:
        ours = minist.SentenceTransformer(MODEL, device=args.device, dtype=dtype)
        theirs = sentence_transformers.SentenceTransformer(
            str(MODEL), device=args.device, model_kwargs={"torch_dtype": dtype}
        )
        a, b = ours.encode(texts), theirs.encode(texts)  # also the round that warms both up
        print(f"{dtype}: embeddings differ by {np.abs(a - b).max():.1e} at most")
        rows[dtype] = alternate(
            lambda ours=ours: seconds(lambda: ours.encode(texts)),
            lambda theirs=theirs: seconds(lambda: theirs.encode(texts)),
            args.rounds,
        )
    lengths = ours.tokenizer(texts).lengths
    about = f"{len(texts)} texts of {lengths.min()} to {lengths.max()} tokens, {lengths.float().mean():.0f} on average"
    print_table(f"encode: {about}; {args.device}, {torch.get_num_threads()} threads", rows)


if __name__ == "__main__":
    main()
