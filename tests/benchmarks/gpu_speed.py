"""Speed and memory on a GPU beside sentence-transformers, for gpu_check.py. Nothing is downloaded.

Models of the shapes of all-MiniLM-L6-v2 and of BERT-base with random weights, docstrings of the standard library.
Both sides compute in bfloat16, from texts in memory on; sentence-transformers with flash attention, if it is there.
"""

import importlib.util
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import cycle, islice
from statistics import mean, median
from typing import Any

import torch
from models import docstrings
from tiny import tiny_model
from torch import nn

from minist import Batch
from minist.losses import MultipleNegativesRankingLoss
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.optimizer import make_optimizer
from minist.training.run import set_dropout

SHAPES = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "MPNet-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
PAIRS, ROUNDS = 64, 3
LOSS = MultipleNegativesRankingLoss()


def measure_all(device: torch.device, number: int) -> None:
    """Print texts per second, how busy the GPU was, and peak memory of each case."""
    texts = list(islice(cycle(docstrings()), number))
    shapes = SHAPES if device.type == "cuda" else {"MiniLM-L6": SHAPES["MiniLM-L6"]}
    theirs = importlib.util.find_spec("sentence_transformers") is not None
    print(f"\n{'':36}{'texts/s':>12}{'busy':>8}{'peak MB':>10}")
    for name, shape in shapes.items():
        family = "mpnet" if name.startswith("MPNet") else "bert"
        with tempfile.TemporaryDirectory() as folder:
            model = big_model(shape, family)
            model.save(folder)
            measure(f"{name}, encode", encode_ours(model.to(device, torch.bfloat16), texts), number, device)
            for dropout in (0.0, 0.1):
                model = SentenceTransformer(folder, device=device)
                work, count = train_ours(model, texts, dropout), min(number, 8 * PAIRS)
                measure(f"{name}, train, dropout {dropout}", work, count, device)
            if theirs and family == "bert":
                measure_theirs(name, folder, texts, device)
    if not theirs:
        print("sentence-transformers is not installed here: nothing to compare with")


def big_model(shape: dict[str, Any], family: str) -> SentenceTransformer:
    """Random weights of that shape, texts of up to 256 tokens."""
    encoder = shape | {"model_type": family, "max_position_embeddings": 258, "initializer_range": 0.02}
    model = tiny_model(encoder=encoder)
    model.tokenizer.max_length = 256
    return model


def encode_ours(model: Any, texts: list[str]) -> Callable[[], object]:
    return lambda: model.encode(texts)


def train_ours(model: Any, texts: list[str], dropout: float) -> Callable[[], None]:
    """Eight steps in autocast; each a batch of pairs, the first line of a docstring and the whole."""
    set_dropout(model.train(), dropout, dropout)
    optimizer = make_optimizer(list(model.named_parameters()), 2e-5, 0.0, {}, [])

    def steps() -> None:
        for batch in batches(texts):
            columns = [model.tokenizer(column).packed() for column in batch]
            with torch.autocast(model.device.type, torch.bfloat16):
                embeddings = [x.float() for (x,) in model(columns)]
            LOSS(embeddings, Batch()).backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def batches(texts: list[str]) -> list[tuple[list[str], list[str]]]:
    """Up to eight of them, two columns each."""
    whole = [texts[start : start + PAIRS] for start in range(0, min(len(texts), 8 * PAIRS), PAIRS)]
    return [([text.partition("\n")[0] or "x" for text in part], part) for part in whole]


def measure_theirs(name: str, folder: str, texts: list[str], device: torch.device) -> None:
    import sentence_transformers
    from sentence_transformers.sentence_transformer import losses

    flash = importlib.util.find_spec("flash_attn") is not None and device.type == "cuda"
    if not flash:
        print("    flash-attn is not installed: sentence-transformers runs with torch's own attention (sdpa)")
    options = {"torch_dtype": torch.bfloat16, "attn_implementation": "flash_attention_2" if flash else "sdpa"}
    model = sentence_transformers.SentenceTransformer(folder, device=str(device), model_kwargs=options)
    measure(f"  theirs: {name}, encode", lambda: model.encode(texts, batch_size=128), len(texts), device)
    del options["torch_dtype"]
    model = sentence_transformers.SentenceTransformer(
        folder, device=str(device), model_kwargs=options if not flash else {"attn_implementation": "sdpa"}
    ).train()  # weights in float32 and autocast, as ours; flash-attn takes no float32
    loss = losses.MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-5, fused=True)

    def steps() -> None:
        for batch in batches(texts):
            features = [
                {k: v.to(device) for k, v in model.preprocess(column).items() if torch.is_tensor(v)} for column in batch
            ]
            with torch.autocast(device.type, torch.bfloat16):
                value = loss(features, None)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    measure(f"  theirs: {name}, train, dropout 0.0", steps, min(len(texts), 8 * PAIRS), device)


def measure(what: str, work: Callable[[], object], number: int, device: torch.device) -> None:
    """A line of the table: the median of a few rounds, after one to warm up."""
    on_gpu = device.type == "cuda"
    rounds = ROUNDS if on_gpu else 1
    work()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times, busy = [], Busy(on_gpu)
    with busy:
        for _ in range(rounds):
            started = time.perf_counter()
            work()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    peak = f"{torch.cuda.max_memory_allocated() / 2**20:,.0f}" if on_gpu else "-"
    print(f"{what:36}{number / median(times):>12,.0f}{busy.read():>8}{peak:>10}", flush=True)


class Busy:
    """How much of the time the GPU computes, by nvidia-smi, asked a few times a second."""

    def __init__(self, on_gpu: bool) -> None:
        self.shares: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True) if on_gpu else None

    def __enter__(self) -> None:
        if self.thread:
            self.thread.start()

    def __exit__(self, *what: object) -> None:
        self.over.set()
        if self.thread:
            self.thread.join(5)

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.2):
            try:
                said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
            except (OSError, subprocess.SubprocessError):
                return  # a table without this column is one all the same
            self.shares += [float(share) for share in said.split() if share.isdigit()][:1]

    def read(self) -> str:
        return f"{mean(self.shares):.0f}%" if self.shares else "-"
