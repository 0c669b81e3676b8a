"""SPLADE: memory of a training step, encoding beside sentence-transformers, and whether a process grows.

python tests/benchmarks/splade.py

The step: a head of 30,522 words on the encoders of MiniLM (6 layers of 384) and SPLADE-tiny (2 of 128), 64 texts of
128 tokens, forward and backward, a hundredth of the words active: in blocks; with all scores multiplied out, for the
SpladePooling of sentence-transformers; and their encoder too. Each in a process of its own; memory is the peak above
that before the step, so beyond weights, and here there is no optimizer. Encoding is SPLADE-tiny.
"""

import argparse
import random
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import sentence_transformers
import torch
from sentence_transformers.sparse_encoder.modules import SpladePooling as TheirPooling
from side_by_side import MODEL, alternate, docstrings, print_table, seconds
from transformers import BertConfig, BertForMaskedLM

from minist import SentenceTransformer, SparseEncoder
from minist.data.packed import Packed
from minist.encoders.weights import draw
from minist.modules.masked_lm_head import MaskedLMHead
from minist.modules.splade import SpladePooling

TEXTS, LENGTH = 64, 128
FORMS = ("blocks", "whole", "theirs")
ENCODERS = ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2 checkpoint_layers", "splade-tiny")


def peak() -> float:
    """The largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def step(form: str, name: str) -> None:
    if form == "theirs":
        return measure(form, name, *their_step(MODEL.with_name(name)))
    folder, _, option = name.partition(" ")
    encoder = SentenceTransformer(MODEL.with_name(folder), device="cpu").stack[0]
    encoder.checkpoint_layers = bool(option)
    head = MaskedLMHead({"model_type": "bert", "hidden_size": encoder.width, "vocab_size": encoder.vocab_size})
    draw(head, 0.02, 1)
    head.attach(encoder)
    lengths = torch.full((TEXTS,), LENGTH)
    packed = Packed.of(torch.randint(1000, 30000, (TEXTS * LENGTH,)), lengths)
    measure(form, name, head.bias, lambda: weights(form, head(encoder(packed)), packed))


def their_step(folder: Path) -> tuple[torch.nn.Parameter, Callable[[], torch.Tensor]]:
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # as our step has none
    model = BertForMaskedLM(BertConfig.from_pretrained(folder, **no_dropout)).train()  # of random weights
    ids = torch.randint(1000, 30000, (TEXTS, LENGTH))

    def compute() -> torch.Tensor:
        mask = torch.ones_like(ids)
        features = {"token_embeddings": model(ids, attention_mask=mask).logits, "attention_mask": mask}
        return TheirPooling("max").train()(features)["sentence_embedding"]

    return model.cls.predictions.bias, compute


def measure(form: str, name: str, bias: torch.nn.Parameter, compute: Callable[[], torch.Tensor]) -> None:
    with torch.no_grad():
        bias -= 1e4
        bias[::100] = 0  # these alone are active
    before = peak()
    taken = seconds(lambda: compute().square().sum().backward())
    print(f"{name}, {form}: {peak() - before:,.0f} MB, {taken:.1f} s")


def weights(form: str, words: torch.Tensor, packed: Packed) -> torch.Tensor:
    if form == "blocks":
        return SpladePooling()(words, packed)
    scores = torch.addmm(words.bias, words.x, words.weight.T).view(TEXTS, LENGTH, -1)
    features = {"token_embeddings": scores, "attention_mask": torch.ones(TEXTS, LENGTH)}
    return TheirPooling("max").train()(features)["sentence_embedding"]


def growth(model: SparseEncoder) -> None:
    texts = [" ".join(random.Random(i).choices(["sort", "list", "file", "open", "read"], k=490)) for i in range(3000)]
    for part in range(3):
        model.encode(texts[part * 1000 : part * 1000 + 1000], show_progress_bar=False)
        print(f"{(part + 1) * 1000:,} texts of about 490 tokens: {peak():,.0f} MB at most", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", choices=FORMS, help="one step, measured in this process")
    parser.add_argument("--encoder", choices=ENCODERS, default=ENCODERS[0])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.form:
        return step(args.form, args.encoder)
    print(f"a step of {TEXTS} texts of {LENGTH} tokens, beyond the weights:", flush=True)
    for name in ENCODERS:
        for form in FORMS[: 2 if " " in name else 3]:
            subprocess.run([sys.executable, __file__, f"--form={form}", f"--encoder={name}"], check=True)
    folder = MODEL.with_name("splade-tiny")
    ours, theirs = SparseEncoder(folder, device="cpu"), sentence_transformers.SparseEncoder(str(folder), device="cpu")
    growth(ours)
    texts = random.Random(0).sample(list(docstrings()), args.texts)
    a, b = ours.encode(texts), theirs.encode(texts)  # also the round that warms both up
    print(f"embeddings differ by {(a - b).coalesce().values().abs().max():.1e} at most")
    times = alternate(
        lambda: seconds(lambda: ours.encode(texts)), lambda: seconds(lambda: theirs.encode(texts)), args.rounds
    )
    print_table(f"encode {len(texts):,} texts, SPLADE-tiny, {torch.get_num_threads()} threads", {"float32": times})


if __name__ == "__main__":
    main()
