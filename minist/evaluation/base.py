"""What all evaluators share: names of metrics, what is asked of a model, what is said of sparse embeddings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.data.rows import Place, check_number, check_text
from minist.models.sparse_encoder import sparsity
from minist.similarity import dense_blocks, pairwise_similarity

Pair = tuple[str, str]
Texts = Sequence[str]
Samples = Sequence[Mapping[str, Any]]  # of queries: their positives and their candidates
Metrics = dict[str, float]
Dim = int | None


class Evaluator:
    """Called with a model, it gives metrics by name; then `primary_metric` is the name of the one that says most.

    A model is a SentenceTransformer or SparseEncoder, or anything else that gives texts embeddings [N, D] by `encode`,
    `encode_query` and `encode_document`, and has a `similarity_name`; or a CrossEncoder, or anything else that gives
    pairs scores, [N], or [N, labels] with an `id2label`, by `predict`."""

    columns: tuple[str, ...] = ()  # what its rows have; () where it does not take rows
    arguments: tuple[str, ...] = ()  # what they are called in a call, where that is a list of each column
    of = "embeddings"  # what it asks a model for
    primary_metric = ""

    def __init__(
        self, name: str, note: str = "", similarity_fn_names: Texts | None = None, truncate_dim: Dim = None
    ) -> None:
        """`name` begins all metrics; `note` is what a person should know of the rows. `similarity_fn_names` None is the
        model's own; `truncate_dim` keeps the first dimensions, of a sparse model so many weights of each text."""
        self.prefix, self.note, self.truncate_dim = f"{name}_" if name else "", note, truncate_dim
        self.similarity_fn_names = list(similarity_fn_names or ())
        for known in self.similarity_fn_names:
            pairwise_similarity(known)  # before the run, not after it

    @classmethod
    def of_rows(cls, rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: a list of each column. `note` says how many rows have no score, and are left out (STS15)."""
        given = list(rows)
        kept = [place for place in given if place.row.get("score", 0) not in (None, "")]
        lost = len(given) - len(kept)
        found: dict[str, Any] = {
            argument: [(check_number if column in ("score", "label") else check_text)(place, column) for place in kept]
            for argument, column in zip(cls.arguments, cls.columns, strict=True)
        }
        return found | {"note": f"{lost:,} rows of {len(given):,} left out: their score is empty" if lost else ""}

    def embed(self, model: Any, texts: Texts, role: str = "", prompt: str = "") -> Tensor:
        """[N, D], or sparse [N, V]."""
        options: dict[str, Any] = {"prompt": prompt} if prompt else {}  # a model of few lines need not know options
        if self.truncate_dim is not None:
            options["max_active_dims" if model.gives == "sparse" else "truncate_dim"] = self.truncate_dim
        encode = model.encode_query if role == "query" else model.encode_document if role else model.encode
        return torch.as_tensor(encode(texts, **options))

    def embed_once(self, model: Any, texts: Texts, role: str = "") -> tuple[Tensor, Tensor]:
        """Embeddings of the texts that differ [n, D], and the row of each text [N]."""
        numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return self.embed(model, list(numbers), role), torch.tensor([numbers[text] for text in texts])

    def named(self, found: Mapping[str, float], primary: str) -> Metrics:
        self.primary_metric = f"{self.prefix}{primary}"
        return {f"{self.prefix}{metric}": float(value) for metric, value in found.items()}

    def compare(self, found: dict[str, Metrics], primary: str, more: Metrics, key: str = "{0}_{1}") -> Metrics:
        """The metrics of each similarity, and of several as "max" the largest of each metric, nan aside."""
        if len(given := list(found.values())) > 1:
            found["max"] = {metric: float(np.fmax.reduce([of[metric] for of in given])) for metric in given[0]}
        flat = {key.format(name, metric): value for name, of in found.items() for metric, value in of.items()}
        return self.named(flat | more, key.format(list(found)[-1], primary))


def check_lengths(first: Sequence[Any], *others: tuple[str, Sequence[Any]]) -> None:
    """ValueError unless each pair, and there are some, has a value in all `others`, and one that says something."""
    for what, values in others:
        if not len(first) == len(values) > 0:
            raise ValueError(f"{len(first)} pairs and {len(values)} {what}: must be equal, and not 0")
        if lost := [i for i, value in enumerate(values) if value is None or value != value]:
            raise ValueError(f"{what}[{lost[0]}] is {values[lost[0]]}: leave such pairs out")


def pair_similarities(name: str, a: Tensor, b: Tensor) -> np.ndarray:
    """[N] of each row of [N, D] with its partner; of sparse rows only some are dense at a time."""
    blocks = zip(dense_blocks(a), dense_blocks(b), strict=True)
    return torch.cat([pairwise_similarity(name)(x, y) for x, y in blocks]).numpy()


def one_score_each(model: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """Scores [N] of all pairs, asked for at once. ValueError if the model has several labels."""
    scores = np.asarray(model.predict(pairs))
    if scores.ndim > 1:
        raise ValueError(f"the model gives a pair {scores.shape[1]} scores, one for each label: a single one is wanted")
    return scores


def mean_figures(*embeddings: Tensor) -> Metrics:
    """Of sparse embeddings the mean `active_dims` and `sparsity_ratio` of all; nothing of dense ones."""
    given = [sparsity(x) for x in embeddings if x.is_sparse]
    return {figure: sum(of[figure] for of in given) / len(given) for figure in (given[0] if given else ())}


def sparse_figures(embeddings: Mapping[str, Tensor]) -> Metrics:
    """Of sparse embeddings [N, V], by what they are called: how many numbers are not 0, `{name}_active_dims`, and what
    share is, `{name}_sparsity_ratio`; of two kinds `avg_flops`, the products that a query and a document take in the
    mean, sum_v p_v q_v, with the shares of them that have the word v (Formal et al. 2021). Nothing of dense ones."""
    given = {name: x for name, x in embeddings.items() if x.is_sparse}
    found = {f"{name}_{figure}": value for name, x in given.items() for figure, value in sparsity(x).items()}
    if len(given) == 2:
        words = [x.indices()[1][x.values() != 0] for x in given.values()]
        shares = [torch.bincount(w, minlength=x.shape[1]) / len(x) for w, x in zip(words, given.values(), strict=True)]
        found["avg_flops"] = (shares[0] * shares[1]).sum().item()
    return found
