"""A stand-in."""

import torch
from torch import Tensor

from minist.similarity import similarity


def paraphrase_pairs(
    embeddings: Tensor,
    top_k: int = 100,
    max_pairs: int = 500000,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    similarity_name: str = "cosine",
) -> tuple[Tensor, Tensor]:
    if len(embeddings) < 2:
        return torch.empty(0), torch.empty(0, 2, dtype=torch.long)
    scores = similarity(similarity_name)(embeddings.to_dense(), embeddings.to_dense())
    scores.fill_diagonal_(-torch.inf)
    values, columns = scores.topk(min(top_k, len(scores) - 1), dim=1)
    found = {}
    for i, (row, places) in enumerate(zip(values.tolist(), columns.tolist(), strict=True)):
        for value, j in zip(row, places, strict=True):
            found.setdefault((min(i, j), max(i, j)), value)
    best = sorted(found, key=lambda pair: -found[pair])[:max_pairs]
    return torch.tensor([found[pair] for pair in best]), torch.tensor(best)
