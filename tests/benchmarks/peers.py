"""minist beside its peers, each in a process of its own, in turn: how long, how much memory, and do they agree?

python tests/benchmarks/peers.py
python tests/benchmarks/peers.py --work encode --rounds 9

    encode      docstrings as they come, all-MiniLM-L6-v2, float32, bfloat16 and int8, `encode` from strings to an
                array; beside them the products of the encoder's weights alone, in float32, as torch does them
    rank        a query with documents, a cross-encoder of MiniLM's shape
    sparse      docstrings to word weights, SPLADE-tiny
    search      100 queries among random embeddings of width 384, the ten nearest
    train       MultipleNegativesRankingLoss, 32 pairs of docstrings a step, AdamW, dropout 0.1, see train_speed.py
    start       ten lines to a .npy file, in a fresh process, see cold_start.py

Peers are sentence-transformers and, where they are installed, ONNX Runtime and OpenVINO, which run the same encoder,
exported by torch, on batches of 32 texts sorted by length, as sentence-transformers does it; ONNX Runtime's int8 is its
`quantize_dynamic`. A round is one call; what is loaded once does not count. Printed are medians, ratios to the first
line, the peak memory of the process, which has imported torch and minist whoever is measured, and the mean cosine to
the first line's results."""

import argparse
import importlib.util
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cross_encoder import our_model
from export import export, session
from side_by_side import MODEL, alternate_all, docstrings, instructions, processor, seconds
from sides import Side

from minist.modules.lora import linear_layers

Run = Callable[[], Any]  # one round: what it found, or the seconds that it counted itself
QUERY, WIDTH, TOP = "read a csv file and return its rows", 384, 10


def minist_encode(dtype: str, args: argparse.Namespace) -> Run:
    model, texts = opened(dtype), some_texts(args)
    return lambda: model.encode(texts, show_progress_bar=False)


def theirs_encode(dtype: str, args: argparse.Namespace) -> Run:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MODEL), device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    texts = some_texts(args)
    return lambda: model.encode(texts, show_progress_bar=False)


def session_encode(kind: str, args: argparse.Namespace) -> Run:
    return session(kind, args.folder, some_texts(args))


def products(dtype: str, args: argparse.Namespace) -> Run:
    """The products of the encoder's linear layers alone, without biases, of as many tokens, 2,048 at a time."""
    tokens = int(lengths_of(args).sum())
    pairs = [(weight, torch.randn(2048, weight.shape[1])) for weight in weights_of(opened())]
    blocks = -(-tokens // 2048)

    def multiply() -> None:
        for weight, x in pairs * blocks:
            torch.mm(x, weight.T)

    def run() -> float:
        with torch.inference_mode():
            return seconds(multiply) * tokens / (2048 * blocks)  # the last block would not be full

    return run


def minist_rank(dtype: str, args: argparse.Namespace) -> Run:
    model, documents = our_model(args.folder / "cross_encoder", dtype), some_texts(args)
    return lambda: scores_of(model.rank(QUERY, documents))


def theirs_rank(dtype: str, args: argparse.Namespace) -> Run:
    from cross_encoder import their_model

    model, documents = their_model(args.folder / "cross_encoder"), some_texts(args)
    return lambda: scores_of(model.rank(QUERY, documents, show_progress_bar=False))


def minist_sparse(dtype: str, args: argparse.Namespace) -> Run:
    import minist

    model = minist.SparseEncoder(MODEL.with_name("splade-tiny"), device="cpu", dtype=dtype)
    texts = some_texts(args)
    return lambda: model.encode(texts, show_progress_bar=False).to_dense().numpy()


def theirs_sparse(dtype: str, args: argparse.Namespace) -> Run:
    from sentence_transformers import SparseEncoder

    model, texts = SparseEncoder(str(MODEL.with_name("splade-tiny")), device="cpu"), some_texts(args)
    return lambda: model.encode(texts, show_progress_bar=False).to_dense().numpy()


def minist_search(dtype: str, args: argparse.Namespace) -> Run:
    from minist.retrieval.search import semantic_search

    return search_with(semantic_search, args)


def theirs_search(dtype: str, args: argparse.Namespace) -> Run:
    from sentence_transformers.util import semantic_search

    return search_with(semantic_search, args)


def search_with(search: Any, args: argparse.Namespace) -> Run:
    draw = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, WIDTH, generator=draw) for n in (100, args.documents))
    return lambda: np.array([[hit["score"] for hit in hits] for hits in search(queries, documents, top_k=TOP)])


def minist_train(dtype: str, args: argparse.Namespace) -> Run:
    from train_speed import BATCH, run_ours, some_pairs

    pairs = some_pairs(args.steps * BATCH)
    return lambda: run_ours(pairs, dtype)


def theirs_train(dtype: str, args: argparse.Namespace) -> Run:
    from train_speed import BATCH, run_theirs, some_pairs

    pairs = some_pairs(args.steps * BATCH)
    return lambda: run_theirs(pairs, dtype)


def minist_start(dtype: str, args: argparse.Namespace) -> Run:
    from cold_start import ours

    return lambda: ours(args.folder)


def theirs_start(dtype: str, args: argparse.Namespace) -> Run:
    from cold_start import theirs

    return lambda: theirs(args.folder)


