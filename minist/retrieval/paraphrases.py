"""Pairs of texts that mean the same: within one list, or between the same text in two languages."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minist.checks import pick, whole
from minist.retrieval.search import DOCUMENTS, QUERIES, as_rows, search, search_block
from minist.similarity import Similarity, dot, similarity, unit

ROWS, COLUMNS, PAIRS = 512, 2048, 1024  # of one matrix product, small enough for a CPU's cache; pairs that are scored
SAMPLE = 512  # rows from which the score of the last pair is guessed
FEW = 1 / 200  # of a block's pairs: so many are scored one by one, for more a matrix product is faster
Pairs = tuple[Tensor, Tensor, Tensor]  # scores, rows i, rows j
MARGINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ratio": torch.div, "distance": torch.sub}
MARGINS["absolute"] = lambda cosine, mean: cosine
BEST_OF = {"forward": [0], "backward": [1], "max": [0, 1], "intersect": [0, 1]}  # each source: 0, each target: 1


def paraphrase_mining(
    model: Any, sentences: Sequence[str], top_k: int = 100, max_pairs: int = 500_000, prompt_name: str | None = None
) -> list[list[Any]]:
    """[score, i, j] of the sentences that `model` finds most similar, as `paraphrase_pairs`."""
    embeddings = model.encode(sentences, prompt_name=prompt_name, convert_to_tensor=True)
    return paraphrase_mining_embeddings(embeddings, max_pairs, top_k)


def paraphrase_mining_embeddings(
    embeddings: Any, max_pairs: int = 500_000, top_k: int = 100, score_function: str | Similarity = "cosine"
) -> list[list[Any]]:
    scores, pairs = paraphrase_pairs(embeddings, top_k, max_pairs, similarity_name=score_function)
    return [[score, i, j] for score, (i, j) in zip(scores.tolist(), pairs.tolist(), strict=True)]


def paraphrase_pairs(
    embeddings: Any, top_k: int = 100, max_pairs: int = 500_000, query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000, similarity_name: str | Similarity = "cosine",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scores [P] and rows [P, 2] of the best pairs i < j of [N, D], best first, of equal scores the lower rows first.

    A pair is found if either row is among the `top_k` nearest of the other; of all found the best `max_pairs` stay.
    A similarity of your own is a symmetric function. Sizes of chunks are the most that is compared at once. Memory:
    one and a third copies of the embeddings, and some times `max_pairs`. NaN is similar to nothing."""
    x, score = as_rows(embeddings), similarity_name if callable(similarity_name) else similarity(similarity_name)
    if similarity_name in ("cosine", "dot"):
        x, score = unit(x) if similarity_name == "cosine" else x.float(), dot
    top_k, max_pairs = whole("top_k", top_k, 1), whole("max_pairs", max_pairs, 1)
    sizes = min(query_chunk_size, QUERIES), min(corpus_chunk_size, DOCUMENTS)
    found = near_enough(x, top_k, max_pairs) if score is dot else None
    found = nearest_of_each(x, score, top_k, max_pairs, sizes) if found is None else found
    scores, i, j = best_pairs([found], len(x), max_pairs)
    return scores, torch.stack([i, j], dim=1)


def nearest_of_each(x: Tensor, score: Similarity, top_k: int, max_pairs: int, sizes: tuple[int, int]) -> Pairs:
    """All rows are compared with all: every pair is scored twice."""
    best: Pairs = torch.empty(0), torch.empty(0).long(), torch.empty(0).long()
    for start in range(0, len(x), sizes[0]):
        scores, others = search_block(x[start : start + sizes[0]], x, top_k + 1, score, sizes[1])
        rows = torch.arange(start, start + len(scores))[:, None].expand_as(others)
        wanted = others != rows  # one more was asked for, as a row is near to itself, but not always among the nearest
        wanted &= (wanted.cumsum(1) <= top_k) & (scores > (best[0][-1] if len(best[0]) == max_pairs else -torch.inf))
        found = scores[wanted], torch.minimum(rows, others)[wanted], torch.maximum(rows, others)[wanted]
        best = best_pairs([best, found], len(x), max_pairs)
    return best


def best_pairs(parts: Sequence[Pairs], n: int, most: int) -> Pairs:
    """Each pair of `n` rows once, best first, of equal scores the lower rows first, `most` of them."""
    scores, i, j = (torch.cat(column) for column in zip(*parts, strict=True))
    kept = torch.from_numpy(np.unique((i * n + j).numpy(), return_index=True)[1])  # in order of rows
    kept = kept[scores[kept].argsort(descending=True, stable=True)][:most]
    return scores[kept], i[kept], j[kept]


