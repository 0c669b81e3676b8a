"""Everything that a run needs before its first step, made from the config: what a config can get wrong shows here."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minist import collectives, distributed
from minist.data.samplers import SAMPLERS, Batches
from minist.data.sources import prepare_source
from minist.models import open_model
from minist.models.device import total_memory
from minist.models.text_model import TextModel
from minist.sharding import shard
from minist.training import checkpoint as saved
from minist.training.config import DTYPES, Config
from minist.training.entries import make_evaluation, make_guides, make_tasks
from minist.training.evaluations import Evaluation, Say
from minist.training.examples import Examples
from minist.training.optimizer import make_optimizer
from minist.training.selection import Selection
from minist.training.sizes import sized
from minist.training.start import make_model
from minist.training.step import Setup
from minist.training.task import Task


@dataclass
class Run:
    """The parts of a run; `done` steps are behind it."""

    config: Config
    output: Path
    device: torch.device
    say: Say
    tasks: list[Task]
    evaluations: list[Evaluation]  # one for each [[eval]]
    measured: list[Evaluation]  # the same, at all their sizes
    examples: Examples
    batches: Batches  # their `dataset` is the number of a task
    trained: saved.Trained
    setup: Setup
    seal: dict[str, Any]
    selection: Selection
    done: int = 0

    def is_time(self, every: int) -> bool:
        return every > 0 and self.done % every == 0  # 0 is never


def start_run(config: Config, *, resume: bool, overwrite: bool) -> Run:
    """Join the other ranks, and make every part. ValueError says what in the config cannot be."""
    rank, _, device = distributed.start()
    say: Say = partial(print, flush=True) if rank == 0 else lambda text: None
    settings, output = config.train, Path(config.output)
    if rank == 0:
        saved.check_output(output, resume, overwrite)
    for source in [entry.source for entry in config.data if entry.source]:
        distributed.prepare_once(Path("data") / source / "train.jsonl", partial(prepare_source, source))
    distributed.barrier()  # rank 0 may have said no
    checkpoint = saved.checkpoints(output)[-1] if resume else None

    torch.manual_seed(config.seed)  # every rank draws the same weights
    model = open_model(checkpoint, config.model.type) if checkpoint else make_model(config)
    set_dropout(model.to(device), settings.dropout, settings.attention_dropout)
    for encoder in model.encoders:
        encoder.checkpoint_layers = settings.checkpoint_layers
    guides = make_guides(config, device)
    torch.manual_seed(config.seed)  # the weights of losses do not depend on what the model has drawn
    tasks = make_tasks(config, model, guides)
    samplers = []
    for entry, task in zip(config.data, tasks, strict=True):
        sampler, keys = SAMPLERS[entry.sampler], task.rows.dataset.keys()
        samplers.append(partial(sampler, keys, settings.batch_size, config.seed, drop_last=settings.drop_last))
    names, length = [task.name for task in tasks], (settings.epochs, settings.max_steps)
    batches = Batches(samplers, settings.mixing, config.seed, *length, names)
    evaluations = [make_evaluation(config, entry, model, guides, tasks) for entry in config.eval]
    fsdp = settings.fsdp and distributed.world_size() > 1
    trained = make_trained(config, model, tasks, fsdp)
    # gradients of mini-batches are averaged at the end, by hand; those in shares as they are made
    wrapped = model if fsdp or settings.mini_batch_tokens else collectives.wrap(model, has_routes=bool(model.routes))
    setup = Setup(model, wrapped, trained.scaler, DTYPES[settings.dtype], settings.mini_batch_tokens, fsdp)
    seal = saved.make_seal(config, [task.rows.dataset for task in tasks], device)
    selection = Selection(settings.best, settings.patience)
    made = evaluations, sized(config.eval, evaluations, model), Examples(config, evaluations)
    run = Run(config, output, device, say, tasks, *made, batches, trained, setup, seal, selection)
    introduce(run)
    if checkpoint:
        go_on(run, checkpoint)
    return run


def introduce(run: Run) -> None:
    """Say what the run is made of, and what of its files it does not use."""
    for i, (task, entry) in enumerate(zip(run.tasks, run.config.data, strict=True)):
        run.say(f"data   {task.name}, {task.rows.dataset.describe()}")
        # a shuffle leaves out none but by drop_last, and to count its rows would be to draw them
        if entry.sampler != "shuffled" and (out := len(task.rows.dataset) - run.batches.rows(i)):
            run.say(f"note   {task.name}: {out:,} rows left out: {entry.sampler} finds no place for them in an epoch")
        prompts = [prompt for prompt in run.trained.model.prompts.values() if prompt]
        if prompts and not (entry.prompts or run.config.train.prompts):
            run.say(f"note   {task.name}: no prompts in [train], so it learns without the model's {prompts[0]!r}")
    for name, evaluation in zip((entry.name for entry in run.config.eval), run.evaluations, strict=True):
        match evaluation:  # what its files lack; a class of a user's own need not say
            case object(note=str(note)) if note:
                run.say(f"note   {name}: {note}")
    millions, world = sum(p.numel() for p in run.trained.model.parameters()) / 1e6, distributed.world_size()
    run.say(f"model  {millions:.1f} million parameters, {run.batches.total} steps, {world} x {run.device.type}")
    if run.config.train.fsdp:
        each = f"each of {world} holds a share of weights, gradients and optimizer state"
        run.say(f"fsdp   {each if run.setup.fsdp else 'there is one process: all weights are its own'}")
    if run.trained.model.is_adapted:
        trained = sum(p.numel() for group in run.trained.optimizer.param_groups for p in group["params"])
        # AdamW keeps two numbers of four bytes for each that it trains
        state = f"{8e-6 * trained:,.1f} MB instead of {8 * millions:,.0f} MB"
        run.say(f"lora   {trained:,} of {millions:.1f} million parameters are trained, optimizer state {state}")
    if run.trained.model.gives == "sparse":
        check_memory(run)


def check_memory(run: Run) -> None:
    """Every rank has the embeddings of all, which are as wide as a vocabulary. ValueError if they cannot fit."""
    width, rows = run.trained.model.width, run.config.train.batch_size
    texts = max(rows * len(task.rows.names) for task in run.tasks)  # or more, where cells are lists
    size, whole = 2 * 4 * texts * width, total_memory(run.device)  # float32, and as much for their gradient
    what = f"{texts:,} embeddings of {width:,} numbers in a batch, and gradients"
    run.say(f"memory {what}: {size / 2**20:,.0f} MB a rank")
    if size > whole:
        wanted = f"{size / 2**30:,.0f} GB, {run.device} has {whole / 2**30:,.0f} GB"
        raise ValueError(f"config: batch_size in [train] is {rows}: the embeddings take {wanted}; make it smaller")


def set_dropout(model: nn.Module, hidden: float, attention: float) -> None:
    """Change the probabilities; one below 0 stays as the encoder's config says."""
    for name, part in model.named_modules():
        wanted = attention if name.endswith("attention_dropout") else hidden
        if isinstance(part, nn.Dropout) and wanted >= 0 and ".lora." not in name:  # which has its own in [model.lora]
            part.p = wanted


