"""The run directory, its checkpoints, and the seal by which a run that goes on is still the same run.

<output>/config.toml           the whole config, defaults written out
<output>/about.json            of what the run is made, for a reader, see about.py
<output>/metrics.jsonl         a line for each figure that was shown
<output>/examples.json         what some queries find, see examples.py
<output>/report.html           all of this as a page, see report.py
<output>/checkpoint-<step>/    opens as a model
    training.pt                optimizer, parameters of the losses, gradient scaler
    run.json                   step, seal, the best evaluation so far
<output>/best/, model/         the best of the evaluated models, where one is asked for; the final one"""

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from minist import distributed
from minist.data.dataset import Dataset
from minist.files import complete_file, complete_folder, read_json, write_json
from minist.models.saving import write_folder
from minist.models.text_model import TextModel
from minist.sharding import gathered, shared_like, whole
from minist.training.config import Config
from minist.training.construct import to_toml

STATE, RUN, METRICS = "training.pt", "run.json", "metrics.jsonl"
MARKER = "config.toml"  # a folder that has it is a run, and may be overwritten when asked


def check_output(output: Path, resume: bool, overwrite: bool) -> None:
    if resume and not checkpoints(output):
        wrong = "has no checkpoint to resume from: start without --resume"
    elif output.exists() and not (resume or overwrite):
        wrong = "exists: go on with --resume, start again with --overwrite, or choose another output"
    elif overwrite and output.exists() and not (output / MARKER).exists():
        wrong = f"has no {MARKER}, so it is no run and is not deleted: choose another output"
    else:
        return
    raise ValueError(f"{output} {wrong}")


def open_run(output: Path, config: Config, step: int, overwrite: bool) -> None:
    """Create the directory and write the config; a run resumed after `step` drops the later metrics."""
    output.mkdir(parents=True, exist_ok=True)
    for path in output.iterdir() if overwrite else ():  # and not the folder itself, which may be a link to one
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with complete_file(output / MARKER) as partial:
        partial.write_text(to_toml(asdict(config)), "utf-8")
    lines = (output / METRICS).read_text("utf-8").splitlines(keepends=True) if (output / METRICS).exists() else []
    whole = [line for line in lines if line.endswith("}\n")]  # a run that was killed may have left half a line
    (output / METRICS).write_text("".join(line for line in whole if json.loads(line)["step"] <= step), "utf-8")


