"""Checkpoints: a model folder, and beside its files what training needs to go on.

<output>/checkpoint-<step>/    opens as a model
    training.pt                optimizer, parameters of the losses, gradient scaler
    run.json                   step, what the run is made of (seal.py), the best evaluation so far
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from minist.files import complete_folder, read_json, write_json
from minist.models.folder import write_folder
from minist.models.sentence_transformer import SentenceTransformer

STATE, RUN = "training.pt", "run.json"


class Trained(NamedTuple):
    """All that changes while training."""

    model: SentenceTransformer
    losses: nn.ModuleList
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_checkpoint(output: Path, trained: Trained, run: dict[str, Any], keep: int) -> None:
    """Write checkpoint-<step> with run["step"] steps done, and delete all but the last `keep`.

    ValueError if a weight is not finite: the checkpoints before stay as they are.
    """
    check_weights(trained.model, run["step"])
    with complete_folder(output / f"checkpoint-{run['step']}") as partial:
        write_folder(trained.model.content(), partial)
        state = {name: part.state_dict() for name, part in trained._asdict().items() if name != "model"}
        try:
            with open(partial / STATE, "wb") as stream:
                torch.save(state, stream)
        except RuntimeError as e:  # torch hides the OSError of a full disk behind its own
            raise OSError(f"{STATE} could not be written: {e.__context__ or e}") from e
        write_json(partial / RUN, run)
    for old in checkpoints(output)[:-keep]:
        shutil.rmtree(old)


def check_weights(model: SentenceTransformer, step: int) -> None:
    """ValueError if a weight is not finite after so many steps."""
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise ValueError(
                f"after step {step} the weight {name} is not finite, so it is not saved: try a lower learning rate"
            )


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints in a run directory, oldest first."""
    found = [path for path in output.glob("checkpoint-*") if (path / RUN).exists()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def read_run(folder: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `run`."""
    return read_json(folder / RUN)


def load_checkpoint(folder: Path, trained: Trained) -> None:
    """Restore all but the model, which is opened from the folder like any other."""
    state: dict[str, Any] = torch.load(folder / STATE, map_location=trained.model.device, weights_only=True)
    trained.losses.load_state_dict(state["losses"])
    trained.optimizer.load_state_dict(state["optimizer"])
    trained.scaler.load_state_dict(state["scaler"])
