"""What all evaluators share: how metrics are called, what is asked of a model, and what is said of sparse embeddings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minist.data.rows import Place, check_text
from minist.models.sparse_encoder import sparsity
from minist.similarity import dense_blocks, pairwise_similarity

Pair = tuple[str, str]
Samples = Sequence[Mapping[str, Any]]  # of queries: their positives and their candidates
Metrics = dict[str, float]


class Evaluator:
    """Called with a model, it gives metrics by name; then `primary_metric` is the name of the one that says most."""

    columns: tuple[str, ...] = ()  # what its rows have; () where it does not take rows
    of = "embeddings"  # what it asks a model for
    primary_metric = ""

    def __init__(self, name: str, note: str = "") -> None:
        """`name` begins all metrics; `note` is what a person should know of the rows, such as those left out."""
        self.prefix, self.note = f"{name}_" if name else "", note

    def named(self, found: Mapping[str, float], primary: str) -> Metrics:
        self.primary_metric = f"{self.prefix}{primary}"
        return {f"{self.prefix}{metric}": float(value) for metric, value in found.items()}


class Embedder(Protocol):
    """A SentenceTransformer or SparseEncoder, or anything else that gives each text one embedding, [N, D]."""

    similarity_name: str

    def encode(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...
    def encode_query(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...  # with the prompt of queries
    def encode_document(self, texts: Sequence[str], /) -> np.ndarray | Tensor: ...


class Scorer(Protocol):
    """A CrossEncoder, or anything else that gives each pair a score, [N], or one for each label, [N, labels]."""

    id2label: dict[int, str]

    def predict(self, pairs: Sequence[Pair], /) -> np.ndarray | Tensor: ...


def embed(model: Any, texts: Sequence[str], truncate_dim: int | None, role: str = "", prompt: str = "") -> Tensor:
    """[N, D] of a model's first `truncate_dim` dimensions, or [N, V] of a sparse one's so many largest weights."""
    options: dict[str, Any] = {"prompt": prompt} if prompt else {}  # a model of few lines need not know options
    if truncate_dim is not None:
        options["max_active_dims" if model.gives == "sparse" else "truncate_dim"] = truncate_dim
    encode = model.encode_query if role == "query" else model.encode_document if role else model.encode
    return torch.as_tensor(encode(texts, **options))


def one_score_each(model: Scorer, pairs: Sequence[Pair]) -> np.ndarray:
    """Scores [N] of all pairs, asked for at once. ValueError if the model has several labels."""
    scores = np.asarray(model.predict(pairs))
    if scores.ndim > 1:
        raise ValueError(f"the model gives a pair {scores.shape[1]} scores, one for each label: a single one is wanted")
    return scores


def pair_similarities(name: str, a: Tensor, b: Tensor) -> np.ndarray:
    """[N] of each row of [N, D] with its partner; of sparse rows only some are dense at a time."""
    blocks = zip(dense_blocks(a), dense_blocks(b), strict=True)
    return torch.cat([pairwise_similarity(name)(x, y) for x, y in blocks]).numpy()


def by_similarity(names: Sequence[str], measure: Callable[[str], Metrics]) -> dict[str, Metrics]:
    """Metrics by each similarity, and of several as "max" the largest of each metric, nan aside."""
    found = {name: measure(name) for name in names}
    if len(names) > 1:
        metrics = list(found.values())
        found["max"] = {key: float(np.fmax.reduce([of[key] for of in metrics])) for key in metrics[0]}
    return found


def mean_figures(*embeddings: Tensor) -> Metrics:
    """Of sparse embeddings the mean `active_dims` and `sparsity_ratio` of all; nothing of dense ones."""
    given = [sparsity(x) for x in embeddings if x.is_sparse]
    return {figure: fmean(of[figure] for of in given) for figure in (given[0] if given else ())}


def sparse_figures(embeddings: Mapping[str, Tensor]) -> Metrics:
    """Of sparse embeddings [N, V], by what they are called: how many numbers are not 0, `{name}_active_dims`, and what
    share is, `{name}_sparsity_ratio`; of two kinds `avg_flops`, the products that a query and a document take in the
    mean, sum_v p_v q_v, with the shares of them that have the word v (Formal et al. 2021). Nothing of dense ones."""
    found, shares = Metrics(), list[Tensor]()
    for name, x in embeddings.items():
        if not x.is_sparse:
            return {}
        found |= {f"{name}_{figure}": value for figure, value in sparsity(x).items()}
        words = x.indices()[1][x.values() != 0]
        shares.append(torch.bincount(words, minlength=x.shape[1]) / max(len(x), 1))
    return found | ({"avg_flops": (shares[0] * shares[1]).sum().item()} if len(shares) == 2 else {})


def check_lengths(pairs: int, what: str, values: Sequence[Any]) -> None:
    """ValueError unless each of so many pairs, and there are some, has one of `values` that says something."""
    if not pairs == len(values) > 0:
        raise ValueError(f"{pairs} pairs and {len(values)} {what}: must be equal, and not 0")
    if lost := [i for i, value in enumerate(values) if value is None or value != value]:
        raise ValueError(f"{what}[{lost[0]}] is {values[lost[0]]}: leave such pairs out")


def read_columns(rows: Iterable[Place], *columns: str) -> list[list[str]]:
    """The texts of each of some columns."""
    places = list(rows)
    return [[check_text(place, column) for place in places] for column in columns]
