"""An evaluation at several sizes of a model: the first dimensions of its embeddings, the first layers of its encoder.

    dimensions = [128, 32]   heldout_128_cosine_ndcg@10, heldout_32_cosine_ndcg@10
    layers = [4, 2]          heldout_4_layers_cosine_ndcg@10, heldout_2_layers_..
    both, each with each     heldout_4_layers_128_cosine_ndcg@10, ..

beside the metrics of the whole model, heldout_cosine_ndcg@10. See losses/matryoshka.py and adaptive_layer.py, which
train models for it."""

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partialmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minist.checks import pick, whole
from minist.models.text_model import TextModel
from minist.training.config import EvalConfig
from minist.training.evaluations import HEADLINES, Evaluation

BAR, CELL = 12, 34  # characters: the bar of the largest value, and a value with its bar
Curves = dict[str, list[tuple[int, float]]]  # by name (size, value), the smallest first


class Size(NamedTuple):
    """Of a model: how many of its first layers and dimensions are used, 0 for all."""

    layers: int = 0
    dimensions: int = 0


Sizes = dict[str, Size]  # by how the names of metrics begin


def sizes_of(entry: EvalConfig) -> Sizes:
    """Each of layers with each of dimensions; none where neither is given."""
    found = [Size(k, d) for k in entry.layers or [0] for d in entry.dimensions or [0]] * entry.has_sizes
    start = f"{entry.name}_" * bool(entry.name)
    return {f"{start}{f'{k}_layers_' * bool(k)}{f'{d}_' * bool(d)}": Size(k, d) for k, d in found}


class SizedEvaluation:
    """An evaluator, called at each size. ValueError for sizes that the model has not, or an evaluator that needs all
    dimensions: the others have an argument truncate_dim."""

    def __init__(self, entry: EvalConfig, evaluator: Any, model: TextModel) -> None:
        where = entry.where
        pick(f"config: what a model with dimensions or layers in {where} gives", model.gives, {"embeddings": None})
        for dimension in entry.dimensions:
            arguments = inspect.signature(type(evaluator)).parameters
            pick(f"config: with dimensions in {where}, an argument of its evaluator", "truncate_dim", arguments)
            whole(f"config: one of dimensions in {where}", dimension, 1, model.width)
        for layer in entry.layers:
            mixes = [module.name for path in model.stack.paths.values() for module in path if "layers" in module.takes]
            pick(f"config: with layers in {where}, what mixes them", str(mixes[:1]), {"[]": "nothing"})
            whole(f"config: one of layers in {where}", layer, 1, model.stack.num_layers)
        self.evaluator, self.name, self.sizes = evaluator, f"{entry.name}_" * bool(entry.name), sizes_of(entry)

    def __call__(self, model: TextModel) -> dict[str, float]:
        found, deepest = dict[str, float](), max((encoder.num_layers for encoder in model.encoders), default=0)
        sizes: Sizes = {self.name: Size(), **self.sizes}
        counts = {prefix: 0 if size.layers == deepest else size.layers for prefix, size in sizes.items()}
        for count in dict.fromkeys(counts.values()):  # the whole model first, in which FSDP gets to know all layers
            with first_layers(model, count):
                once = Once(model)
                for prefix in [prefix for prefix in sizes if counts[prefix] == count]:
                    once.dimensions = sizes[prefix].dimensions
                    measured = self.evaluator(once).items()
                    found |= {prefix + metric.removeprefix(self.name): value for metric, value in measured}
        return found


@contextmanager
def first_layers(model: TextModel, count: int) -> Iterator[None]:
    """`model` as if its encoders ended behind layer `count`, 0 for none of it; afterwards it is as before."""
    before = [(encoder, encoder.layers) for encoder in model.encoders]
    try:
        for encoder, layers in before:
            encoder.layers = layers[: count or None]
        yield
    finally:
        for encoder, layers in before:
            encoder.layers = layers


class Once:
    """What an evaluator asks of a model; the same texts are embedded once, and then cut to so many `dimensions`."""

    dimensions = 0  # as many as the model's own

    def __init__(self, model: TextModel) -> None:
        self.model, self.gives, self.similarity_name = model, model.gives, model.similarity_name
        self.known: dict[Any, Tensor] = {}

    def encode(self, texts: Sequence[str], role: str | None = None, prompt: str | None = None) -> Tensor:
        key = (role, prompt, *texts)
        if key not in self.known:
            options: dict[str, Any] = {"role": role, "prompt": prompt, "truncate_dim": self.model.width}
            self.known[key] = torch.as_tensor(self.model.encode(texts, **options))
        return self.known[key][:, : self.model.kept_dim(self.dimensions or None)]

    encode_query = partialmethod(encode, role="query")
    encode_document = partialmethod(encode, role="document")


def sized(entries: Iterable[EvalConfig], evaluations: Iterable[Evaluation], model: TextModel) -> list[Evaluation]:
    """The evaluations of the entries of [[eval]], those with sizes at all of them."""
    pairs = zip(entries, evaluations, strict=True)
    return [SizedEvaluation(entry, one, model) if entry.has_sizes else one for entry, one in pairs]


# What is shown of it: the metric that says most, the same at all sizes.


def values(sizes: Sizes, metrics: Mapping[str, float]) -> tuple[str, dict[Size, float]]:
    """The metric's name without a size, and its value at each; none where it was not measured."""
    first = next(iter(sizes))
    names = [name.removeprefix(first) for name in metrics if name.startswith(first)]
    best = next((name for ending in HEADLINES for name in names if name.endswith(ending)), "".join(names[:1]))
    return best, {size: metrics[prefix + best] for prefix, size in sizes.items() if prefix + best in metrics}


def table(name: str, sizes: Sizes, before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[str]:
    """Lines for a terminal: dimensions, or layers, from top to bottom; layers from left to right if both are given."""
    if not sizes:
        return
    (metric, last), (_, first) = values(sizes, after), values(sizes, before)
    top, rows = max([0.0, *filter(math.isfinite, last.values())]), dict[str, list[str]]()
    for size, value in last.items():
        start = f"{first[size]:.4f} -> " if size in first else ""
        bar = "#" * round(BAR * value / top) if 0 < value <= top else ""  # none for what is below 0, or no number
        label = f"{size.dimensions} dimensions" if size.dimensions else f"{size.layers} layers"
        rows.setdefault(label, []).append(f"{start}{value:.4f} {bar}".ljust(CELL))
    yield f"\n{metric} of {name}{', before -> after' if first else ''}"
    if all(map(all, last)):
        heads = [f"{layers} layers".ljust(CELL) for layers in dict.fromkeys(size.layers for size in last)]
        yield f"{'':14}  {''.join(heads)}".rstrip()
    yield from (f"{label:>14}  {''.join(cells)}".rstrip() for label, cells in rows.items())


def curves(sizes: Sizes, moments: Mapping[str, Mapping[str, float]]) -> tuple[str, Curves]:
    """A title, and by name lines of the metric: of each moment, a name and its metrics, and of each number of layers
    if dimensions are given too."""
    title, lines = "", Curves()
    for moment, metrics in moments.items():
        metric, found = values(sizes, metrics)
        title = f"{metric} by {'dimensions' if any(size.dimensions for size in found) else 'layers'}"
        for size, value in sorted(found.items()):
            name = f"{size.layers} layers, {moment}" if all(size) else moment
            lines.setdefault(name, []).append((size.dimensions or size.layers, value))
    return title, lines
