"""Every loss of cross-encoders once more, straight from its formula in python loops over single pairs.

Each takes the logits [P, num_labels], the batch, and the options of the loss. Lists stay lists, so there is no padding.
"""

import math

from torch import Tensor

ACTIVATIONS = {
    "Identity": lambda x: x,
    "Sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "Tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
}


def mean(values: list[Tensor], like: Tensor) -> Tensor:
    """0, with a gradient of 0, of no values."""
    return (sum(values) + 0 * like.sum()) / max(len(values), 1)


def scores_of(logits: Tensor, activation_fn: str) -> list[Tensor]:
    return [ACTIVATIONS[activation_fn](x) for (x,) in logits]


def in_rows(values, counts: Tensor) -> list[list[Tensor]]:
    """The first counts[0] of them, the next counts[1] .."""
    values = iter(values)
    return [[next(values) for _ in range(n)] for n in counts.tolist()]


def lists_of(logits: Tensor, batch, activation_fn: str) -> list[tuple[list[Tensor], list[float]]]:
    """Scores and labels of each list."""
    scores = in_rows(scores_of(logits, activation_fn), batch.counts[0])
    return list(zip(scores, in_rows(batch.labels.tolist(), batch.counts[0]), strict=True))


def log_sigmoid(x: Tensor) -> Tensor:
    return -(1 + (-x).exp()).log() if x > 0 else x - (1 + x.exp()).log()


def softmax(values: list[Tensor]) -> list[Tensor]:
    total = sum(value.exp() for value in values)
    return [value.exp() / total for value in values]


def binary_cross_entropy(logits, batch, activation_fn="Identity", pos_weight=1.0) -> Tensor:
    """-mean_i w y_i log(sigmoid(s_i)) + (1 - y_i) log(1 - sigmoid(s_i))"""
    pairs = zip(scores_of(logits, activation_fn), batch.labels.tolist(), strict=True)
    losses = [-pos_weight * y * log_sigmoid(s) - (1 - y) * log_sigmoid(-s) for s, y in pairs]
    return mean(losses, logits)


def mse(logits, batch, activation_fn="Identity") -> Tensor:
    """mean_i (s_i - y_i)^2"""
    pairs = zip(scores_of(logits, activation_fn), batch.labels.tolist(), strict=True)
    return mean([(s - y) ** 2 for s, y in pairs], logits)


def cross_entropy(logits, batch, activation_fn="Identity") -> Tensor:
    """-mean_i sum_c y_ic log(softmax_c(z_i))"""
    losses = []
    for row, label in zip(logits, batch.labels.tolist(), strict=True):
        shares = softmax([ACTIVATIONS[activation_fn](z) for z in row])
        wanted = label if isinstance(label, list) else [float(c == label) for c in range(len(shares))]
        losses.append(-sum(y * share.log() for y, share in zip(wanted, shares, strict=True)))
    return mean(losses, logits)


def margin_mse(logits, batch, activation_fn="Identity") -> Tensor:
    """mean over i, j of (s(q_i, p_i) - s(q_i, n_ij) - margin_ij)^2"""
    rows, errors = in_rows(scores_of(logits, activation_fn), batch.counts[0]), []
    labels = [row if isinstance(row, list) else [row] for row in batch.labels.tolist()]
    labels = [[y for y in row if not math.isnan(y)] for row in labels]
    are_scores = all(len(y) == len(s) for s, y in zip(rows, labels, strict=True))  # a row without any has no label
    for scores, given in zip(rows, labels, strict=True):
        margins = [given[0] - y for y in given[1:]] if are_scores else given
        errors += [(scores[0] - n - margin) ** 2 for n, margin in zip(scores[1:], margins, strict=True)]
    return mean(errors, logits)


def multiple_negatives_ranking(logits, batch, num_negatives=4, scale=10.0, activation_fn="Sigmoid") -> Tensor:
    """-mean_i log(softmax_0(scale * s_i)); the negatives are in the batch already"""
    rows = in_rows(scores_of(logits, activation_fn), batch.counts[0])
    return mean([-softmax([scale * s for s in row])[0].log() if row else 0.0 for row in rows], logits)


def weight(scheme: str, i: int, j: int, gains: list[float], mu: float = 10.0) -> float:
    """w_ij of documents at ranks i and j, which count from 1."""

    def by_distance() -> float:
        d = abs(i - j)
        return abs(1 / math.log2(1 + d) - 1 / math.log2(2 + d)) if d else 0.0

    gap = abs(gains[i - 1] - gains[j - 1])
    by_rank = abs(1 / math.log2(1 + i) - 1 / math.log2(1 + j))
    return {
        "NoWeightingScheme": lambda: 1.0,
        "NDCGLoss1Scheme": lambda: gains[i - 1] / math.log2(1 + i),
        "NDCGLoss2Scheme": lambda: by_distance() * gap,
        "LambdaRankScheme": lambda: by_rank * gap,
        "NDCGLoss2PPScheme": lambda: (mu * by_distance() + by_rank) * gap,
    }[scheme]()