def go_on(run: Run, checkpoint: Path) -> None:
    state = saved.read_run(checkpoint)
    for note in saved.check_seal(run.seal, state["seal"], checkpoint):
        run.say(f"note   {note}")
    saved.load_checkpoint(checkpoint, run.trained)
    run.selection.load(state["selection"])
    run.done = state["step"]
    if run.done > run.batches.total:
        raise ValueError(f"--resume: {checkpoint} is behind the {run.batches.total} steps of this run: give it more")


def make_trained(config: Config, model: TextModel, tasks: list[Task], fsdp: bool) -> saved.Trained:
    settings, shelf = config.train, nn.ModuleList(task.loss for task in tasks)
    # a loss may have drawn its weights, or the model been elsewhere
    collectives.same_start([*model.parameters(), *shelf.parameters()])
    if fsdp:
        # a loss over tokens may use parts of a layer, so there all weights are gathered together
        alone = [] if any(task.loss.over_tokens for task in tasks) else model.encoders
        shard(model.stack, [layer for encoder in alone for layer in encoder.layers])
    named = list(model.named_parameters())
    for i, task in enumerate(tasks):
        named += [(f"loss.{task.name}.{i}.{name}", p) for name, p in task.loss.named_parameters()]
    optimizer = make_optimizer(named, settings.lr, settings.weight_decay, settings.lr_for, settings.freeze)
    # else small gradients become 0
    scaler = torch.amp.GradScaler(model.device.type, enabled=settings.dtype == "float16")
    return saved.Trained(model, shelf, optimizer, scaler)
