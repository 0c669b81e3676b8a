"""The benchmarks run, at sizes too small to say anything; but for encode_scale.py, whose sizes are fixed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from models import real_model

ROOT = Path(__file__).parents[2]


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("script", "sizes"),
    [
        ("cold_start", "--rounds 1"),
        ("peers", "--work encode search --texts 8 --rounds 1 --documents 1000"),
        ("loss_memory", "--rows 300 --width 8"),
        ("gpu_check", "--only pooling"),
        ("old_and_new", f"{ROOT} --rounds 1 --texts 8 --batch-size 4 --steps 2"),
        ("second_start", "--rows 200"),
        ("semantic_search", "--documents 3000 --queries 5 --rounds 1"),
        ("clustering", "--rows 600 --rounds 1 --max-pairs 100"),
        ("sparse_index", "--documents 300 --queries 2"),
        ("splade", "--form blocks --encoder splade-tiny"),
        ("train_memory", "--small 2 --large 4"),
        ("train_ranks", "--rounds 1 --batch-size 4 --steps 2"),
        ("train_speed", "--rounds 1 --steps 1"),
    ],
)
def test_runs(script, sizes):
    real_model("all-MiniLM-L6-v2")  # which most of them use
    command = [sys.executable, str(ROOT / f"tests/benchmarks/{script}.py"), *sizes.split()]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
