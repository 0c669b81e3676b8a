"""Distillation: a student learns the embeddings of a teacher, or the scores that a teacher gave to texts."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minist.batch import Batch
from minist.checks import number, pick
from minist.losses.base import Loss, Tensors, check_columns, counts_of, text_rows
from minist.similarity import Similarity, pairwise_cosine, pairwise_similarity

EMBEDDING_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # student, teacher [n, D'] -> mean over rows
    "cosine": lambda u, t: (1 - pairwise_cosine(u, t)).mean(),
    "mse": F.mse_loss,
    "l2": lambda u, t: (u - t).norm(dim=-1).mean(),
}


class EmbedDistillLoss(Loss):
    """The student's embeddings shall be the teacher's (Kim et al. 2023, arXiv:2301.12005).
    Columns: any number of texts. The teacher's embeddings are the labels, [rows, D'] for every column or
    [rows, columns, D'] for each; or, without labels, batch.guide. With u the student's embedding, t the teacher's:
        loss = mean over columns and rows of   "cosine"  1 - cos(u, t)
                                               "mse"     |u - t|^2 / D'
                                               "l2"      |u - t|
    With projection_dim a linear layer, a parameter of the loss, first maps u from D to D' = projection_dim."""

    columns, guide = "any number of texts", "teacher"
    labels = "teacher embeddings [rows, D] or [rows, columns, D], or none with a [teacher] in the config"

    def __init__(
        self, distance_metric: str = "cosine", projection_dim: int | None = None, embedding_dimension: int | None = None
    ) -> None:
        """`embedding_dimension`, the model's width, goes with `projection_dim`."""
        super().__init__()
        self.distance = pick("distance_metric", distance_metric, EMBEDDING_DISTANCES)
        widths = [width for width in (embedding_dimension, projection_dim) if width is not None]
        if len(widths) == 1:
            given = f"projection_dim is {projection_dim} and embedding_dimension {embedding_dimension}"
            raise ValueError(f"{given}: give both, the teacher's and the student's width, or neither")
        self.projection = nn.Linear(widths[0], widths[1]) if widths else nn.Identity()

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        check_columns(self, embeddings, batch, 1, None, (0, 2, 3))
        students = [self.projection(column) for column in embeddings]
        teachers: Tensors = batch.guide
        if batch.labels is not None:  # of all columns alike, or of each
            teachers = [batch.labels] * len(students) if batch.labels.dim() == 2 else batch.labels.unbind(1)
        given, wanted = ([list(x.shape) for x in columns] for columns in (students, teachers))
        if given != wanted:
            wrong = f"the embeddings are {given}, the teacher's {wanted or 'missing'}: give {self.labels}"
            raise ValueError(f"{type(self).__name__}: {wrong}, as wide as the model or as projection_dim")
        pairs = zip(students, teachers, strict=True)
        # the teacher is what is to be reached, and no weight behind it may move: so it is detached
        return torch.stack([self.distance(u, t.detach().to(u.dtype)) for u, t in pairs]).mean()


class MSELoss(EmbedDistillLoss):
    """EmbedDistillLoss with the mean squared error (Reimers and Gurevych 2020, arXiv:2004.09813), for instance of an
    English sentence and its translation, with the teacher's embedding of the English one as the label of both:
        loss = mean over columns and rows of  |u - t|^2 / D'"""

    def __init__(self, projection_dim: int | None = None, embedding_dimension: int | None = None) -> None:
        super().__init__("mse", projection_dim, embedding_dimension)


class MarginMSELoss(Loss):
    """A positive shall be scored above a negative by as much as the teacher does (Hofstaetter 2020, arXiv:2010.02666).
    Columns: query, positive, and one or more negatives, which may be lists of texts. Labels: the teacher's margins
    score(q, p) - score(q, n_j), [rows, k] or [rows] for k = 1, or its scores of p and all n_j, [rows, 1 + k]; rows with
    fewer than k negatives have NaN at their end:
        loss = mean over rows i and negatives j of  ( s(q_i, p_i) - s(q_i, n_ij) - margin_ij )^2"""

    columns = "query, positive, one or more negatives"
    labels = "margins [rows], such as 2.5, or [rows, k], or scores [rows, 1 + k]"

    def __init__(self, similarity_fct: str = "dot") -> None:
        super().__init__()
        self.similarity_fct = pairwise_similarity(similarity_fct)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        labels = check_columns(self, embeddings, batch, 3, None, (1, 2), lists_from=2)
        scores, there = candidate_scores(embeddings, batch, self.similarity_fct)
        return margin_mse(self, scores, there, labels.detach().to(scores.dtype))


def margin_mse(loss: Loss, scores: Tensor, there: Tensor, labels: Tensor) -> Tensor:
    """MarginMSELoss of scores [rows, 1 + k], the positives' first, and of which of them are there."""
    k = there.shape[1] - 1
    wanted = labels[:, None] if labels.dim() == 1 else labels  # [rows, k or 1 + k or more]
    forms = {f"[rows, {k}] margins": there[:, 1:], f"[rows, {1 + k}] scores": there}
    if form_of_labels(loss, wanted, f"{k} negatives", forms).endswith("scores"):
        wanted = wanted[:, :1] - wanted[:, 1:]
    errors = (scores[:, :1] - scores[:, 1:] - wanted[:, :k])[there[:, 1:]]  # of the negatives that there are
    return (errors**2).sum() / max(len(errors), 1)  # not mean(), which is NaN where no row has a negative


class DistillKLDivLoss(Loss):
    """The student's softmax over a query's texts shall be the teacher's (Lin et al. 2020, arXiv:2010.11386).
    Columns: query, and two or more texts to score, or one column of lists of texts. Labels [rows, k]: the teacher's
    scores of them; rows with fewer than k texts have NaN at their end. The student's temperature is S, the teacher's T:
        loss = S^2 mean_i  KL( softmax_j(label_ij / T)  ||  softmax_j(s(q_i, d_ij) / S) )
    With scores that differ by much more than T the teacher's softmax is 1 for the best text and 0 for all others."""

    columns = "query, two or more texts (or lists of texts)"
    labels = "teacher scores [rows, texts], such as [7.5, -1.0]"

    def __init__(
        self,
        similarity_fct: str = "dot",
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        """`temperature` is for both where theirs is not given."""
        super().__init__()
        self.similarity_fct = pairwise_similarity(similarity_fct)
        student = temperature if student_temperature is None else student_temperature
        teacher = temperature if teacher_temperature is None else teacher_temperature
        self.student_temperature = number("student_temperature", student, above=0)
        self.teacher_temperature = number("teacher_temperature", teacher, above=0)

    def forward(self, embeddings: Tensors, batch: Batch) -> Tensor:
        # the softmax over one text is always 1, and teaches nothing
        least = 2 if len(embeddings) > 1 and counts_of(batch, 1) is not None else 3
        labels = check_columns(self, embeddings, batch, least, None, (2,), lists_from=1)
        scores, there = candidate_scores(embeddings, batch, self.similarity_fct)  # [rows, k]
        k = there.shape[1]
        form_of_labels(self, labels, f"{k} texts", {f"[rows, {k}] scores": there})
        lowest = torch.finfo(scores.dtype).min  # a share of 0; with -inf a row without any text would be NaN
        student = (scores / self.student_temperature).masked_fill(~there, lowest).log_softmax(1)
        teacher = labels[:, :k].detach().to(scores.dtype) / self.teacher_temperature
        teacher = teacher.masked_fill(~there, lowest).softmax(1)
        # the gradient shrinks like 1 / S^2, which this undoes (Hinton et al. 2015, arXiv:1503.02531)
        return F.kl_div(student, teacher, reduction="batchmean") * self.student_temperature**2


def candidate_scores(embeddings: Tensors, batch: Batch, similarity_fct: Similarity) -> tuple[Tensor, Tensor]:
    """Scores of each query, column 0, with the texts of its row in the other columns, one column after the other:
    [rows, k], where k is the largest number of texts in a row; and which of them are there [rows, k]."""
    queries, others = embeddings[0], embeddings[1:]
    if all(counts_of(batch, c) is None for c in range(1, len(embeddings))):
        scores = torch.stack([similarity_fct(queries, column) for column in others], dim=1)
        return scores, torch.ones_like(scores, dtype=torch.bool)
    rows = torch.cat([text_rows(column, counts_of(batch, c)) for c, column in enumerate(others, 1)])
    order = rows.argsort(stable=True)  # stable keeps the texts of a row in the order of the columns, and in its list's
    rows, texts = rows[order], torch.cat(list(others))[order]  # row by row
    lengths = rows.bincount(minlength=len(queries))
    there = torch.arange(int(lengths.max()), device=rows.device) < lengths[:, None]
    flat = similarity_fct(queries[rows], texts)  # of what is there only: filled up to a rectangle it would cost more
    return flat.new_zeros(there.shape).masked_scatter(there, flat), there  # row by row too


def form_of_labels(loss: Loss, labels: Tensor, texts: str, forms: Mapping[str, Tensor]) -> str:
    """The one of `forms`, name -> what is there [rows, k], in which labels have numbers there and NaN elsewhere."""
    for form, there in forms.items():
        missing, beyond = labels.isnan().tensor_split([there.shape[1]], dim=1)
        if missing.equal(~there) and beyond.all():  # equal is False if the labels are too few
            return form
    wrong = f"labels of shape {list(labels.shape)} do not fit {texts}: give {' or '.join(forms)}"
    raise ValueError(f"{type(loss).__name__}: {wrong}, with NaN at the end of a row that has fewer")
