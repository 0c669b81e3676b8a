"""The run directory: config.toml, metrics.jsonl, checkpoint-<step>/, model/."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from minist.training.checkpoint import checkpoints
from minist.training.config import Config
from minist.training.tables import to_toml

MARKER = "config.toml"  # a folder that has it is a run, and may be overwritten when asked


def check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """ValueError if the run cannot start, or go on, in `output`."""
    if resume and not checkpoints(output):
        raise ValueError(f"{output} has no checkpoint to resume from: start without --resume")
    if output.exists() and not (resume or overwrite):
        raise ValueError(
            f"{output} exists: go on with --resume, start again with --overwrite, or choose another output"
        )
    if overwrite and output.exists() and not (output / MARKER).exists():
        raise ValueError(f"{output} has no {MARKER}, so it is no run and is not deleted: choose another output")


def open_run(output: Path, config: Config, step: int, overwrite: bool) -> None:
    """Create the directory and write the config; a run resumed after `step` drops the later metrics."""
    if overwrite:
        shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).write_text(to_toml(config), "utf-8")
    metrics = output / "metrics.jsonl"
    if metrics.exists():
        kept = [line for line in metrics.read_text("utf-8").splitlines() if _step(line) <= step]
        metrics.write_text("".join(f"{line}\n" for line in kept), "utf-8")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a run that was killed may have left half a line
        return math.inf


def log(output: Path, record: dict[str, Any]) -> None:
    """Append one line to metrics.jsonl."""
    with open(output / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
