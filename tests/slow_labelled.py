"""The losses that learn from labels, triplets or a teacher once more, from their formulas in python loops."""

import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


SIMILARITIES = {"cosine": cosine, "dot": dot, "euclidean": lambda a, b: -distance(a, b, "euclidean")}


def distance(a: Tensor, b: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return 1 - cosine(a, b)
    if metric == "euclidean":
        return (a - b).pow(2).sum().sqrt()
    return (a - b).abs().sum()


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Real and imaginary parts of z conj(w), summed, for unit vectors z, w whose second half is imaginary."""
    half = (len(a) + 1) // 2
    if len(a) % 2:
        a, b = (torch.cat([x, x.new_zeros(1)]) for x in (a, b))
    z = torch.complex(a[:half], a[half:]) / a.norm()
    w = torch.complex(b[:half], b[half:]) / b.norm()
    product = z * w.conj()
    return (product.real + product.imag).sum().abs()


def hinge(value: Tensor) -> Tensor:
    return value if value > 0 else 0 * value


def cosine_similarity(embeddings, batch, loss_fct="mse", cos_score_transformation="identity"):
    """mean_i of loss_fct(transformation(cos), label)"""
    total = 0
    for u, v, label in zip(*embeddings, batch.labels, strict=True):
        score = cosine(u, v)
        if cos_score_transformation == "sigmoid":
            score = 1 / (1 + (-score).exp())
        elif cos_score_transformation == "tanh":
            score = (score.exp() - (-score).exp()) / (score.exp() + (-score).exp())
        elif cos_score_transformation == "relu":
            score = hinge(score)
        gap = (score - label).abs()
        near = gap**2 / 2 if gap < 1 else gap - 0.5
        total = total + {"mse": gap**2, "l1": gap, "smooth_l1": near, "huber": near}[loss_fct]
    return total / len(batch.labels)


def ranking(scores, labels):
    """log(1 + sum over label_i < label_j of exp(score_i - score_j))"""
    total = 1
    for lower, label in zip(scores, labels, strict=True):
        for higher, other in zip(scores, labels, strict=True):
            if label < other:
                total = total + (lower - higher).exp()
    return total.log() if isinstance(total, Tensor) else 0 * sum(scores)


def cosent(embeddings, batch, scale=20.0, similarity_fct="cosine"):
    scores = [scale * SIMILARITIES[similarity_fct](u, v) for u, v in zip(*embeddings, strict=True)]
    return ranking(scores, batch.labels)


def lists(embeddings, batch):
    """For each row, its texts in each column but the first: lists of one, or as many as counts says."""
    rows, found = len(embeddings[0]), []
    for c, column in enumerate(embeddings[1:], start=1):
        counts = batch.counts[c].tolist() if batch.counts and batch.counts[c] is not None else [1] * rows
        texts = iter(column)
        found.append([[next(texts) for _ in range(count)] for count in counts])
    return list(zip(*found, strict=True))


def angle_ranking(embeddings, batch, scale=20.0):
    labels = [1.0] * len(embeddings[0]) if batch.labels is None else batch.labels.tolist()
    scores, wanted = [], []
    for anchor, label, (positives, *negatives) in zip(embeddings[0], labels, lists(embeddings, batch), strict=True):
        for text, target in [(p, label) for p in positives] + [(n, 1 - label) for column in negatives for n in column]:
            scores.append(scale * angle(anchor, text))
            wanted.append(target)
    return ranking(scores, wanted)


def contrastive(embeddings, batch, distance_metric="cosine", margin=0.5, size_average=True):
    total = 0
    for u, v, label in zip(*embeddings, batch.labels, strict=True):
        d = distance(u, v, distance_metric)
        total = total + (label * d**2 + (1 - label) * hinge(margin - d) ** 2) / 2
    return total / len(batch.labels) if size_average else total


def online_contrastive(embeddings, batch, distance_metric="cosine", margin=0.5):
    distances = [distance(u, v, distance_metric) for u, v in zip(*embeddings, strict=True)]
    positives = [d for d, label in zip(distances, batch.labels, strict=True) if label == 1]
    negatives = [d for d, label in zip(distances, batch.labels, strict=True) if label == 0]
    from_negatives = min(negatives) if negatives else sum(positives) / len(positives)
    from_positives = max(positives) if positives else sum(negatives) / len(negatives)
    return (
        0 * sum(distances)
        + sum(d**2 for d in positives if d > from_negatives)
        + sum(hinge(margin - d) ** 2 for d in negatives if d < from_positives)
    )


def softmax(embeddings, batch, weight, bias, loss_fct="cross_entropy", rep=True, difference=True, multiplication=False):
    """-log of the class's share; weight and bias are those of the loss."""
    total = 0
    for u, v, label in zip(*embeddings, batch.labels, strict=True):
        parts = [u, v] * rep + [(u - v).abs()] * difference + [u * v] * multiplication
        features = torch.cat(parts)
        logits = [(w * features).sum() + b for w, b in zip(weight, bias, strict=True)]
        shares = label if label.dim() else [float(c == label) for c in range(len(weight))]
        if loss_fct == "cross_entropy":
            whole = sum(logit.exp() for logit in logits)
            total = total - sum(s * (logit.exp() / whole).log() for s, logit in zip(shares, logits, strict=True))
        else:
            ones = [1 / (1 + (-logit).exp()) for logit in logits]
            parts = [s * p.log() + (1 - s) * (1 - p).log() for s, p in zip(shares, ones, strict=True)]
            total = total - sum(parts) / len(parts)
    return total / len(batch.labels)


def triplet(embeddings, batch, distance_metric="euclidean", triplet_margin=5.0):
    total = 0
    for a, p, n in zip(*embeddings, strict=True):
        total = total + hinge(distance(a, p, distance_metric) - distance(a, n, distance_metric) + triplet_margin)
    return total / len(embeddings[0])


def neighbours(embeddings, batch, metric):
    """For each row: the distances to the other rows of its class, and to those of other classes."""
    x, labels = embeddings[0], batch.labels.tolist()
    rows = range(len(x))
    for a in rows:
        positives = [distance(x[a], x[p], metric) for p in rows if p != a and labels[p] == labels[a]]
        yield positives, [distance(x[a], x[n], metric) for n in rows if labels[n] != labels[a]]


def batch_all(embeddings, batch, distance_metric="euclidean", margin=5.0):
    triplets = []
    for positives, negatives in neighbours(embeddings, batch, distance_metric):
        triplets += [p - n + margin for p in positives for n in negatives]
    active = [t for t in triplets if t > 0]
    return sum(active) / len(active) if active else 0 * embeddings[0].sum()


def batch_hard(embeddings, batch, distance_metric="euclidean", margin=5.0):
    total = 0 * embeddings[0].sum()
    for positives, negatives in neighbours(embeddings, batch, distance_metric):
        if negatives:
            total = total + hinge(max(positives, default=0) - min(negatives) + margin)
    return total / len(embeddings[0])


def batch_hard_soft(embeddings, batch, distance_metric="euclidean"):
    total = 0 * embeddings[0].sum()
    for positives, negatives in neighbours(embeddings, batch, distance_metric):
        if negatives:
            total = total + (1 + (max(positives, default=0) - min(negatives)).exp()).log()
    return total / len(embeddings[0])


def batch_semi_hard(embeddings, batch, distance_metric="euclidean", margin=5.0):
    total, pairs = 0 * embeddings[0].sum(), 0
    for positives, negatives in neighbours(embeddings, batch, distance_metric):
        pairs += len(positives)
        for p in positives if negatives else []:
            farther = [n for n in negatives if n > p]
            total = total + hinge(p - (min(farther) if farther else max(negatives)) + margin)
    return total / max(pairs, 1)


def embed_distill(embeddings, batch, distance_metric="cosine", weight=None, bias=None):
    """weight and bias are those of the loss's projection."""
    total, count = 0, 0
    for c, column in enumerate(embeddings):
        for i, student in enumerate(column):
            if batch.labels is None:
                teacher = batch.guide[c][i]
            else:
                teacher = batch.labels[i] if batch.labels.dim() == 2 else batch.labels[i][c]
            if weight is not None:
                student = torch.stack([(w * student).sum() + b for w, b in zip(weight, bias, strict=True)])
            squared = (student - teacher).pow(2).sum()
            distances = {"mse": squared / len(teacher), "l2": squared.sqrt(), "cosine": 1 - cosine(student, teacher)}
            total, count = total + distances[distance_metric], count + 1
    return total / count


def mse(embeddings, batch, weight=None, bias=None):
    return embed_distill(embeddings, batch, "mse", weight, bias)


def margin_mse(embeddings, batch, similarity_fct="dot"):
    total, count = 0, 0
    for query, label, (positives, *columns) in zip(embeddings[0], batch.labels, lists(embeddings, batch), strict=True):
        negatives = [n for column in columns for n in column]
        numbers = [x for x in label.reshape(-1).tolist() if x == x]
        if len(numbers) == len(negatives) + 1:
            numbers = [numbers[0] - x for x in numbers[1:]]
        for negative, margin in zip(negatives, numbers, strict=True):
            sim = SIMILARITIES[similarity_fct]
            total = total + (sim(query, positives[0]) - sim(query, negative) - margin) ** 2
            count += 1
    return total / count


def distill_kl(
    embeddings, batch, similarity_fct="dot", temperature=1.0, student_temperature=None, teacher_temperature=None
):
    student_temperature = student_temperature or temperature
    teacher_temperature = teacher_temperature or temperature
    total = 0 * embeddings[0].sum()
    for query, label, columns in zip(embeddings[0], batch.labels, lists(embeddings, batch), strict=True):
        texts = [text for column in columns for text in column]
        teacher = [(x / teacher_temperature).exp() for x in label if x == x]
        student = [(SIMILARITIES[similarity_fct](query, text) / student_temperature).exp() for text in texts]
        for p, q in zip(teacher, student, strict=True):
            total = total + p / sum(teacher) * ((p / sum(teacher)).log() - (q / sum(student)).log())
    return student_temperature**2 * total / len(embeddings[0])


def contrastive_tension(embeddings, batch):
    total = 0
    for u, v, label in zip(*embeddings, batch.labels, strict=True):
        p = 1 / (1 + (-dot(u, v)).exp())
        total = total - (p.log() if label else (1 - p).log())
    return total


def contrastive_tension_in_batch(embeddings, batch, logit_scale, similarity_fct="cosine"):
    """logit_scale is the loss's parameter."""
    u, v = embeddings[0], embeddings[-1]
    rows, sim = range(len(u)), SIMILARITIES[similarity_fct]
    e = [[(sim(u[i], v[j]) * logit_scale.exp()).exp() for j in rows] for i in rows]
    total = 0
    for i in rows:
        total = total - (e[i][i] / sum(e[i][j] for j in rows)).log() - (e[i][i] / sum(e[j][i] for j in rows)).log()
    return total / (2 * len(u))


SLOW_LABELLED = {
    "AnglELoss": angle_ranking,
    "BatchAllTripletLoss": batch_all,
    "BatchHardSoftMarginTripletLoss": batch_hard_soft,
    "BatchHardTripletLoss": batch_hard,
    "BatchSemiHardTripletLoss": batch_semi_hard,
    "CoSENTLoss": cosent,
    "ContrastiveLoss": contrastive,
    "ContrastiveTensionLoss": contrastive_tension,
    "ContrastiveTensionLossInBatchNegatives": contrastive_tension_in_batch,
    "CosineSimilarityLoss": cosine_similarity,
    "DistillKLDivLoss": distill_kl,
    "EmbedDistillLoss": embed_distill,
    "MSELoss": mse,
    "MarginMSELoss": margin_mse,
    "OnlineContrastiveLoss": online_contrastive,
    "SoftmaxLoss": softmax,
    "TripletLoss": triplet,
}
