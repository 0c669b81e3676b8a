"""Pairs of sentences: a cross-encoder beside the embedding model it starts from, on SICK.

python tests/benchmarks/sick.py --data data/sick

Trained on SICK_train.txt, measured on SICK_trial.txt, all-MiniLM-L6-v2 in all four rows, same batches and epochs:
accuracy of the three classes by CrossEntropyLoss and by SoftmaxLoss, Spearman correlation with the relatedness by
BinaryCrossEntropyLoss (scores from 0 to 1) and by CoSENTLoss.
"""

import argparse
import io
import json
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from side_by_side import MODEL, processor

import train
from minist.data.rows import read_rows
from minist.evaluation.metrics import spearman
from minist.similarity import pairwise_cosine
from minist.training.run import Run, start_run

ROWS = ["CrossEntropyLoss", "SoftmaxLoss", "BinaryCrossEntropyLoss", "CoSENTLoss"]
CLASSES = ["CONTRADICTION", "ENTAILMENT", "NEUTRAL"]  # in alphabetical order, as they are numbered


def read(file: Path) -> list[dict]:
    """Pairs with the number of their class, and relatedness from 0 to 1 in place of 1 to 5."""
    rows = read_rows(file, ["sentence_A", "sentence_B", "relatedness_score", "entailment_judgment"], "tsv")
    return [
        {
            "text1": row["sentence_A"],
            "text2": row["sentence_B"],
            "class": CLASSES.index(row["entailment_judgment"]),
            "score": (float(row["relatedness_score"]) - 1) / 4,
        }
        for row in rows
    ]


def trained(rows: list[dict], kind: str, labels: int, label: str, loss: str, seed: int, epochs: int) -> Run:
    """train.py as it is: the run when it is through."""
    with tempfile.TemporaryDirectory() as folder:
        data, config = Path(folder) / "rows.jsonl", Path(folder) / "config.toml"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        config.write_text(
            f"""
            seed = {seed}
            output = "{folder}/run"
            [model]
            type = "{kind}"
            path = "{MODEL}"
            num_labels = {labels}
            max_length = 64
            [[data]]
            files = ["{data}"]
            columns = {{ text1 = "text1", text2 = "text2" }}
            label = "{label}"
            loss = {loss}
            [train]
            batch_size = 16
            epochs = {epochs}
            lr = 5e-5
            warmup = 0.1
            weight_decay = 0.01
            """,
            "utf-8",
        )
        runs: list[Run] = []
        keep = mock.patch("train.start_run", lambda *a, **k: runs.append(start_run(*a, **k)) or runs[0])
        args = argparse.Namespace(config=config, set=[], resume=False, overwrite=False, debug=True)
        with keep, redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the new head
            train.train(args)
    runs[0].trained.model.eval()
    return runs[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/sick"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--only", choices=ROWS, nargs="+", default=ROWS, help="these rows of the table")
    args = parser.parse_args()
    rows, held = read(args.data / "SICK_train.txt"), read(args.data / "SICK_trial.txt")
    pairs = [(row["text1"], row["text2"]) for row in held]
    classes, scores = np.array([row["class"] for row in held]), np.array([row["score"] for row in held])
    print(f"SICK: {len(rows):,} pairs to train on, {len(held):,} held out, {args.epochs} epochs; {processor()}")

    def show(name: str, loss: str, value: float, started: float) -> None:
        print(f"{name:22}{loss:26}{value:.4f}   {time.perf_counter() - started:.0f} s", flush=True)

    def embedded(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
        model = run.trained.model
        a, b = (model.embed([pair[i] for pair in pairs], "", 0, lambda n: None, None)[0] for i in (0, 1))
        return a, b

    options = (args.seed, args.epochs)

    def cross_entropy() -> float:
        run = trained(rows, "CrossEncoder", 3, "class", '"CrossEntropyLoss"', *options)
        return (run.trained.model.predict(pairs).argmax(1) == classes).mean()

    def softmax() -> float:
        loss = '{ name = "SoftmaxLoss", embedding_dimension = 384, num_labels = 3 }'
        run = trained(rows, "SentenceTransformer", 0, "class", loss, *options)
        logits = run.tasks[0].loss.logits(*embedded(run)).detach()
        return (logits.argmax(1).numpy() == classes).mean()

    def binary_cross_entropy() -> float:
        run = trained(rows, "CrossEncoder", 1, "score", '"BinaryCrossEntropyLoss"', *options)
        return spearman(scores, run.trained.model.predict(pairs))

    def cosent() -> float:
        run = trained(rows, "SentenceTransformer", 0, "score", '"CoSENTLoss"', *options)
        return spearman(scores, pairwise_cosine(*embedded(run)).numpy())

    measured = zip(ROWS, (cross_entropy, softmax, binary_cross_entropy, cosent), strict=True)
    for number, (name, measure) in enumerate(measured):
        if name in args.only:
            started = time.perf_counter()
            show("accuracy" if number < 2 else "Spearman", name, measure(), started)


if __name__ == "__main__":
    main()
