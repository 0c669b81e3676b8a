"""Training speed beside sentence-transformers: all-MiniLM-L6-v2 on (summary, body) pairs of docstrings.

python tests/benchmarks/train_speed.py

MultipleNegativesRankingLoss, batches of 32 pairs, AdamW, fp32, dropout 0.1 in hidden layers and attention
on both sides, one epoch over the same pairs. Counted for sentence-transformers is `trainer.train()`, which
tokenizes each batch as it comes; for minist it is all of train.py from the config file on: it reads and
tokenizes the jsonl, trains, and writes the model. Imports and loading of the model count for neither.
"""

import argparse
import io
import json
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import torch
from side_by_side import MODEL, alternate, docstrings, print_table, seconds

import minist
import train

BATCH, LR, DROPOUT = 32, 2e-5, 0.1


def some_pairs(count: int) -> list[tuple[str, str]]:
    """(summary, body) of docstrings."""
    parts = (text.partition("\n\n") for text in docstrings())
    pairs = [(summary, body) for summary, _, body in parts if body][:count]
    assert len(pairs) == count, "there are fewer docstrings: take fewer steps"
    return pairs


def run_ours(pairs: list[tuple[str, str]], dtype: str = "float32") -> float:
    """train.py as it is, but for the model, which is loaded before the clock starts."""
    with tempfile.TemporaryDirectory() as folder:  # a fresh one, so that no tokens of an earlier round are found
        data, config = Path(folder) / "pairs.jsonl", Path(folder) / "config.toml"
        data.write_text("".join(json.dumps({"summary": a, "body": b}) + "\n" for a, b in pairs), "utf-8")
        config.write_text(
            f"""
            output = "{folder}/run"
            [model]
            path = "{MODEL}"
            [[data]]
            files = ["{data}"]
            columns = {{ anchor = "summary", positive = "body" }}
            loss = {{ name = "MultipleNegativesRankingLoss" }}
            [train]
            batch_size = {BATCH}
            lr = {LR}
            dtype = "{dtype}"
            dropout = {DROPOUT}
            attention_dropout = {DROPOUT}
            """,
            "utf-8",
        )
        model = minist.SentenceTransformer(MODEL)
        args = argparse.Namespace(config=config, set=[], resume=False, overwrite=False, debug=True)
        with mock.patch("minist.training.run.make_model", lambda config: model), redirect_stdout(io.StringIO()):
            return seconds(lambda: train.train(args))


def run_theirs(pairs: list[tuple[str, str]], dtype: str = "float32") -> float:
    """The real trainer, with nothing on but training."""
    import sentence_transformers  # here, so that a process that measures minist's memory is without it
    from datasets import Dataset
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    dropout = {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    model = sentence_transformers.SentenceTransformer(str(MODEL), config_kwargs=dropout)
    with tempfile.TemporaryDirectory() as folder:
        trainer = sentence_transformers.SentenceTransformerTrainer(
            model=model,
            args=sentence_transformers.SentenceTransformerTrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                learning_rate=LR,
                bf16=dtype == "bfloat16",
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs]}),
            loss=MultipleNegativesRankingLoss(model),
        )
        with redirect_stdout(io.StringIO()):
            return seconds(trainer.train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    pairs = some_pairs(args.steps * BATCH)
    warm_up = pairs[:BATCH]
    run_ours(warm_up), run_theirs(warm_up)
    times = alternate(lambda: run_ours(pairs), lambda: run_theirs(pairs), args.rounds)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    title = f"train: {args.steps} steps of {BATCH} pairs, {device}, {torch.get_num_threads()} threads"
    print_table(title, {"float32": times})


if __name__ == "__main__":
    main()
