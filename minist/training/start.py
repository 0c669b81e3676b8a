"""The model that a run starts from, and what it becomes for contrastive tension: two copies, of which one is kept."""

from collections.abc import Iterator
from copy import deepcopy

from torch import Tensor

from minist.data.rows import TextCells, read_places
from minist.encoders.weights import modernize
from minist.models import open_model
from minist.models.hub import find_model
from minist.models.text_model import TextModel
from minist.models.weight_files import read_weights
from minist.modules.router import Router
from minist.training.config import Config, ModelConfig, RowsConfig
from minist.training.scratch import new_model

FIRST, SECOND = "first", "second"  # the routes of twins


def make_model(config: Config) -> TextModel:
    """A saved one, or random weights and a vocabulary of the training texts."""
    start = config.model
    if not start.path:
        return new_model(start, (text for entry in config.data for text in texts_of(entry)))
    layers = start.keep_layers or None
    model = open_model(start.path, start.type, revision=start.revision or None, keep_layers=layers)
    if start.max_length:
        model.max_length = start.max_length
    return make_twins(model) if start.twins else model


def texts_of(entry: RowsConfig) -> Iterator[str]:
    """All texts of an entry's files, row after row; a cell may be a list of them."""
    columns = [(source, TextCells(source)) for source in entry.columns.values()]
    for place in read_places(entry.paths(), [source for source, _ in columns], entry.format):
        for _, cells in columns:
            yield from cells.read([place])[0]


def plain_weights(start: ModelConfig) -> dict[str, Tensor]:
    """The weights of the plain checkpoint in path, by their names in the file: it may hold a head that scores words.

    None of a model that was saved with its modules, which has no such head.
    """
    folder = find_model(start.path, start.revision or None) if start.path else None
    return {} if folder is None or (folder / "modules.json").exists() else modernize(read_weights(folder), "")


def make_twins(model: TextModel) -> TextModel:
    """A model with the routes "first" and "second", which start alike; every other role takes the second.

    Contrastive tension trains them against each other (Carlsson et al. 2021, openreview.net/forum?id=Ov_sMNau-PF).
    """
    routes = {FIRST: list(deepcopy(model.stack)), SECOND: list(model.stack)}
    return _like(model.from_modules([Router(routes, SECOND, {FIRST: FIRST, None: SECOND})], model.tokenizer), model)


def keep_one(twins: TextModel) -> TextModel:
    """The second of them, a model like the one that `make_twins` was given."""
    router = twins.stack.router
    assert router is not None
    return _like(twins.from_modules(router.modules_of(SECOND), twins.tokenizer_for(SECOND)), twins)


def _like(model: TextModel, other: TextModel) -> TextModel:
    """With the other's settings."""
    model.prompts, model.default_prompt_name = other.prompts, other.default_prompt_name
    model.similarity_name, model.truncate_dim = other.similarity_name, other.truncate_dim
    return model.to(other.device)
