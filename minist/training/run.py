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

from minist import distributed, losses
from minist.data.batches import Batches
from minist.data.prompts import resolve_prompts
from minist.data.rows import read_texts
from minist.data.samplers import SAMPLERS
from minist.data.sources import prepare_source
from minist.encoders.families import Encoder
from minist.losses.autoencoder import DenoisingAutoEncoderLoss
from minist.losses.base import Loss
from minist.models.hub import find_model
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import Trained, checkpoints, load_checkpoint, read_run
from minist.training.compiling import compile_layers
from minist.training.config import Config, DataConfig, EvalConfig
from minist.training.construct import make
from minist.training.evaluations import Evaluation, LossEvaluation, make_evaluator
from minist.training.guide import Guide
from minist.training.optimizer import make_optimizer
from minist.training.run_directory import check_output, open_run
from minist.training.scratch import new_model
from minist.training.seal import check_seal, make_seal
from minist.training.selection import Selection
from minist.training.tables import Table
from minist.training.token_step import attach_decoder
from minist.training.training_set import TrainingSet, check_roles, open_dataset
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
    own_losses = [make_loss(f"[[data]] {entry.name}", entry.loss).to(device) for entry in config.data]
    model = SentenceTransformer(checkpoint) if checkpoint else make_model(config)
    model.to(device).set_dropout(*(None if p < 0 else p for p in (settings.dropout, settings.attention_dropout)))
    for module in model.modules():
        if isinstance(module, Encoder):
            module.checkpoint_layers = settings.checkpoint_layers
    sets = [make_set(config, entry, model) for entry in config.data]
    add_guides(config, sets, own_losses, device)
    add_decoders(config, sets, own_losses, model)
    evaluations = [make_evaluation(config, entry, model) for entry in config.eval]
    batches = make_batches(config, sets)
    for entry, data, loss in zip(config.data, sets, own_losses, strict=True):
        say(f"data   {entry.name}, {data.dataset.describe()}")
        data.check(loss, model, settings.batch_size, f"[[data]] {entry.name}")
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


def make_loss(where: str, table: Table) -> Loss:
    """The loss that a table names."""
    loss = make(f"loss in {where}", table, losses, Loss)
    assert isinstance(loss, Loss)
    if any(isinstance(part, DenoisingAutoEncoderLoss) for part in loss.modules() if part is not loss):
        raise ValueError(
            f"config: the loss in {where}: DenoisingAutoEncoderLoss is no function of embeddings alone, so it cannot "
            "stand inside another loss; give it a [[data]] entry of its own"
        )
    return loss


def make_set(config: Config, entry: DataConfig, model: SentenceTransformer) -> TrainingSet:
    """A training set, tokenized once, with its transforms and its guide."""
    check_roles(model, entry.roles, list(entry.columns), f"[[data]] {entry.name}")
    prompts = make_prompts(config, entry)
    cache = Path(config.output).parent / "cache"
    dataset = open_dataset(entry.paths(), entry.columns, entry.label, model, entry.roles, prompts, cache)
    found = TrainingSet(dataset, entry.roles, model.device, seed=config.seed, pairs=entry.draw_pairs)
    for column, share in entry.delete_words.items():
        found.delete_words(column, share, model)
    return found


def make_prompts(config: Config, entry: DataConfig) -> dict[str, str]:
    """The prompt of each column of a set: its own, else those for all sets, which may name columns of any."""
    if entry.prompts:
        return resolve_prompts(entry.prompts, entry.name, [entry.name], list(entry.columns))
    names = [other.name for other in config.data]
    everywhere = dict.fromkeys(column for other in config.data for column in other.columns)
    prompts = resolve_prompts(config.train.prompts, entry.name, names, list(everywhere))
    return {column: prompts[column] for column in entry.columns}


def add_guides(config: Config, sets: list[TrainingSet], own_losses: list[Loss], device: torch.device) -> None:
    """Give each set whose loss wants one its guide or teacher. ValueError if the config names none."""
    tables = {"guide": config.guide, "teacher": config.teacher}
    models: dict[str, SentenceTransformer] = {}
    for entry, data, loss in zip(config.data, sets, own_losses, strict=True):
        if not loss.guide or (loss.guide == "teacher" and entry.label):
            continue  # a teacher's embeddings may come as labels too
        table = tables[loss.guide]
        if not table.model:
            raise ValueError(f'config: {entry.loss["name"]} needs a {loss.guide}: write [{loss.guide}] model = ".."')
        if entry.draw_pairs:
            raise ValueError(f"config: draw_pairs in [[data]] {entry.name} does not go with a {loss.guide}")
        if loss.guide not in models:
            models[loss.guide] = SentenceTransformer(table.model, revision=table.revision or None, device=device)
        data.guide = make_guide(config, entry, models[loss.guide])
        if table.cache:
            data.guide.keep_on_disk(data.guide.dataset.folder)


def add_decoders(config: Config, sets: list[TrainingSet], own_losses: list[Loss], model: SentenceTransformer) -> None:
    """Give each loss that writes texts its decoder, made of the model's encoder."""
    start = config.model
    for data, loss in zip(sets, own_losses, strict=True):
        if isinstance(loss, DenoisingAutoEncoderLoss):
            folder = find_model(start.path, start.revision or None) if start.path else None
            attach_decoder(loss, model, data.roles, folder)


def make_guide(config: Config, entry: DataConfig, model: SentenceTransformer) -> Guide:
    """The texts of a set once more, by the tokenizer, prompts and routes of another model."""
    roles = {name: role for name, role in entry.roles.items() if not model.routes or role in model.routes}
    prompts = {name: model.role_prompt(role) for name, role in roles.items() if role in ("query", "document")}
    default = model.find_prompt(None, None)
    prompts = {name: prompts.get(name, default) for name in entry.columns}
    cache = Path(config.output).parent / "cache"
    dataset = open_dataset(entry.paths(), entry.columns, "", model, roles, prompts, cache)
    return Guide(model, dataset, [roles.get(name) for name in dataset.names])


def make_evaluation(config: Config, entry: EvalConfig, model: SentenceTransformer) -> Evaluation:
    """An evaluator, or the mean of a loss over a data set."""
    if entry.evaluator:
        return make_evaluator(entry)
    where = f"[[eval]] {entry.name}"
    check_roles(model, entry.roles, list(entry.columns), where)
    if not entry.files:
        raise ValueError(f"config: {where} has no files")
    loss = make_loss(where, entry.loss).to(model.device)
    if isinstance(loss, DenoisingAutoEncoderLoss):
        raise ValueError(
            f"config: the loss in {where}: the decoder of DenoisingAutoEncoderLoss is trained, and one made here "
            "would not be; use an evaluator, or another loss"
        )
    prompts = resolve_prompts(entry.prompts or config.train.prompts, entry.name, [entry.name], list(entry.columns))
    cache = Path(config.output).parent / "cache"
    files = [Path(file) for file in entry.files]
    dataset = open_dataset(files, entry.columns, entry.label, model, entry.roles, prompts, cache)
    data = TrainingSet(dataset, entry.roles, model.device)
    data.check(loss, model, config.train.batch_size, where)
    return LossEvaluation(entry.name, loss, data, config.train.batch_size)


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
