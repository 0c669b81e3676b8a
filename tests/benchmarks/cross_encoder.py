"""A cross-encoder beside sentence-transformers: ranking, and training on lists, all-MiniLM-L6-v2 with a new head.

python tests/benchmarks/cross_encoder.py

rank: one query with 1,000 docstrings as they are, cut at 256 tokens, fp32. train: rows of a query and 8 docstrings,
batches of 16 rows, LambdaLoss, AdamW, fp32, dropout 0.1 on both sides. Counted is `trainer.train()` there, and here
all of train.py from the config file on, as in train_speed.py. Loading of the model counts for neither.
"""

import argparse
import io
import json
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from side_by_side import MODEL, alternate, docstrings, print_table, seconds

import train
from minist import CrossEncoder

BATCH, LISTED, MAX_LENGTH, LR = 16, 8, 256, 2e-5


def our_model(folder: Path, dtype: str = "float32") -> CrossEncoder:
    """MiniLM with a new head, saved once so that both sides open the same weights."""
    if not folder.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            CrossEncoder(MODEL, num_labels=1, max_length=MAX_LENGTH).save(folder)
    return CrossEncoder(folder, device="cpu", dtype=dtype)


def their_model(folder: Path) -> Any:
    import sentence_transformers  # here, so that a process that measures minist's memory is without it

    return sentence_transformers.CrossEncoder(str(folder), max_length=MAX_LENGTH, device="cpu")


def rows_of(texts: list[str], count: int) -> list[dict]:
    """Each has a summary, its own body and seven others."""
    parts = [(a, b) for a, _, b in (text.partition("\n\n") for text in texts) if b][: count * LISTED]
    assert len(parts) == count * LISTED, "there are fewer docstrings: take fewer steps"
    groups = [parts[i : i + LISTED] for i in range(0, len(parts), LISTED)]
    labels = [1.0] + [0.0] * (LISTED - 1)
    return [{"query": g[0][0], "docs": [b for _, b in g], "labels": labels} for g in groups]


def train_ours(rows: list[dict], model: CrossEncoder) -> float:
    with tempfile.TemporaryDirectory() as folder:
        data, config = Path(folder) / "rows.jsonl", Path(folder) / "config.toml"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        config.write_text(
            f"""
            output = "{folder}/run"
            [model]
            path = "{MODEL}"
            [[data]]
            files = ["{data}"]
            columns = {{ query = "query", docs = "docs" }}
            label = "labels"
            loss = "LambdaLoss"
            [train]
            batch_size = {BATCH}
            lr = {LR}
            dropout = 0.1
            attention_dropout = 0.1
            """,
            "utf-8",
        )
        args = argparse.Namespace(config=config, set=[], resume=False, overwrite=False, debug=True)
        with mock.patch("minist.training.run.make_model", lambda config: model), redirect_stdout(io.StringIO()):
            return seconds(lambda: train.train(args))


def train_theirs(rows: list[dict], model: Any) -> float:
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    with tempfile.TemporaryDirectory() as folder:
        trainer = CrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                learning_rate=LR,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            loss=LambdaLoss(model),
        )
        with redirect_stdout(io.StringIO()):
            return seconds(trainer.train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    texts = list(docstrings())
    documents, query = texts[:1000], "read a csv file and return its rows"
    rows = rows_of(texts, args.steps * BATCH)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        ours, theirs = our_model(place), their_model(place)
        ours_found, theirs_found = (
            {hit["corpus_id"]: hit["score"] for hit in model.rank(query, documents[:64])} for model in (ours, theirs)
        )
        worst = max(abs(ours_found[i] - theirs_found[i]) for i in ours_found)
        print(f"scores of 64 documents differ by at most {worst:.1e}")
        ranked = alternate(
            lambda: seconds(lambda: ours.rank(query, documents)),
            lambda: seconds(lambda: theirs.rank(query, documents)),
            args.rounds,
        )
        trained = alternate(
            lambda: train_ours(rows, our_model(place)), lambda: train_theirs(rows, their_model(place)), args.rounds
        )
    tokens = [len(e) for e in ours.tokenizer.backend.encode_batch([(query, d) for d in documents])]
    print(
        f"pairs of {np.mean(tokens):.0f} tokens in the mean, {max(tokens)} at most, {torch.get_num_threads()} threads"
    )
    print_table("a cross-encoder, fp32", {"rank 1,000": ranked, f"{args.steps} steps": trained})


if __name__ == "__main__":
    main()