def near_enough(x: Tensor, top_k: int, max_pairs: int) -> Pairs | None:
    """The same and some worse pairs by a shorter way: no other is near enough to count. None: it is no shorter here.

    The similarity of the last pair is guessed from some rows, too low rather than too high, as a wrong guess shows."""
    sample = x[:: max(1, len(x) // SAMPLE)]
    scores = search_block(sample, x, top_k + 1, dot, DOCUMENTS)[0][:, 1:].flatten()  # the nearest is the row itself
    place = 3 * max_pairs * len(sample) // max(len(x), 1)  # 3: both rows may find the same pair, and a reserve
    least = scores.sort(descending=True).values[place].item() if place < len(scores) else -torch.inf
    if least == -torch.inf:
        return None
    parts, count = list[Pairs](), 0
    for part in near_pairs(x, least):
        parts.append(part)
        count += len(part[0])
        if count > 8 * max_pairs:  # near duplicates in large groups: what is no neighbour now, will be none later
            parts = [among_nearest(parts, top_k)]
            count = len(parts[0][0])
            if count > 4 * max_pairs:
                return None
    found = among_nearest(parts, top_k)
    return found if len(found[0]) >= max_pairs else None


def among_nearest(parts: list[Pairs], top_k: int) -> Pairs:
    """Those of the pairs where either row is among the `top_k` nearest of the other, of equal ones the lower rows."""
    scores, i, j = (torch.cat(column) for column in zip(*parts, strict=True))
    rows, others = torch.cat([i, j]), torch.cat([j, i])
    counts = rows.bincount()
    if not len(rows) or counts.max() <= top_k:
        return scores, i, j
    order = torch.from_numpy(np.lexsort((others, -scores.repeat(2), rows)))
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[rows[order]]  # counted from each row's first
    wanted = (ranks < top_k).view(2, -1).any(0)
    return scores[wanted], i[wanted], j[wanted]


def near_pairs(x: Tensor, least: float) -> Iterator[Pairs]:
    """Scores and rows i < j of the pairs of [N, D] with x_i . x_j >= least, a block at a time. NaN is near to nothing.

    No pair is scored twice, and most are not even once: for vectors in two parts, x = (u, v), and the lengths of v,
    x_i . x_j <= u_i . u_j + |v_i| |v_j| (Cauchy-Schwarz), which is one shorter product. Few pairs pass it."""
    bounds = shortened(x)
    for start in range(0, len(x), ROWS):
        for first in range(start, len(x), COLUMNS):
            found = bounds[start : start + ROWS] @ bounds[first : first + COLUMNS].T
            places = torch.from_numpy(np.flatnonzero((found >= least).cpu().numpy()))
            i, j = places // found.shape[1] + start, places % found.shape[1] + first
            upper = i < j
            i, j, scores = i[upper], j[upper], found.flatten().cpu()[places[upper]]
            if bounds is not x:
                both = zip(i.split(PAIRS), j.split(PAIRS), strict=True)
                scores = torch.cat([(x[a] * x[b]).sum(1).cpu() for a, b in both])
            near = scores >= least
            yield scores[near], i[near], j[near]
            bounds = x if len(places) > FEW * found.numel() + ROWS else bounds  # ROWS: each row is near to itself


def shortened(x: Tensor) -> Tensor:
    """[N, D] -> [N, D / 3 + 1], whose products are never less than those of x; x itself if that is short anyway."""
    if x.shape[-1] < 32:
        return x
    some = x[:: max(1, len(x) // 4096)].nan_to_num(0, 0, 0).double()
    turn = torch.linalg.eigh(some.T @ some).eigenvectors.flip(1).to(x.dtype)  # the axes that hold most come first (PCA)
    u, squares = x @ turn[:, : x.shape[1] // 3], x.square().sum(1, keepdim=True)
    rest = squares - u.square().sum(1, keepdim=True)
    return torch.cat([u, (rest.clamp_min(0) + 1e-5 * squares).sqrt()], dim=1)  # 1e-5: more than fp32 rounds off


def mine_parallel(
    source_embeddings: Any, target_embeddings: Any, k: int = 4, margin: str = "ratio", retrieval: str = "max",
    threshold: float = -torch.inf,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scores [P] and rows [P, 2], source and target, of what translates each other; best first, each row at most once.

    Some sentences are near to all others, so a cosine counts as much as it exceeds the mean b of those of both to
    their `k` nearest: ratio cos / b, distance cos - b, or absolute cos. Best matches of sources ("forward"), of
    targets ("backward"), of both ("max"), or where the two agree ("intersect"). Pairs from `threshold` on.
    Artetxe and Schwenk 2019, arXiv:1811.01136."""
    sides, of = (as_rows(source_embeddings), as_rows(target_embeddings)), pick("margin", margin, MARGINS)
    near = [search(a, b, k) for a, b in (sides, sides[::-1])]
    means, found = [scores.mean(1) for scores, _ in near], list[tuple[float, int, int]]()
    for side in pick("retrieval", retrieval, BEST_OF) if all(map(len, sides)) else []:
        scores, rows = near[side]
        values = of(scores, (means[side][:, None] + means[1 - side][rows]) / 2).nan_to_num(-torch.inf)
        best, column = values.max(1)
        ends = [range(len(rows)), rows.gather(1, column[:, None])[:, 0].tolist()]
        found += zip(best.tolist(), *(ends[::-1] if side else ends), strict=True)  # the source first
    times, wanted = Counter((i, j) for _, i, j in found), 2 if retrieval == "intersect" else 1
    used, kept = set[tuple[str, int]](), list[tuple[float, int, int]]()
    for score, i, j in sorted(found, key=lambda pair: -pair[0]):
        texts = {("source", i), ("target", j)}
        if score >= threshold and score > -torch.inf and times[i, j] >= wanted and not used & texts:
            kept.append((score, i, j))
            used |= texts
    return torch.tensor([score for score, *_ in kept]), torch.tensor([pair for _, *pair in kept]).long().view(-1, 2)
