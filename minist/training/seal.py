"""What a run is made of, so that one that goes on is still the same run.

Each step's random numbers come from (seed, step, rank), so no state of a generator need be kept: the same seed, data,
settings, number of ranks and threads give the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minist import distributed
from minist.data.dataset import Dataset
from minist.training.config import Config

FREE = ("log_every", "save_every", "keep")  # settings that may change at --resume: no number depends on them


def make_seal(config: Config, datasets: Sequence[Dataset], device: torch.device) -> dict[str, Any]:
    """Name -> value of all that decides about the numbers of a run."""
    table = asdict(config)
    for key in ("output", "expect"):
        del table[key]
    for key in FREE:
        del table["train"][key]
    made_of = {
        f"the data of {entry.name}": Path(dataset.folder).name  # a hash of texts, tokenizer, prompts and labels
        for entry, dataset in zip(config.data, datasets, strict=True)
    }
    ranks = {"the number of ranks": distributed.world_size(), "the number of threads": torch.get_num_threads()}
    return _flat(table, "") | made_of | ranks | {"the device": device.type}


def _flat(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def check_seal(now: Mapping[str, Any], before: Mapping[str, Any], checkpoint: Path) -> None:
    """ValueError names the first thing in which the run to go on differs."""
    other = [key for key in [*before, *now] if before.get(key) != now.get(key)]
    if other:
        was, given = before.get(other[0]), now.get(other[0])
        raise ValueError(
            f"--resume: {other[0]} is {given!r}, but {checkpoint} was made with {was!r}, and would go on as another "
            "run: give the same, or start a new one in another output"
        )
