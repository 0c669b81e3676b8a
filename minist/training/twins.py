"""Two copies of a model as the two routes of one: contrastive tension trains them against each other, and keeps one.

Carlsson et al. 2021, Semantic Re-tuning with Contrastive Tension.
"""

from copy import deepcopy

from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.router import Router

FIRST, SECOND = "first", "second"


def make_twins(model: SentenceTransformer) -> SentenceTransformer:
    """A model with the routes "first" and "second", which start alike; every other role takes the second."""
    routes = {FIRST: list(deepcopy(model.stack)), SECOND: list(model.stack)}
    twins = SentenceTransformer.from_modules([Router(routes, SECOND, {FIRST: FIRST, None: SECOND})], model.tokenizer)
    return _like(twins, model)


def keep_one(twins: SentenceTransformer) -> SentenceTransformer:
    """The second of them, a model like the one that `make_twins` was given."""
    router = twins.stack.router
    assert router is not None
    return _like(SentenceTransformer.from_modules(router.modules_of(SECOND), twins.tokenizer_for(SECOND)), twins)


def _like(model: SentenceTransformer, other: SentenceTransformer) -> SentenceTransformer:
    """With the other's settings."""
    model.prompts, model.default_prompt_name = other.prompts, other.default_prompt_name
    model.similarity_name, model.truncate_dim = other.similarity_name, other.truncate_dim
    return model.to(other.device)
