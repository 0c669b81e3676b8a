"""What a learner wants to see of a batch besides its loss: do pairs meet, do other texts part, is space used?

    accuracy        share of rows whose own positive is nearer than every other positive of the batch
    positive, negative   mean cosine of a pair, and of texts of different rows
    alignment       mean |x - y|^2 over pairs, of unit vectors: 0 where pairs coincide
    uniformity      log mean exp(-2 |x - x'|^2) over different texts: -4 where they spread evenly, 0 where they coincide
    effective_rank  exp of the entropy of the normalized singular values: how many dimensions are really used

Alignment and uniformity: Wang and Isola 2020, arXiv:2005.10242. Effective rank: Roy and Vetterli 2007.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 512  # of a batch that are looked at: enough for a mean, and cheap beside the step
COLLAPSED = 0.99  # mean cosine of texts of different rows


@torch.no_grad()
def describe_batch(embeddings: Sequence[Tensor]) -> dict[str, float]:
    """Figures of the first two columns [n, D], row by row a pair; of one column, what can be said of it alone."""
    columns = [F.normalize(x.detach()[:ROWS].float(), dim=-1) for x in embeddings[:2]]
    x, y = columns[0], columns[-1]
    found = {"uniformity": uniformity(y), "effective_rank": effective_rank(y)}
    if len(columns) == 1 or len(x) != len(y):
        return found
    scores = x @ y.T
    own, n = scores.diagonal(), len(x)
    found |= {"positive": own.mean().item(), "alignment": (2 - 2 * own).mean().item()}
    if n > 1:
        found["negative"] = ((scores.sum() - own.sum()) / (n * (n - 1))).item()
        found["accuracy"] = (scores.argmax(1) == torch.arange(n, device=x.device)).float().mean().item()
    return found


def uniformity(x: Tensor) -> float:
    """Of unit vectors [n, D]."""
    if len(x) < 2:
        return 0.0
    squared = torch.pdist(x).square()
    return (-2 * squared).exp().mean().log().item()


def effective_rank(x: Tensor) -> float:
    """Of vectors [n, D]: between 1 and min(n, D)."""
    values = torch.linalg.svdvals(x)
    shares = values / values.sum().clamp(min=1e-12)
    return torch.special.entr(shares).sum().exp().item()


def warning(figures: dict[str, float]) -> str:
    """A line that says so when training has collapsed, else an empty one."""
    if figures.get("negative", 0.0) > COLLAPSED:
        return (
            f"warning: all embeddings are alike (mean cosine of unrelated texts {figures['negative']:.3f}): "
            "training has collapsed; try a lower learning rate or more warmup"
        )
    return ""
