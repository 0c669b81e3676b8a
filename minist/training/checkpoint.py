"""Checkpoints: a model folder, and beside its files what training needs to go on.

<output>/checkpoint-<step>/    opens as a model; training.pt holds optimizer, loss parameters, step
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minist.files import complete_folder
from minist.models.folder import load_folder, write_folder
from minist.models.sentence_transformer import SentenceTransformer

STATE = "training.pt"


def save_checkpoint(
    output: Path, step: int, model: SentenceTransformer, loss: nn.Module, optimizer: torch.optim.Optimizer, keep: int
) -> None:
    """Write checkpoint-<step> after `step` steps, and delete all but the last `keep`."""
    with complete_folder(output / f"checkpoint-{step}", marker=STATE) as partial:
        write_folder(model.content(), partial)
        state = {"step": step, "optimizer": optimizer.state_dict(), "loss": loss.state_dict()}
        try:
            with open(partial / STATE, "wb") as stream:
                torch.save(state, stream)
        except RuntimeError as e:  # torch hides the OSError of a full disk behind its own
            raise OSError(f"{STATE} could not be written: {e.__context__ or e}") from e
    for old in checkpoints(output)[:-keep]:
        shutil.rmtree(old)


def checkpoints(output: Path) -> list[Path]:
    """The complete checkpoints in a run directory, oldest first."""
    found = [path for path in output.glob("checkpoint-*") if (path / STATE).exists()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def load_checkpoint(folder: Path, model: SentenceTransformer, loss: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore everything in place; returns the number of steps that were done."""
    for module, saved in zip(model.stack, load_folder(folder).stack, strict=True):
        module.load_state_dict(saved.state_dict())
    state: dict[str, Any] = torch.load(folder / STATE, map_location=model.device, weights_only=True)
    loss.load_state_dict(state["loss"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
