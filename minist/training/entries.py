"""What the [[data]] and [[eval]] entries of a config become: tasks with their rows and losses, and evaluations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from minist import distributed, losses
from minist.checks import listing, pick
from minist.data.dataset import ColumnSpec, Dataset, dataset_folder, prepare_dataset
from minist.data.text_column import resolve_prompts
from minist.data.transforms import vocabulary_of, word_starts
from minist.losses import cross_encoder, over_tokens
from minist.losses.base import Loss
from minist.models import open_model
from minist.models.text_model import TextModel
from minist.training.config import Config, EvalConfig, RowsConfig
from minist.training.construct import Table, make
from minist.training.evaluations import Evaluation, LossEvaluation, check_kind, make_evaluator
from minist.training.guide import Guide
from minist.training.pair_rows import PairRows
from minist.training.start import plain_weights
from minist.training.task import Task, TrainingRows

Guides = dict[str, TextModel]  # "guide" and "teacher" of the config
# what a model gives -> the losses of it
SHELVES = {"embeddings": losses, "sparse": losses, "scores": cross_encoder, "words": over_tokens}


def make_loss(where: str, table: Table, seed: int, model: TextModel) -> Loss:
    loss: Loss = make(f"loss in {where}", table, SHELVES[model.gives], Loss)
    loss.set_seed(seed)
    return loss.to(model.device)


def make_guides(config: Config, device: torch.device) -> Guides:
    given = {key: vars(config)[key] for key in ("guide", "teacher") if vars(config)[key].model}
    kind = "SentenceTransformer"  # losses compare embeddings with its
    return {key: open_model(t.model, kind, revision=t.revision or None, device=device) for key, t in given.items()}


def make_tasks(config: Config, model: TextModel, guides: Guides) -> list[Task]:
    """The task of each [[data]] entry; its loss can take its rows, and has weights that fit the model."""
    own = [(entry, make_loss(entry.where, entry.loss, config.seed, model)) for entry in config.data]
    return [Task(e.name, e.weight, make_rows(config, e, loss, model, guides), loss) for e, loss in own]


def make_rows(
    config: Config, entry: RowsConfig, loss: Loss, model: TextModel, guides: Guides, same: Task | None = None
) -> TrainingRows:
    """The rows of an entry, tokenized once, with all that `loss` wants; `same` is the task that it is shared with."""
    check_roles(model, entry.roles, list(entry.columns), entry.where)
    wants = "" if loss.class_names else "numbers"  # of labels: words are no scores, but they may be classes
    if model.pairing:
        _check_pairs(entry)
        wants += " documents" + " per_document" * loss.label_lists
    dataset = open_dataset(entry, model, _prompts(config, entry), config.cache, wants)
    found = TrainingRows(dataset, entry.roles, model.device, seed=config.seed, pairs=entry.draw_pairs)
    if model.pairing:
        found = PairRows(dataset, model.pairing, loss, model.device, config.seed)
    for column, share in entry.delete_words.items():
        found.deleted[column] = (share, *word_starts(model.tokenizer_for(entry.roles.get(column))))
    if loss.guide and not (loss.guide == "teacher" and entry.label != ""):  # labels may be the teacher's embeddings
        found.guide = _guide(config, entry, loss, guides)
    with located(entry):
        # an evaluation knows classes by their numbers in training, and a model by those that it has
        dataset.number_classes(same.rows.dataset.classes if same else model.name_labels(dataset.classes))
        if not same and entry.kind == "data":  # a loss that nothing trains has no weights
            loss.attach(model, found.roles, plain_weights(config.model) if loss.over_tokens else {})
        found.check(loss, model, config.train.batch_size)
        if loss.mask_ratio:
            found.masking = (vocabulary_of(model.tokenizer), loss.mask_ratio, loss.whole_words)
    return found


@contextmanager
def located(entry: RowsConfig) -> Iterator[None]:
    """Errors of what does not know the config, as a loss, say which entry they are about."""
    try:
        yield
    except ValueError as e:
        raise ValueError(f"config: {entry.where}: {e}") from None


def open_dataset(entry: RowsConfig, model: TextModel, prompts: dict[str, str], cache: Path, wants: str = "") -> Dataset:
    """Tokenize for `model`, on the first rank of each machine, unless that was done before; open it on all ranks."""
    own = model.pairing.tokenizer if model.pairing else None  # pairs are joined of their texts
    specs = {
        name: ColumnSpec(source, own or model.tokenizer_for(entry.roles.get(name)), prompts.get(name, ""))
        for name, source in entry.columns.items()
    }
    arguments = (entry.paths(), specs, entry.label, entry.format, wants)
    folder = dataset_folder(cache, *arguments)
    distributed.prepare_once(folder / "meta.json", lambda: prepare_dataset(folder, *arguments))
    return Dataset(folder)


def _check_pairs(entry: RowsConfig) -> None:
    for name in ("delete_words", "draw_pairs", "roles"):
        if vars(entry)[name]:
            raise ValueError(f"config: {name} in {entry.where} is not for a CrossEncoder: leave it out")
    if len(entry.columns) < 2:
        given = f"columns in {entry.where} name {listing(entry.columns)}"
        raise ValueError(f"config: {given}: a CrossEncoder takes pairs, so name a second one")


def check_roles(model: TextModel, roles: Mapping[str, str], columns: Sequence[str], where: str) -> None:
    """ValueError if a model with routes is not told which one each column takes, or a role is no route."""
    for role in roles.values():
        if model.routes:
            pick(f"config: roles in {where}: the route", role, dict.fromkeys(model.routes))
        else:
            model.role_prompt(role)  # it knows what a role may be called
    if model.routes and not roles:
        example = ", ".join(f'{name} = "{model.routes[min(i, 1)]}"' for i, name in enumerate(columns))
        raise ValueError(f"config: the model has routes, so {where} must say who takes which: roles = {{ {example} }}")


def _prompts(config: Config, entry: RowsConfig) -> dict[str, str]:
    """The prompt of each column of an entry: its own, else those of [train], which may name columns of any entry."""
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
    prompts = dict.fromkeys(entry.columns, model.find_prompt(None, None)) | prompts  # its default where no role says
    own = replace(entry, label="", roles=roles)  # the label is the training set's matter
    dataset = open_dataset(own, model, prompts, config.cache)
    guide = Guide(model, dataset, [roles.get(name) for name in dataset.names])
    if vars(config)[loss.guide].cache:
        guide.keep_on_disk(dataset.folder)
    return guide


def make_evaluation(
    config: Config, entry: EvalConfig, model: TextModel, guides: Guides, tasks: Sequence[Task]
) -> Evaluation:
    """An evaluator, or the mean of a loss over rows: that of a task, if a [[data]] entry writes it alike."""
    if entry.evaluator:
        evaluator = make_evaluator(entry, tasks)
        with located(entry):
            check_kind(entry.evaluator["name"], evaluator, model)
        return evaluator
    pairs = zip(config.data, tasks, strict=True)
    same = next((task for other, task in pairs if other.loss == entry.loss), None)
    loss = same.loss if same else make_loss(entry.where, entry.loss, config.seed, model)
    if not same and ((loss.over_tokens and not loss.mask_ratio) or list(loss.parameters())):
        hint = "which nothing would train: write the loss as a [[data]] entry has it, and it is that one"
        raise ValueError(f"config: {entry.loss['name']} in {entry.where} has weights of its own, {hint}")
    rows = make_rows(config, entry, loss, model, guides, same)
    return LossEvaluation(entry.name, loss, rows, config.train.batch_size)