def lambda_loss(
    logits,
    batch,
    weighting_scheme="NDCGLoss2PPScheme",
    k=None,
    sigma=1.0,
    eps=1e-10,
    reduction_log="binary",
    activation_fn="Identity",
) -> Tensor:
    """-mean over pairs with y_i > y_j, one of them at a rank up to k, of w_ij log(sigmoid(sigma (s_i - s_j)))"""
    losses = []
    for scores, labels in lists_of(logits, batch, activation_fn):
        n = len(scores)
        k_here = n if k is None else k
        order = sorted(range(n), key=lambda document: -scores[document].item())
        scores, labels = [scores[document] for document in order], [labels[document] for document in order]
        gain = [2 ** max(y, 0.0) - 1 for y in labels]
        best = sum(g / math.log2(1 + rank) for rank, g in enumerate(sorted(gain, reverse=True)[:k_here], 1))
        gains = [g / max(best, eps) for g in gain]
        for i in range(1, n + 1):
            for j in range(1, n + 1):
                right = weighting_scheme == "NDCGLoss1Scheme" or labels[i - 1] > labels[j - 1]
                if right and (i <= k_here or j <= k_here):
                    w = weight(weighting_scheme, i, j, gains)
                    losses.append(-w * log_sigmoid(sigma * (scores[i - 1] - scores[j - 1])))
    return mean(losses, logits) / {"binary": math.log(2), "natural": 1.0}[reduction_log]


def rank_net(logits, batch, **options) -> Tensor:
    return lambda_loss(logits, batch, "NoWeightingScheme", **options)


def list_net(logits, batch, activation_fn="Identity") -> Tensor:
    """-mean over lists of sum_i softmax_i(y) log(softmax_i(s))"""
    losses = []
    for scores, labels in lists_of(logits, batch, activation_fn):
        wanted = softmax([logits.new_tensor(y) for y in labels])
        losses.append(-sum(p * q.log() for p, q in zip(wanted, softmax(scores), strict=True)))
    return mean(losses, logits)


def p_list_mle(
    logits, batch, lambda_weight="exponential", activation_fn="Identity", respect_input_order=True
) -> Tensor:
    """-mean over lists of sum_r w_r log(exp(s_r) / sum over t >= r of exp(s_t)); lambda_weight None: w_r = 1"""
    losses = []
    for scores, labels in lists_of(logits, batch, activation_fn):
        n = len(scores)
        if not respect_input_order:
            scores = [scores[document] for document in sorted(range(n), key=lambda document: -labels[document])]
        weights = {
            None: lambda rank, n: 1.0,
            "exponential": lambda rank, n: 2.0 ** (n - rank) - 1,
            "logarithmic": lambda rank, n: 1 / math.log2(1 + rank),
            "reciprocal": lambda rank, n: 1 / rank,
        }[lambda_weight]
        drawn = [weights(rank, n) for rank in range(1, n + 1)]
        share = 1.0 if lambda_weight is None else sum(drawn) or 1.0
        losses.append(-sum(w / share * softmax(scores[r:])[0].log() for r, w in enumerate(drawn)))
    return mean(losses, logits)


def list_mle(logits, batch, **options) -> Tensor:
    return p_list_mle(logits, batch, None, **options)


def adr_mse(logits, batch, alpha=1.0, activation_fn="Identity") -> Tensor:
    """mean over documents of (r_i - a_i)^2 / log2(1 + r_i), a_i = 1 + sum over j != i of sigmoid(alpha (s_j - s_i))"""
    errors = []
    for scores, labels in lists_of(logits, batch, activation_fn):
        for i, (score, label) in enumerate(zip(scores, labels, strict=True)):
            above, equal = sum(y > label for y in labels), sum(y == label for y in labels)
            rank = sum(above + place for place in range(1, equal + 1)) / equal  # the mean of theirs
            by_score = 1 + sum(ACTIVATIONS["Sigmoid"](alpha * (s - score)) for j, s in enumerate(scores) if j != i)
            errors.append((rank - by_score) ** 2 / math.log2(1 + rank))
    return mean(errors, logits)


SLOW = {
    "ADRMSELoss": adr_mse,
    "BinaryCrossEntropyLoss": binary_cross_entropy,
    "CrossEntropyLoss": cross_entropy,
    "LambdaLoss": lambda_loss,
    "ListMLELoss": list_mle,
    "ListNetLoss": list_net,
    "MSELoss": mse,
    "MarginMSELoss": margin_mse,
    "MultipleNegativesRankingLoss": multiple_negatives_ranking,
    "PListMLELoss": p_list_mle,
    "RankNetLoss": rank_net,
}
