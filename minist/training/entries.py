"""What the [[data]] and [[eval]] entries of a config become: training sets with their losses, and evaluations."""

from collections.abc import Sequence
from pathlib import Path

import torch

from minist import losses
from minist.data.prompts import resolve_prompts
from minist.losses.autoencoder import DenoisingAutoEncoderLoss
from minist.losses.base import Loss
from minist.models.hub import find_model
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.config import Config, EvalConfig, RowsConfig
from minist.training.construct import make
from minist.training.evaluations import Evaluation, LossEvaluation, make_evaluator
from minist.training.guide import Guide
from minist.training.tables import Table
from minist.training.token_step import attach_decoder
from minist.training.training_set import TrainingSet, check_roles, open_dataset

Guides = dict[str, SentenceTransformer]  # "guide" and "teacher", those that the config has


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


def make_guides(config: Config, device: torch.device) -> Guides:
    """The models in [guide] and [teacher]."""
    return {
        name: SentenceTransformer(table.model, revision=table.revision or None, device=device)
        for name, table in config.guides().items()
        if table.model
    }


def make_sets(
    config: Config, own_losses: Sequence[Loss], model: SentenceTransformer, guides: Guides
) -> list[TrainingSet]:
    """The training set of each [[data]] entry, which its loss can take. Losses that write texts get their decoder."""
    sets, start = [], config.model
    for entry, loss in zip(config.data, own_losses, strict=True):
        data = make_set(config, entry, loss, model, guides)
        if isinstance(loss, DenoisingAutoEncoderLoss):
            folder = find_model(start.path, start.revision or None) if start.path else None
            attach_decoder(loss, model, data.roles, folder)
        data.check(loss, model, config.train.batch_size, entry.where)
        sets.append(data)
    return sets


def make_set(config: Config, entry: RowsConfig, loss: Loss, model: SentenceTransformer, guides: Guides) -> TrainingSet:
    """The rows of an entry, tokenized once, with its transforms and with the guide that `loss` wants."""
    check_roles(model, entry.roles, list(entry.columns), entry.where)
    prompts = _prompts(config, entry)
    dataset = open_dataset(entry.paths(), entry.columns, entry.label, model, entry.roles, prompts, _cache(config))
    found = TrainingSet(dataset, entry.roles, model.device, seed=config.seed, pairs=entry.draw_pairs)
    for column, share in entry.delete_words.items():
        found.delete_words(column, share, model)
    if loss.guide and not (loss.guide == "teacher" and entry.label):  # a teacher's embeddings may come as labels too
        found.guide = _guide(config, entry, loss, guides)
    return found


def _cache(config: Config) -> Path:
    return Path(config.output).parent / "cache"


def _prompts(config: Config, entry: RowsConfig) -> dict[str, str]:
    """The prompt of each column of an entry: its own, else those for all entries, which may name columns of any."""
    if entry.prompts:
        return resolve_prompts(entry.prompts, entry.name, [entry.name], list(entry.columns))
    entries = [*config.data, *(other for other in config.eval if other.loss)]
    everywhere = dict.fromkeys(column for other in entries for column in other.columns)
    prompts = resolve_prompts(config.train.prompts, entry.name, [other.name for other in entries], list(everywhere))
    return {column: prompts[column] for column in entry.columns}


def _guide(config: Config, entry: RowsConfig, loss: Loss, guides: Guides) -> Guide:
    """The texts of an entry once more, by the tokenizer, prompts and routes of another model."""
    if loss.guide not in guides:
        raise ValueError(f'config: {entry.loss["name"]} needs a {loss.guide}: write [{loss.guide}] model = ".."')
    if entry.draw_pairs:
        raise ValueError(f"config: draw_pairs in {entry.where} does not go with a {loss.guide}")
    model = guides[loss.guide]
    roles = {name: role for name, role in entry.roles.items() if not model.routes or role in model.routes}
    prompts = {name: model.role_prompt(role) for name, role in roles.items() if role in ("query", "document")}
    default = model.find_prompt(None, None)
    prompts = {name: prompts.get(name, default) for name in entry.columns}
    dataset = open_dataset(entry.paths(), entry.columns, "", model, roles, prompts, _cache(config))
    guide = Guide(model, dataset, [roles.get(name) for name in dataset.names])
    if config.guides()[loss.guide].cache:
        guide.keep_on_disk(dataset.folder)
    return guide


def make_evaluation(
    config: Config,
    entry: EvalConfig,
    model: SentenceTransformer,
    guides: Guides,
    sets: Sequence[TrainingSet],
    own_losses: Sequence[Loss],
) -> Evaluation:
    """An evaluator, or the mean of a loss over rows. `sets` and `own_losses` are those of the [[data]] entries."""
    if entry.evaluator:
        return make_evaluator(entry)
    same = next((i for i, other in enumerate(config.data) if other.loss == entry.loss), None)
    loss = make_loss(entry.where, entry.loss).to(model.device) if same is None else own_losses[same]
    if same is None and (isinstance(loss, DenoisingAutoEncoderLoss) or list(loss.parameters())):
        raise ValueError(
            f"config: {entry.loss['name']} in {entry.where} has weights of its own, which nothing would train: "
            "write the loss as a [[data]] entry has it, and it is that one"
        )
    data = make_set(config, entry, loss, model, guides)
    if same is not None:  # it knows classes by their numbers there
        try:
            data.dataset.number_classes(sets[same].dataset.classes)
        except ValueError as e:
            raise ValueError(f"config: {entry.where}: {e}, as in {config.data[same].where}") from None
    data.check(loss, model, config.train.batch_size, entry.where)
    return LossEvaluation(entry.name, loss, data, config.train.batch_size)
