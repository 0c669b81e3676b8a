"""What many tests share: a tiny model, some texts, and the scripts run inside this process."""

import io
import json
import random
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import torch

from minist.models.sentence_transformer import SentenceTransformer
from minist.training.config import ModelConfig, PoolingConfig, TokenizerConfig
from minist.training.start import new_model

ROOT = Path(__file__).parents[1]
# what people read: README.md of the project, of each package, of the benchmarks; and examples beside them
GUIDES = [ROOT / "README.md", *sorted((ROOT / "minist").rglob("*.md")), *sorted((ROOT / "tests").glob("*/README.md"))]
WORDS = "read write sort file list number thread wait socket date time parse text line byte key value open".split()  # noqa: SIM905
ENCODER = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 34,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,  # large enough that texts differ
}

# the same in a config
FROM_SCRATCH = f"""[model.encoder]
{chr(10).join(f"{key} = {json.dumps(value)}" for key, value in ENCODER.items())}
[model.tokenizer]
vocab_size = 200
max_length = 32"""


def sentences(n, seed=0, longest=9):
    """n texts of 1 to `longest` words, the same for the same seed."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(n)]


def tiny_model(seed=0, mode="mean", encoder=None) -> SentenceTransformer:
    """A model with random weights, in eval mode; `encoder` changes fields of its config."""
    torch.manual_seed(seed)
    tokenizer = TokenizerConfig(vocab_size=200, max_length=32)
    config = ModelConfig(encoder=ENCODER | (encoder or {}), tokenizer=tokenizer, pooling=PoolingConfig(mode))
    return new_model(config, sentences(100)).eval()


def write_jsonl(file, rows):
    """One JSON object per line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def run_script(script, *arguments):
    """Run encode.py or train.py here, as if from a shell: (exit code, stdout, stderr). A traceback fails the test."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = [script, *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as exit_:
            code = exit_.code or 0
    return code, out.getvalue(), err.getvalue()
