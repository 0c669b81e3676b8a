"""Everything that a run needs before its first step, made from the config. What a config can get wrong shows here.

Only when all of it is there is the run directory touched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minist import distributed
from minist.data.batches import Batches
from minist.data.rows import read_texts
from minist.data.samplers import SAMPLERS
from minist.data.sources import prepare_source
from minist.encoders.encoder import Encoder
from minist.losses.base import Loss
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import Trained, checkpoints, load_checkpoint, read_run
from minist.training.compiling import compile_layers
from minist.training.config import Config
from minist.training.entries import make_evaluation, make_guides, make_loss, make_sets
from minist.training.evaluations import Evaluation
from minist.training.optimizer import make_optimizer
from minist.training.run_directory import check_output, open_run
from minist.training.scratch import new_model
from minist.training.seal import check_seal, make_seal
from minist.training.selection import Selection
from minist.training.training_set import TrainingSet
from minist.training.twins import make_twins

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Run:
    """The parts of a run; `done` steps are behind it."""

    config: Config
    output: Path
    device: torch.device
    say: Callable[[str], None]  # speaks on rank 0 only
    sets: list[TrainingSet]
    losses: list[Loss]  # one for each set
    evaluations: list[Evaluation]
    batches: Batches
    trained: Trained
    wrapped: nn.Module  # the same model, whose backward averages gradients over ranks
    seal: dict[str, Any]
    selection: Selection
    done: int = 0

    @property
    def autocast(self) -> torch.dtype | None:
        """The half type of forward and backward, if there is one."""
        return AUTOCAST[self.config.train.dtype]


def start_run(config: Config, *, resume: bool, overwrite: bool) -> Run:
    """Join the other ranks, and make every part. ValueError says what in the config cannot be."""
    rank, world, device = distributed.start()
    say: Callable[[str], None] = partial(print, flush=True) if rank == 0 else lambda text: None
    settings, output = config.train, Path(config.output)
    if rank == 0:
        check_output(output, resume, overwrite)
    for entry in config.data:
        if entry.source and distributed.is_leader():
            prepare_source(entry.source)
    distributed.barrier()
    checkpoint = checkpoints(output)[-1] if resume else None

    torch.manual_seed(config.seed)  # every rank draws the same weights
    own_losses = [make_loss(entry.where, entry.loss).to(device) for entry in config.data]
    model = SentenceTransformer(checkpoint) if checkpoint else make_model(config)
    model.to(device).set_dropout(*(None if p < 0 else p for p in (settings.dropout, settings.attention_dropout)))
    for module in model.modules():
        if isinstance(module, Encoder):
            module.checkpoint_layers = settings.checkpoint_layers
    guides = make_guides(config, device)
    sets = make_sets(config, own_losses, model, guides)
    batches = make_batches(config, sets)
    for entry, data in zip(config.data, sets, strict=True):
        say(f"data   {entry.name}, {data.dataset.describe()}")
    evaluations = [make_evaluation(config, entry, model, guides, sets, own_losses) for entry in config.eval]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    say(f"model  {millions:.1f} million parameters, {batches.total} steps, {world} x {device.type}")

    trained = make_trained(config, model, nn.ModuleList(own_losses), device)
    seal = make_seal(config, [data.dataset for data in sets], device)
    selection = Selection(settings.best, settings.patience)
    if settings.compile:
        compile_layers(model)
    # in three-phase steps gradients are averaged by hand, see gradcache.py
    wrapped = model if settings.mini_batch_tokens else distributed.wrap(model, has_routes=bool(model.routes))
    run = Run(config, output, device, say, sets, own_losses, evaluations, batches, trained, wrapped, seal, selection)
    if checkpoint:
        _go_on(run, checkpoint)
    distributed.barrier()
    if rank == 0:
        open_run(output, config, run.done, overwrite)
    return run


def _go_on(run: Run, checkpoint: Path) -> None:
    state = read_run(checkpoint)
    check_seal(run.seal, state["seal"], checkpoint)
    load_checkpoint(checkpoint, run.trained)
    run.selection.load(state["selection"])
    run.done = state["step"]


def make_model(config: Config) -> SentenceTransformer:
    """The model to start from: a saved one, or random weights and a vocabulary of the training texts."""
    start = config.model
    if start.path:
        model = SentenceTransformer(start.path, revision=start.revision or None, keep_layers=start.keep_layers or None)
        return make_twins(model) if start.twins else model
    texts = (
        text
        for entry in config.data
        for file in entry.paths()
        for row in read_texts(file, entry.columns)
        for text in row
    )
    return new_model(start, texts)


def make_batches(config: Config, sets: list[TrainingSet]) -> Batches:
    """The order of all batches of all sets."""
    settings = config.train
    samplers = [
        partial(
            SAMPLERS[entry.sampler],
            data.dataset.keys(),
            settings.batch_size,
            config.seed,
            drop_last=settings.drop_last,
        )
        for entry, data in zip(config.data, sets, strict=True)
    ]
    names = [entry.name for entry in config.data]
    return Batches(samplers, settings.mixing, config.seed, settings.epochs, settings.max_steps, names)


def make_trained(config: Config, model: SentenceTransformer, shelf: nn.ModuleList, device: torch.device) -> Trained:
    """Model and losses with what optimizes them."""
    settings = config.train
    own = [(f"loss.{config.data[int(name.split('.')[0])].name}.{name}", p) for name, p in shelf.named_parameters()]
    named = [*model.named_parameters(), *own]
    optimizer = make_optimizer(named, settings.lr, settings.weight_decay, settings.lr_for, settings.freeze)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.dtype == "float16")  # else small gradients become 0
    distributed.same_start(list(shelf.parameters()))
    return Trained(model, shelf, optimizer, scaler)
