"""EmbeddingSimilarityEvaluator: do similarities of embeddings agree with human scores?"""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import torch

from minist.data.rows import Place, check_number, check_text
from minist.evaluation.embedder import Embedder
from minist.evaluation.metrics import pearson, spearman
from minist.similarity import pairwise_similarity

Texts = Sequence[str]


class EmbeddingSimilarityEvaluator:
    """Metrics `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}`.

    With several similarities also the largest of each, `.._max`. A correlation with what is constant is nan.
    """

    columns = ("text1", "text2", "score")
    note = ""  # what a person should know of the rows

    def __init__(
        self, texts1: Texts, texts2: Texts, scores: Sequence[float], name: str = "", similarities: Texts | None = None
    ) -> None:
        """`similarities` None is the model's own."""
        if not len(texts1) == len(texts2) == len(scores) > 0:
            given = f"{len(texts1)} first texts, {len(texts2)} second texts, {len(scores)} scores"
            raise ValueError(f"{given}: must be equal, and not 0")
        for similarity in similarities or ():
            pairwise_similarity(similarity)  # an unknown one is known before the run, not after it
        self.texts1, self.texts2, self.scores = list(texts1), list(texts2), np.asarray(scores, dtype=np.float64)
        self.similarities, self.prefix = similarities, f"{name}_" if name else ""

    @classmethod
    def from_rows(cls, rows: Iterable[Place], name: str, similarities: Texts | None = None) -> Self:
        """Each row is a pair with its score; `note` says how many have none, as some of STS15 do, and are left out."""
        given = list(rows)
        scored = [place for place in given if place.row["score"] not in (None, "")]
        texts1, texts2 = ([check_text(place, column) for place in scored] for column in ("text1", "text2"))
        made = cls(texts1, texts2, [check_number(place, "score") for place in scored], name, similarities)
        if empty := len(given) - len(scored):
            made.note = f"{empty:,} rows of {len(given):,} left out: their score is empty"
        return made

    def __call__(self, model: Embedder) -> dict[str, float]:
        a, b = (torch.as_tensor(model.encode(texts)) for texts in (self.texts1, self.texts2))
        names = self.similarities or (model.similarity_name,)
        found = {}
        for name in names:
            predicted = pairwise_similarity(name)(a, b).double().numpy()
            found[f"pearson_{name}"] = pearson(self.scores, predicted)
            found[f"spearman_{name}"] = spearman(self.scores, predicted)
        for kind in ("pearson", "spearman") if len(names) > 1 else ():
            values = [found[f"{kind}_{name}"] for name in names]
            found[f"{kind}_max"] = float(np.fmax.reduce(values))  # of those that are no nan
        return {f"{self.prefix}{metric}": value for metric, value in found.items()}