THEIRS, PRODUCTS = "sentence-transformers", "torch's products alone"
BOTH = ("float32", "bfloat16")
WORK: dict[str, dict[str, tuple[Callable[[str, argparse.Namespace], Run], str]]] = {
    "encode": {
        **{f"minist {dtype}": (minist_encode, dtype) for dtype in (*BOTH, "int8")},
        **{f"{THEIRS} {dtype}": (theirs_encode, dtype) for dtype in BOTH},
        **{name: (session_encode, name) for name in ("ONNX Runtime float32", "ONNX Runtime int8")},
        **{name: (session_encode, name) for name in ("OpenVINO float32", "OpenVINO bfloat16")},
        PRODUCTS: (products, "float32"),
    },
    "rank": {
        **{f"minist {dtype}": (minist_rank, dtype) for dtype in (*BOTH, "int8")},
        f"{THEIRS} float32": (theirs_rank, "float32"),
    },
    "sparse": {"minist float32": (minist_sparse, "float32"), f"{THEIRS} float32": (theirs_sparse, "float32")},
    "search": {"minist": (minist_search, ""), THEIRS: (theirs_search, "")},
    "train": {
        **{f"minist {dtype}": (minist_train, dtype) for dtype in BOTH},
        **{f"{THEIRS} {dtype}": (theirs_train, dtype) for dtype in BOTH},
    },
    "start": {"minist": (minist_start, ""), THEIRS: (theirs_start, "")},
}


def some_texts(args: argparse.Namespace) -> list[str]:
    return random.Random(0).sample(list(docstrings()), args.texts)


def opened(dtype: str = "float32") -> Any:
    import minist

    return minist.SentenceTransformer(MODEL, device="cpu", dtype=dtype)


def weights_of(model: Any) -> list[torch.Tensor]:
    """Of the encoder's linear layers."""
    return [layer.weight.detach() for _, layer, _ in linear_layers(model.encoders[0])]


def lengths_of(args: argparse.Namespace) -> torch.Tensor:
    return opened().tokenizer(some_texts(args)).lengths


def scores_of(hits: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[hit["score"] for hit in sorted(hits, key=lambda hit: hit["corpus_id"])]])


def compare(work: str, names: list[str], args: argparse.Namespace) -> None:
    sides = [Side(name, *WORK[work][name], args) for name in names]
    times = alternate_all([side.round for side in sides], args.rounds)
    peaks = [side.end() for side in sides]
    first = median(times[0])
    print(f"\n{work}, median of {args.rounds} rounds\n{'':32}{'seconds':>9}{'ratio':>8}{'memory':>10}{'cosine':>9}")
    for side, own, peak in zip(sides, times, peaks, strict=True):
        cosine = "" if isinstance(side.found, float) else f"{likeness(sides[0].found, side.found):9.5f}"
        memory = "" if work == "start" else f"{peak:7,.0f} MB"
        print(f"{side.name:32}{median(own):>8.2f} {median(own) / first:>7.2f}x{memory:>10}{cosine}", flush=True)
    found = {side.name: median(own) for side, own in zip(sides, times, strict=True)}
    if PRODUCTS in found:
        print_share(found, args)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (torch.as_tensor(x).float() for x in (a, b))
    if len(a) == 1:  # scores of one query, which are all alike but for their order
        a, b = a - a.mean(), b - b.mean()
    return F.cosine_similarity(a, b).mean().item()


def print_share(found: dict[str, float], args: argparse.Namespace) -> None:
    """How much of its time minist would need for all its products, those of attention too, at torch's own rate."""
    lengths, model = lengths_of(args), opened()
    weights = sum(weight.numel() for weight in weights_of(model))
    linear = 2 * int(lengths.sum()) * weights
    scores = 4 * int(lengths.square().sum()) * model.width * len(model.encoders[0].layers)
    rate = linear / found[PRODUCTS]
    own = (linear + scores) / found["minist float32"]
    print(
        f"torch multiplies these shapes in float32 at {rate / 1e9:.0f} GFLOP/s, minist runs at {own / 1e9:.0f}: "
        f"{own / rate:.0%}; "
        f"{len(lengths)} texts of {lengths.min()} to {lengths.max()} tokens, {lengths.float().mean():.0f} in the mean"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--documents", type=int, default=100_000, help="embeddings to search")
    parser.add_argument("--steps", type=int, default=8, help="of training")
    parser.add_argument("--only", default="", help="only peers with this in their name, and the first")
    args = parser.parse_args()

    print(f"{processor()}, {torch.get_num_threads()} threads, {instructions()}; torch {torch.__version__}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime", "openvino") if not importlib.util.find_spec(name)]
    if missing:
        print(f"without ONNX Runtime and OpenVINO: pip install {' '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        if not missing and "encode" in args.work:
            export(args.folder)
        if "rank" in args.work:
            our_model(args.folder / "cross_encoder")  # which both sides open
        for work in args.work:
            names = [name for name in WORK[work] if not (missing and WORK[work][name][0] is session_encode)]
            compare(work, [name for name in names if args.only in name or name == names[0]], args)


if __name__ == "__main__":
    main()
