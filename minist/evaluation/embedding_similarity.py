"""EmbeddingSimilarityEvaluator: do similarities of embeddings agree with human scores?"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from minist.data.rows import Place
from minist.evaluation.embedder import Embedder
from minist.evaluation.metrics import pearson, spearman
from minist.similarity import SIMILARITIES, pairwise_similarity


class EmbeddingSimilarityEvaluator:
    """Metrics `{name}_pearson_{similarity}` and `{name}_spearman_{similarity}`.

    With several similarities also the largest of each, `.._max`.
    """

    columns = ("text1", "text2", "score")

    @classmethod
    def from_rows(
        cls, rows: Iterable[Place], name: str, similarities: Sequence[str] | None = None
    ) -> "EmbeddingSimilarityEvaluator":
        """The rows of files, by these columns."""
        found: list[tuple[str, str, float]] = []
        for place in rows:
            try:
                score = float(place.row["score"])
            except (TypeError, ValueError):
                given = f"'s' is {place.row['score']!r}"
                raise ValueError(f"{place.file}, row {place.number}: {given}, but a number is wanted") from None
            found.append((place.row["text1"], place.row["text2"], score))
        return cls([a for a, _, _ in found], [b for _, b, _ in found], [s for _, _, s in found], name, similarities)

    def __init__(
        self,
        texts1: Sequence[str],
        texts2: Sequence[str],
        scores: Sequence[float],
        name: str = "",
        similarities: Sequence[str] | None = None,
    ) -> None:
        """`similarities` None is the model's own. ValueError for columns of different length or an unknown name."""
        if not len(texts1) == len(texts2) == len(scores):
            raise ValueError(
                f"{len(texts1)} first texts, {len(texts2)} second texts, {len(scores)} scores: must be equal"
            )
        unknown = [s for s in similarities or () if s not in SIMILARITIES]
        if unknown:
            raise ValueError(f"similarities: {unknown[0]!r} is not known, there are {', '.join(SIMILARITIES)}")
        self.texts1, self.texts2, self.scores = list(texts1), list(texts2), np.asarray(scores, dtype=np.float64)
        self.similarities = similarities
        self.prefix = f"{name}_" if name else ""

    def __call__(self, model: Embedder) -> dict[str, float]:
        """Embed both columns and measure."""
        a, b = (torch.as_tensor(model.encode(texts)) for texts in (self.texts1, self.texts2))
        found = {}
        names = self.similarities or (model.similarity_name,)
        for name in names:
            predicted = pairwise_similarity(name)(a, b).double().numpy()
            found[f"pearson_{name}"] = pearson(self.scores, predicted)
            found[f"spearman_{name}"] = spearman(self.scores, predicted)
        if len(names) > 1:
            for kind in ("pearson", "spearman"):
                found[f"{kind}_max"] = max(found[f"{kind}_{name}"] for name in names)
        return {f"{self.prefix}{metric}": value for metric, value in found.items()}
