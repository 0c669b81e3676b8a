"""What a learner wants to see of a batch besides its loss: do pairs meet, do other texts part, is space used?
    accuracy        share of rows whose own positive is nearer than every other positive of the batch
    positive, negative   mean cosine of a pair, and of texts of different rows
    alignment       mean |x - y|^2 over pairs, of unit vectors: 0 where pairs coincide, 2 where they are unrelated
    uniformity      log mean exp(-2 |y - y'|^2) over different texts: 0 where they coincide, about -4 where they
                    spread evenly over a sphere of many dimensions
    effective_rank  exp of the entropy of the normalized singular values: how many dimensions are really used
Alignment and uniformity: Wang and Isola 2020, arXiv:2005.10242. Effective rank: Roy and Vetterli 2007."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minist.similarity import unit

ROWS = 512  # of a batch that are looked at: enough for a mean, and cheap beside the step


@torch.no_grad()
def describe_scores(
    logits: Tensor, activation_fn: Callable[[Tensor], Tensor], labels: Tensor | None, counts: Tensor | None
) -> dict[str, float]:
    """Figures of the scores of pairs, [P, C] logits; `counts` [rows] where a row has several pairs.

    best_is_relevant  share of rows whose best document is one with the row's highest label, or the first without labels
    spread            standard deviation of the scores of a row's documents, or of all single pairs
    predicted, label  means of the activated scores and of the labels: where they differ, scores are no probabilities
    accuracy, confidence  with several labels: share of right classes, mean probability of the class that is chosen"""
    x = logits.detach().float()
    if labels is not None and labels.dim() == 2 and x.shape[1] > 1:
        labels = labels.argmax(1)  # of shares of each class
    if not len(x) or not x.isfinite().all():
        return {}
    if x.shape[1] > 1:
        shares, chosen = x.softmax(1).max(1)
        found = {"confidence": shares.mean().item()}
        return found | ({} if labels is None else {"accuracy": (chosen == labels).double().mean().item()})
    scores, found = x[:, 0], {}
    labels = None if labels is None or labels.shape != scores.shape else labels  # margins say nothing of one document
    if labels is not None:
        found = {"predicted": activation_fn(scores).mean().item(), "label": labels.double().mean().item()}
    wanted = -torch.arange(len(scores)) if labels is None else labels  # without labels the first of a row is the best
    sizes = [len(scores)] if counts is None else counts.tolist()
    rows = list(zip(scores.split(sizes), wanted.to(scores.device).split(sizes), strict=True))
    rows = [(row, want) for row, want in rows if counts is None or len(row) > 1]
    if rows:
        found["spread"] = torch.stack([row.std(unbiased=False) for row, _ in rows]).mean().item()
    if rows and counts is not None:
        found["best_is_relevant"] = sum(bool(want[row.argmax()] == want.max()) for row, want in rows) / len(rows)
    return found


@torch.no_grad()
def describe_batch(embeddings: Sequence[Tensor], counts: Sequence[Tensor | None] = ()) -> dict[str, float]:
    """Figures of the first two columns [n, D], row by row a pair; uniformity and effective rank are the second's.
    Left out is what cannot be said: of pairs where there is one column, where the two have other numbers of rows or
    where `counts` says that rows hold several texts; of different texts where there is one; everything where a
    number is not finite. A vector of zeros has the cosine 0 with all. Call it outside of autocast."""
    columns = [unit(x.detach()[:ROWS]) for x in embeddings[:2]]
    if not columns or not all(x.isfinite().all() for x in columns):
        return {}
    found, last = {}, columns[-1]
    if len(last) > 1:
        closeness = torch.pdist(last).square().mul(-2).exp().mean()  # pdist: |y - y'| of every two rows
        found = {"uniformity": closeness.log().item(), "effective_rank": effective_rank(last)}
    same_rows = len({len(x) for x in embeddings[:2]}) == 1 and all(c is None for c in counts[:2])
    if len(columns) < 2 or not same_rows or not len(columns[0]):
        return found
    (x, y), n = columns, len(columns[0])
    scores = x @ y.T
    own = scores.diagonal()
    found |= {"positive": own.mean().item(), "alignment": (x - y).square().sum(1).mean().item()}
    if n > 1:  # of a single row there is nothing to tell apart
        others = scores.clone().fill_diagonal_(float("-inf"))
        found["negative"] = ((scores.sum() - own.sum()) / (n * (n - 1))).item()  # all but the diagonal
        found["accuracy"] = (own > others.amax(1)).double().mean().item()
    return found


def effective_rank(x: Tensor) -> float:
    """Of vectors [n, D]: between 1 and min(n, D)."""
    values = torch.linalg.svdvals(x)
    shares = values / values.sum().clamp(min=1e-12)  # all may be 0
    return torch.special.entr(shares).sum().exp().item()