def log(output: Path, record: dict[str, Any]) -> None:
    with open(output / METRICS, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")


class Trained(NamedTuple):
    """What changes from step to step."""

    model: TextModel
    losses: nn.ModuleList
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_checkpoint(output: Path, trained: Trained, run: dict[str, Any], keep: int) -> None:
    """Write checkpoint-<step> with run["step"] steps done, and delete all but the last `keep`. All ranks call it, since
    each may hold a share; the first one writes."""
    with whole(trained.model):
        check_weights(trained.model, run["step"])  # first: else a good checkpoint would make room for a useless one
        state = {name: part.state_dict() for name, part in trained._asdict().items() if name != "model"}
        state["optimizer"]["state"] = {i: _whole_state(own) for i, own in state["optimizer"]["state"].items()}
        if distributed.rank() == 0:
            _write(output, trained.model, state, run)
            for old in checkpoints(output)[:-keep]:
                shutil.rmtree(old)
    distributed.barrier()  # writing takes any time


def _whole_state(own: Mapping[str, Any]) -> dict[str, Any]:
    """What the optimizer knows of a parameter, as one process would have it; in the first rank's memory alone."""
    found = {name: gathered(x) for name, x in own.items()}
    return found if distributed.rank() == 0 else {}


def _write(output: Path, model: TextModel, state: dict[str, Any], run: dict[str, Any]) -> None:
    with complete_folder(output / f"checkpoint-{run['step']}") as partial:
        write_folder(model.content(), partial)
        try:
            with open(partial / STATE, "wb") as stream:
                torch.save(state, stream)
        except RuntimeError as e:  # torch hides the OSError of a full disk behind its own
            raise OSError(f"{STATE} could not be written: {e.__context__ or e}") from e
        write_json(partial / RUN, run)


def check_weights(model: TextModel, step: int) -> None:
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            what = f"after step {step} the weight {name} is not finite"
            raise ValueError(f"{what}, so it is not saved: try a lower learning rate")


def checkpoints(output: Path) -> list[Path]:
    found = [path for path in output.glob("checkpoint-*") if path.name[11:].isdecimal() and (path / RUN).exists()]
    return sorted(found, key=lambda path: int(path.name[11:]))


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """ValueError for whatever goes wrong with a checkpoint's state: it may be cut short, or be another run's."""
    try:
        yield
    except (AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as e:
        reason = str(e).partition("\n")[0].partition(". ")[0]  # torch goes on for a page
        what = f"{STATE} or {RUN} is damaged or of another run ({type(e).__name__}: {reason})"
        raise ValueError(f"{folder}: {what}; delete that folder to go on from the checkpoint before") from e


def load_checkpoint(folder: Path, trained: Trained) -> None:
    """Restore all but the model, which is opened from the folder like any other."""
    with reading(folder):
        state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        trained.losses.load_state_dict(state["losses"])
        parameters = [p for group in trained.optimizer.param_groups for p in group["params"]]
        for i, own in state["optimizer"]["state"].items():
            own |= {name: shared_like(parameters[i], x) for name, x in own.items()}
        trained.optimizer.load_state_dict(state["optimizer"])
        trained.scaler.load_state_dict(state["scaler"])


def read_run(folder: Path) -> dict[str, Any]:
    with reading(folder):
        run: dict[str, Any] = read_json(folder / RUN)
        return run | {"step": int(run["step"]), "seal": dict(run["seal"]), "selection": dict(run["selection"])}


# The seal: a step's random numbers come from (seed, step, rank), no generator's state is kept, and the same seed, data,
# settings, ranks and threads give the same bits; on a GPU to rounding, since some of its sums have no fixed order.

FREE = ("output", "expect", "train.log_every", "train.save_every", "train.keep")  # no weight depends on them
MEASURING = ("eval", "train.eval_every")  # nor on these, unless the final model is chosen by them
LENGTH = ("train.epochs", "train.max_steps")  # a run may be made longer
THREADS = "the number of threads"


def make_seal(config: Config, datasets: Sequence[Dataset], device: torch.device) -> dict[str, Any]:
    """Name -> value of all that decides about the numbers of a run."""
    free = FREE if config.train.best else FREE + MEASURING  # `best` and `patience` let evaluations decide
    table = {key: value for key, value in _flat(asdict(config), "").items() if key not in free}
    hashes = [Path(dataset.folder).name for dataset in datasets]  # of texts, tokenizer, prompts and labels
    made_of = {f"the data of {entry.name}": hashed for entry, hashed in zip(config.data, hashes, strict=True)}
    machine = {"the number of ranks": distributed.world_size(), THREADS: torch.get_num_threads()}
    return table | made_of | machine | {"the device": device.type}


def _flat(table: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, dict) and prefix + key not in FREE
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def check_seal(now: Mapping[str, Any], before: Mapping[str, Any], checkpoint: Path) -> list[str]:
    """What may differ in the run to go on, and does, in words; ValueError names the first thing that may not."""
    defaults = _flat(asdict(Config()), "")  # of a setting that was not there yet when the checkpoint was made
    before = {key: defaults[key] for key in now if key in defaults} | dict(before)
    other = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    for key in [key for key in other if key not in (*LENGTH, THREADS)]:
        what = f"{key} is {now.get(key)!r}, but {checkpoint} was made with {before.get(key)!r}"
        raise ValueError(f"--resume: {what}: give the same, or start a new run in another output")
    notes = [f"{key} is {now[key]}, it was {before[key]}" for key in other]
    if set(other) & set(LENGTH):
        notes.append("the learning rate follows the new number of steps from here on")
    return [*notes, "the last bits of numbers may differ"] if THREADS in other else notes
