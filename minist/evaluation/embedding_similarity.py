"""EmbeddingSimilarityEvaluator: do similarities of embeddings agree with human scores?"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from minist.data.rows import Place, check_number, check_text
from minist.evaluation.embedder import Embedder, sparse_figures
from minist.evaluation.metrics import pearson, spearman
from minist.similarity import dense_blocks, pairwise_similarity


class EmbeddingSimilarityEvaluator:
    """Metrics `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}`.
    Of a sparse model also how many dimensions are active, `{name}_active_dims`, and `{name}_sparsity_ratio`. With
    several similarities also the largest of each, `.._max`. A correlation with what is constant is nan."""

    columns = ("text1", "text2", "score")
    of = "embeddings"  # what it asks a model for

    def __init__(
        self,
        texts1: Sequence[str],
        texts2: Sequence[str],
        scores: Sequence[float],
        name: str = "",
        similarities: Sequence[str] | None = None,
        note: str = "",
    ) -> None:
        """`similarities` None is the model's own; `note` is what a person should know of the rows."""
        check_lengths(len(texts1), "second texts", texts2)
        check_lengths(len(texts1), "scores", scores)
        for similarity in similarities or ():
            pairwise_similarity(similarity)  # an unknown one is known before the run, not after it
        self.texts1, self.texts2, self.scores = list(texts1), list(texts2), np.asarray(scores, dtype=np.float64)
        self.similarities, self.prefix, self.note = similarities, f"{name}_" if name else "", note

    @staticmethod
    def of_rows(rows: Iterable[Place]) -> dict[str, Any]:
        """Arguments: each row is a pair with its score. `note` says how many have none, and are left out (STS15)."""
        given = list(rows)
        scored = [place for place in given if place.row["score"] not in (None, "")]
        texts1, texts2 = ([check_text(place, column) for place in scored] for column in ("text1", "text2"))
        scores, empty = [check_number(place, "score") for place in scored], len(given) - len(scored)
        note = f"{empty:,} rows of {len(given):,} left out: their score is empty" if empty else ""
        return {"texts1": texts1, "texts2": texts2, "scores": scores, "note": note}

    def __call__(self, model: Embedder) -> dict[str, float]:
        a, b = (torch.as_tensor(model.encode(texts)) for texts in (self.texts1, self.texts2))
        names = self.similarities or (model.similarity_name,)
        found = {}
        for name in names:
            blocks = zip(dense_blocks(a), dense_blocks(b), strict=True)
            predicted = torch.cat([pairwise_similarity(name)(x, y) for x, y in blocks]).double().numpy()
            found[f"pearson_{name}"] = pearson(self.scores, predicted)
            found[f"spearman_{name}"] = spearman(self.scores, predicted)
        if figures := sparse_figures({"text1": a, "text2": b}):
            for name in ("active_dims", "sparsity_ratio"):
                found[name] = (figures[f"text1_{name}"] + figures[f"text2_{name}"]) / 2
        for kind in ("pearson", "spearman") if len(names) > 1 else ():
            found[f"{kind}_max"] = float(np.fmax.reduce([found[f"{kind}_{name}"] for name in names]))  # nan aside
        return {f"{self.prefix}{metric}": value for metric, value in found.items()}


def check_lengths(pairs: int, what: str, values: Sequence[Any]) -> None:
    """ValueError unless each of so many pairs, and there are some, has one of `values` that says something."""
    if not pairs == len(values) > 0:
        raise ValueError(f"{pairs} pairs and {len(values)} {what}: must be equal, and not 0")
    if lost := [i for i, value in enumerate(values) if value is None or value != value]:
        raise ValueError(f"{what}[{lost[0]}] is {values[lost[0]]}: leave such pairs out")
