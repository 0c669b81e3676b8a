"""Contrastive losses: tell the right document from the others in the batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minist.batch import Batch
from minist.similarity import similarity

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
PARTITION_MODES = ("joint", "per_direction")
HARDNESS_MODES = (None, "in_batch_negatives", "hard_negatives", "all_negatives")


class MultipleNegativesRankingLoss(nn.Module):
    """InfoNCE with in-batch negatives (Henderson et al. 2017, arXiv:1705.00652; Oord et al. 2018, arXiv:1807.03748).

    Columns: anchor, positive, and any number of negatives. No labels. With n rows, queries q_i, documents
    d_j (all positives, then all first negatives, ..; d_i is the positive of q_i) and s(x, y) = scale * sim(x, y):

        loss = mean_i  log sum_c exp(c)  -  s(q_i, d_i)      over the candidates c of row i:

        query_to_doc    s(q_i, d_j)  for all documents j
        query_to_query  s(q_i, q_j)  for j != i
        doc_to_query    s(d_i, q_j)  for all queries j
        doc_to_doc      s(d_i, d_j)  for all documents j of other rows

    `directions` says which of these count. partition_mode "joint" takes one logsumexp over all of them
    (all four: Li et al. 2023, arXiv:2308.03281), "per_direction" averages one logsumexp each
    (query_to_doc and doc_to_query: Guenther et al. 2024, arXiv:2310.19923).

    `hardness_mode` adds hardness_strength * sim(q_i, d_j), without gradient, to the chosen negatives of
    query_to_doc: "in_batch_negatives", the documents of other rows (Lan et al. 2025, arXiv:2503.04812, strength 9);
    "hard_negatives", the row's own (Schechter Vera et al. 2025, arXiv:2509.20354, strength 5); "all_negatives", both.
    """

    def __init__(
        self,
        scale: float = 20.0,
        similarity_fct: str = "cosine",
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        """`scale` is 1 / temperature. ValueError for what is not described above."""
        super().__init__()
        unknown = [d for d in directions if d not in DIRECTIONS]
        if unknown or "query_to_doc" not in directions:
            raise ValueError(
                f"directions are {list(directions)}: take query_to_doc and any of {', '.join(DIRECTIONS[1:])}"
            )
        if partition_mode not in PARTITION_MODES:
            raise ValueError(f"partition_mode is {partition_mode!r}, known are {', '.join(PARTITION_MODES)}")
        if partition_mode == "per_direction" and {"query_to_query", "doc_to_doc"} & set(directions):
            # their candidates hold no positive, so the loss of such a direction has no lower bound
            raise ValueError("partition_mode 'per_direction' goes with query_to_doc and doc_to_query only: use 'joint'")
        if hardness_mode not in HARDNESS_MODES:
            raise ValueError(f"hardness_mode is {hardness_mode!r}, known are {', '.join(map(str, HARDNESS_MODES))}")
        if scale <= 0 or hardness_strength < 0:
            raise ValueError(f"scale is {scale} and hardness_strength {hardness_strength}: use > 0 and >= 0")
        if (hardness_mode is None) != (hardness_strength == 0):
            raise ValueError("hardness_mode and hardness_strength go together: give both or neither")
        self.scale, self.similarity_fct = scale, similarity(similarity_fct)
        self.directions, self.partition_mode = tuple(directions), partition_mode
        self.hardness_mode, self.hardness_strength = hardness_mode, hardness_strength

    def forward(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        """Embeddings [n, D] of each column -> scalar."""
        if len(embeddings) < 2:
            raise ValueError(
                f"MultipleNegativesRankingLoss takes anchor, positive, and any negatives; got {len(embeddings)} column"
            )
        queries, positives, documents = embeddings[0], embeddings[1], torch.cat(list(embeddings[1:]))
        same_row = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        own_documents = same_row.repeat(1, len(embeddings) - 1)  # [n, documents]

        raw = self.similarity_fct(queries, documents)
        scores = [raw * self.scale + self._hardness(raw.detach(), own_documents)]
        positive = scores[0].diagonal()
        if "query_to_query" in self.directions:
            to_queries = self.similarity_fct(queries, queries) * self.scale
            scores.append(to_queries.masked_fill(same_row, float("-inf")))
        if "doc_to_query" in self.directions:
            scores.append(self.similarity_fct(positives, queries) * self.scale)
        if "doc_to_doc" in self.directions:
            to_documents = self.similarity_fct(positives, documents) * self.scale
            scores.append(to_documents.masked_fill(own_documents, float("-inf")))

        if self.partition_mode == "joint":
            normalizer = torch.cat(scores, dim=1).logsumexp(1)
        else:
            normalizer = torch.stack([s.logsumexp(1) for s in scores]).mean(0)
        return (normalizer - positive).mean()

    def _hardness(self, raw: Tensor, own_documents: Tensor) -> Tensor | float:
        if self.hardness_mode is None:
            return 0.0
        n = len(raw)
        chosen = torch.zeros_like(own_documents)
        if self.hardness_mode in ("hard_negatives", "all_negatives"):
            chosen[:, n:] |= own_documents[:, n:]
        if self.hardness_mode in ("in_batch_negatives", "all_negatives"):
            chosen |= ~own_documents
        return self.hardness_strength * raw * chosen
