"""An evaluation at several sizes of a model: the first dimensions of its embeddings, the first layers of its encoder.

    dimensions = [128, 32]   heldout_128_cosine_ndcg@10, heldout_32_cosine_ndcg@10
    layers = [4, 2]          heldout_4_layers_cosine_ndcg@10, heldout_2_layers_..
    both, each with each     heldout_4_layers_128_cosine_ndcg@10, ..

beside the metrics of the whole model, heldout_cosine_ndcg@10. See losses/matryoshka.py and adaptive_layer.py, which
train models for it."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor

from minist.checks import pick, whole
from minist.models.text_model import TextModel
from minist.training.config import EvalConfig
from minist.training.evaluations import HEADLINES, Evaluation

Sizes = dict[str, tuple[int, int]]  # how names of metrics begin -> layers and dimensions, 0 for all


def sizes_of(entry: EvalConfig) -> Sizes:
    """Each of layers with each of dimensions; none where neither is given."""
    start = f"{entry.name}_" * bool(entry.name)
    found = [(k, d) for k in entry.layers or [0] for d in entry.dimensions or [0] if k or d]
    return {f"{start}{f'{k}_layers_' * bool(k)}{f'{d}_' * bool(d)}": (k, d) for k, d in found}


def sized(entries: Sequence[EvalConfig], evaluations: Iterable[Evaluation], model: TextModel) -> list[Evaluation]:
    """The evaluations of the entries of [[eval]], those with sizes at all of them. ValueError if one's metrics could be
    taken for another's."""
    for prefix in [prefix for entry in entries for prefix in sizes_of(entry)]:
        if any(f"{entry.name}_" == prefix for entry in entries):
            raise ValueError(f"config: {prefix[:-1]!r} names an [[eval]] and a size of another: give it another name")
    pairs = zip(entries, evaluations, strict=True)
    return [SizedEvaluation(entry, one, model) if entry.layers or entry.dimensions else one for entry, one in pairs]


class SizedEvaluation:
    """An evaluator, called at each size. ValueError for sizes that the model has not, or an evaluator that needs all
    dimensions: the others have an argument truncate_dim."""

    def __init__(self, entry: EvalConfig, evaluator: Any, model: TextModel) -> None:
        where, arguments = entry.where, inspect.signature(type(evaluator)).parameters
        pick(f"config: what a model with dimensions or layers in {where} gives", model.gives, {"embeddings": None})
        for dimension in entry.dimensions:
            pick(f"config: with dimensions in {where}, an argument of its evaluator", "truncate_dim", arguments)
            whole(f"config: one of dimensions in {where}", dimension, 1, model.width)
        for layer in entry.layers:
            mixes = [module.name for path in model.stack.paths.values() for module in path if "layers" in module.takes]
            pick(f"config: with layers in {where}, what mixes them", str(mixes[:1]), {"[]": "nothing"})
            whole(f"config: one of layers in {where}", layer, 1, model.stack.num_layers)
        self.evaluator, self.start, self.sizes = evaluator, f"{entry.name}_" * bool(entry.name), sizes_of(entry)

    def __call__(self, model: TextModel) -> dict[str, float]:
        found, deepest = dict[str, float](), max((encoder.num_layers for encoder in model.encoders), default=0)
        sizes: Sizes = {self.start: (0, 0), **self.sizes}  # the whole model first: FSDP gets to know all layers
        for count in dict.fromkeys(layers or deepest for layers, _ in sizes.values()):
            with first_layers(model, count):
                once = Once(model)
                for prefix in [prefix for prefix, (layers, _) in sizes.items() if (layers or deepest) == count]:
                    once.dimensions = sizes[prefix][1]
                    measured = self.evaluator(once).items()
                    found |= {prefix + metric.removeprefix(self.start): value for metric, value in measured}
        return found


@contextmanager
def first_layers(model: TextModel, count: int) -> Iterator[None]:
    """`model` as if its encoders ended behind layer `count`; afterwards it is as before."""
    before = [(encoder, encoder.layers) for encoder in model.encoders]
    try:
        for encoder, layers in before:
            encoder.layers = layers[:count]
        yield
    finally:
        for encoder, layers in before:
            encoder.layers = layers


class Once:
    """What an evaluator asks of a model; the same texts are embedded once, and then cut to so many `dimensions`."""

    dimensions = 0  # as many as the model's own

    def __init__(self, model: Any) -> None:
        self.model, self.gives, self.similarity_name = model, model.gives, model.similarity_name
        self.known: dict[Any, Tensor] = {}

    def encode(self, texts: Sequence[str], role: str | None = None, prompt: str | None = None) -> Tensor:
        key = (role, prompt, *texts)
        if key not in self.known:
            embedded = self.model.encode(texts, role=role, prompt=prompt, truncate_dim=self.model.width)
            self.known[key] = torch.as_tensor(embedded)
        return self.known[key][:, : self.model.kept_dim(self.dimensions or None)]

    encode_query = partialmethod(encode, role="query")
    encode_document = partialmethod(encode, role="document")


def headline(sizes: Iterable[str], metrics: Iterable[str]) -> str:
    """The metric that says most, without a size before it; "" where none is known."""
    names = [(name, prefix) for prefix in sizes for name in metrics if name.startswith(prefix)]
    chosen = (name.removeprefix(prefix) for ending in HEADLINES for name, prefix in names if name.endswith(ending))
    return next(chosen, "")


def table(entry: EvalConfig, before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[str]:
    """For a terminal, a line for each size: the metric that says most, before, where that was measured, and after."""
    sizes = sizes_of(entry)
    metric = headline(sizes, after)
    values = {prefix: after[prefix + metric] for prefix in sizes if prefix + metric in after}
    if values:
        yield f"\n{metric} of {entry.name}"
    for prefix, value in values.items():
        layers, dimensions = sizes[prefix]
        size = ", ".join([f"{layers} layers"] * bool(layers) + [f"{dimensions} dimensions"] * bool(dimensions))
        start = f"{before[prefix + metric]:.4f} -> " if prefix + metric in before else ""
        yield f"{size:>26}  {start}{value:.4f} {'█' * round(30 * value if 0 < value <= 1 else 0)}".rstrip()
