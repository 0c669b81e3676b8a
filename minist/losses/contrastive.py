"""Contrastive losses: tell the right document from the others in the batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Loss, Tensors, check_columns, counts_of, text_rows
from minist.losses.row_blocks import same_row, sum_over_rows
from minist.similarity import similarity, unit

DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
# scores [b, m] of each direction -> [b]; logsumexp subtracts the largest score first, so that exp cannot overflow
PARTITION_MODES: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "joint": lambda scores: torch.cat(scores, dim=1).logsumexp(1),
    "per_direction": lambda scores: torch.stack([s.logsumexp(1) for s in scores]).mean(0),
}
# the row's own documents [b, m], and those of them that are negatives -> the negatives that weigh more
HARDNESS_MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "in_batch_negatives": lambda of_row, hard: ~of_row,
    "hard_negatives": lambda of_row, hard: hard,
    "all_negatives": lambda of_row, hard: ~of_row | hard,
}


class MultipleNegativesRankingLoss(Loss):
    """InfoNCE with in-batch negatives (Henderson et al. 2017, arXiv:1705.00652; Oord et al. 2018, arXiv:1807.03748).
    Columns: anchor, positive, and any number of negatives, texts or lists of texts. No labels. With queries q_i,
    documents d_j (all positives, then all negatives; d_i is the positive of q_i) and s(x, y) = scale * sim(x, y):
        loss = mean_i  log sum_c exp(c)  -  s(q_i, d_i)      over the candidates c of row i:
        query_to_doc    s(q_i, d_j)  for all documents j
        query_to_query  s(q_i, q_j)  for j != i
        doc_to_query    s(d_i, q_j)  for all queries j
        doc_to_doc      s(d_i, d_j)  for all documents j of other rows
    `directions` says which of these count. partition_mode "joint" takes one logsumexp over all of them (all four: Li
    et al. 2023, arXiv:2308.03281), "per_direction" averages one each (Guenther et al. 2024, arXiv:2310.19923).
    `hardness_mode` adds hardness_strength * sim(q_i, d_j), without gradient, to the chosen negatives of
    query_to_doc: "in_batch_negatives", the documents of other rows (Lan et al. 2025, arXiv:2503.04812, strength 9);
    "hard_negatives", the row's own (Schechter Vera et al. 2025, arXiv:2509.20354, strength 5); "all_negatives", both.
    `in_batch_negatives` = False: only the row's own documents are candidates, and nothing keeps unrelated texts apart.
    A batch may have tens of thousands of rows: see row_blocks.py."""

    columns = "anchor, positive, any negatives"

    def __init__(
        self,
        scale: float = 20.0,
        similarity_fct: str = "cosine",
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        in_batch_negatives: bool = True,
    ) -> None:
        """`scale` is 1 / temperature. ValueError for options that are unknown, or mean nothing together."""
        super().__init__()
        self.scale, self.normalize = number("scale", scale, above=0), similarity_fct == "cosine"
        self.similarity_fct = similarity("dot" if self.normalize else similarity_fct)
        self.directions, self.in_batch_negatives = tuple(directions), in_batch_negatives
        self.negatives = None if in_batch_negatives else 0
        self.normalizer = pick("partition_mode", partition_mode, PARTITION_MODES)
        self.hardness_strength = number("hardness_strength", hardness_strength, least=0)
        self.hardened = pick("hardness_mode", hardness_mode, HARDNESS_MODES) if hardness_mode is not None else None
        if not in_batch_negatives:
            self.columns = "anchor, positive, at least one negative"
        others, wrong = set(self.directions) - {"query_to_doc"}, ""
        if "query_to_doc" not in self.directions or not others <= set(DIRECTIONS):
            wrong = f"directions are {list(self.directions)}: take query_to_doc and any of {', '.join(DIRECTIONS[1:])}"
        elif partition_mode != "joint" and not others <= {"doc_to_query"}:
            # candidates of the other two hold no positive, so the loss of such a direction has no lower bound
            wrong = "partition_mode 'per_direction' goes with query_to_doc and doc_to_query only: use 'joint'"
        elif (hardness_mode is None) != (hardness_strength == 0):
            wrong = "hardness_mode and hardness_strength go together: give both or neither"
        elif not in_batch_negatives and (others or hardness_mode not in (None, "hard_negatives")):
            wrong = "in_batch_negatives = false goes with query_to_doc alone, and hardness_mode hard_negatives or none"
        if wrong:
            raise ValueError(wrong)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, least=2 if self.in_batch_negatives else 3, most=None, lists_from=2)
        queries, documents = embeddings[0], torch.cat(list(embeddings[1:]))
        if self.normalize:
            queries, documents = unit(queries), unit(documents)  # here, and not again in each block
        rows = torch.cat([text_rows(column, counts_of(batch, c)) for c, column in enumerate(embeddings) if c > 0])
        own = (queries, documents[: len(queries)])  # the first n documents are the positives
        return sum_over_rows(self._loss_of_block, own, (queries, documents, rows), len(documents)) / len(queries)

    def _loss_of_block(self, block: slice, own: Tensors, shared: Tensors) -> Tensor:
        """The block's queries and positives [b, D]; all queries [n, D], documents [m, D], their rows [m] -> sum."""
        (queries, positives), (all_queries, documents, rows) = own, shared
        n = len(all_queries)
        of_row = same_row(block, rows)  # [b, m] the documents of the query's row: they are no negatives of one another
        scores = [self._query_to_doc(queries, documents, of_row, n)]
        positive = scores[0].diagonal(block.start)  # row i of the block is row start + i of the batch
        if "query_to_query" in self.directions:
            to_queries = self.similarity_fct(queries, all_queries) * self.scale
            scores.append(to_queries.masked_fill(of_row[:, :n], float("-inf")))  # exp(-inf) = 0: a query is not its own
        if "doc_to_query" in self.directions:
            scores.append(self.similarity_fct(positives, all_queries) * self.scale)
        if "doc_to_doc" in self.directions:
            to_documents = self.similarity_fct(positives, documents) * self.scale
            scores.append(to_documents.masked_fill(of_row, float("-inf")))
        return (self.normalizer(scores) - positive).sum()  # -log softmax, of the positive among all candidates

    def _query_to_doc(self, queries: Tensor, documents: Tensor, of_row: Tensor, n: int) -> Tensor:
        """[b, D], [m, D] -> scores [b, m]."""
        raw = self.similarity_fct(queries, documents)
        scores = raw * self.scale
        if self.hardened is not None:
            hard = of_row.clone()
            hard[:, :n] = False  # the first n are the positives
            # detached: it is a weight exp(strength * sim) on the negative, not a second reason to move it
            scores = scores + self.hardness_strength * raw.detach() * self.hardened(of_row, hard)
        return scores if self.in_batch_negatives else scores.masked_fill(~of_row, float("-inf"))


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """MultipleNegativesRankingLoss, with its letters, of two directions "per_direction": find the document of a query,
    and the query of a document (Guenther et al. 2024, arXiv:2310.19923).
        loss = mean_i  1/2 log sum_j exp s(q_i, d_j)  +  1/2 log sum_j exp s(d_i, q_j)  -  s(q_i, d_i)"""

    def __init__(self, scale: float = 20.0, similarity_fct: str = "cosine") -> None:
        super().__init__(scale, similarity_fct, ("query_to_doc", "doc_to_query"), "per_direction")
