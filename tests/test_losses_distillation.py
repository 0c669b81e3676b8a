"""Distillation losses: definitions, recorded numbers, lists of different length, teachers of other widths."""

import pytest
import torch
from loss_checks import assert_gradcheck, assert_recorded, assert_slow, falls, gradients, random_columns

from minist import Batch
from minist.losses import DistillKLDivLoss, EmbedDistillLoss, MarginMSELoss, MSELoss

NAN = float("nan")


def random(*shape, seed=9):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- embeddings

EMBEDDING_LOSSES = [(EmbedDistillLoss, {"distance_metric": metric}) for metric in ("cosine", "mse", "l2")]
EMBEDDING_LOSSES.append((MSELoss, {}))
TEACHERS = {
    "one for all columns": Batch(labels=random(5, 6)),
    "one per column": Batch(labels=random(5, 3, 6)),
    "guide": Batch(guide=tuple(random(3, 5, 6))),
}


@pytest.mark.parametrize("batch", TEACHERS.values(), ids=TEACHERS)
@pytest.mark.parametrize(("loss", "options"), EMBEDDING_LOSSES)
def test_embeddings_equal_the_slow_definition(loss, options, batch):
    assert_slow(loss(**options), random_columns(0, 3), batch, **options)
    assert_gradcheck(loss(**options), random_columns(0, 3), batch)


@pytest.mark.parametrize(("loss", "options"), EMBEDDING_LOSSES)
def test_projection(loss, options):
    """The student has 6 numbers, the teacher 4; the projection is trained too."""
    batch = Batch(labels=random(5, 4))
    projected = loss(**options, projection_dim=4, embedding_dimension=6).double()
    parameters = dict(projected.projection.named_parameters())
    assert parameters["weight"].shape == (4, 6)
    assert_slow(projected, random_columns(0, 2), batch, **options, **parameters)
    found = gradients(projected(random_columns(0, 2), batch), list(parameters.values()))
    assert all(gradient.abs().max() > 0 for gradient in found)


@pytest.mark.parametrize(("loss", "options"), EMBEDDING_LOSSES)
def test_nearer_to_the_teacher_is_better(loss, options):
    (start,), teacher = random_columns(0, 1), random(5, 6)
    mixed = [start + share * (teacher - start) for share in (0.0, 0.3, 0.6, 1.0)]
    assert falls([loss(**options)([x], Batch(labels=teacher)).item() for x in mixed])
    assert loss(**options)([teacher], Batch(labels=teacher)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("loss", "options"), EMBEDDING_LOSSES)
def test_at_the_teacher_gradients_are_finite(loss, options):
    x = random(5, 6).requires_grad_()
    value = loss(**options)([x], Batch(labels=x.detach().clone()))
    assert torch.isfinite(gradients(value, [x])[0]).all()


def test_the_teacher_gets_no_gradient():
    teacher = random(5, 6).requires_grad_()
    for batch in (Batch(labels=teacher), Batch(guide=(teacher,))):
        value = EmbedDistillLoss()(random_columns(0, 1), batch)
        assert torch.equal(gradients(value, [teacher])[0], torch.zeros(5, 6))


@pytest.mark.parametrize("name", ["cosine", "mse", "l2"])
def test_recorded_embeddings(name):
    assert_recorded(f"embed_distill_{name}", EmbedDistillLoss(name))


def test_recorded_mse():
    assert_recorded("mse_2cols", MSELoss())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EmbedDistillLoss("euclidean"), "distance_metric is 'euclidean', known are cosine, mse, l2"),
        (lambda: EmbedDistillLoss(projection_dim=4), "projection_dim is 4 and embedding_dimension None: give both"),
        (lambda: MSELoss(embedding_dimension=6), "projection_dim is None and embedding_dimension 6: give both"),
    ],
)
def test_bad_options_of_embeddings(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("columns", "batch", "says"),
    [
        (0, Batch(labels=random(5, 6)), "MSELoss takes any number of texts"),
        (2, Batch(labels=random(5)), "MSELoss takes any number of texts"),
        (2, Batch(labels=random(4, 6)), "4 labels for 5 rows"),
        (2, Batch(), r"MSELoss: the embeddings are \[\[5, 6\], \[5, 6\]\], the teacher's missing: give teacher emb"),
        (2, Batch(guide=(random(5, 6),)), r"embeddings are \[\[5, 6\], \[5, 6\]\], the teacher's \[\[5, 6\]\]: give"),
        (
            2,
            Batch(labels=random(5, 3, 6)),
            r"embeddings are \[\[5, 6\], \[5, 6\]\], the teacher's \[\[5, 6\], \[5, 6\], \[5, 6\]\]",
        ),
        (
            2,
            Batch(labels=random(5, 4)),
            r"the teacher's \[\[5, 4\], \[5, 4\]\]: .* as wide as the model or as projection_dim",
        ),
        (1, Batch(guide=(random(4, 6),)), r"the embeddings are \[\[5, 6\]\], the teacher's \[\[4, 6\]\]"),
    ],
)
def test_wrong_teachers(columns, batch, says):
    with pytest.raises(ValueError, match=says):
        MSELoss()(random_columns(0, columns), batch)


# ---------------------------------------------------------------- margins and scores

SIMILARITIES = ["dot", "cosine", "euclidean"]


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(
    ("columns", "shape"), [(3, (5,)), (3, (5, 1)), (3, (5, 2)), (4, (5, 2)), (4, (5, 3)), (5, (5, 3)), (5, (5, 4))]
)
def test_margins_equal_the_slow_definition(columns, shape, similarity):
    batch = Batch(labels=random(*shape))
    assert_slow(MarginMSELoss(similarity), random_columns(0, columns), batch, similarity_fct=similarity)
    assert_gradcheck(MarginMSELoss(similarity), random_columns(0, columns), batch)


TEMPERATURES = [
    {},
    {"temperature": 2.0},
    {"student_temperature": 0.5},
    {"temperature": 3.0, "teacher_temperature": 0.7},
    {"student_temperature": 0.5, "teacher_temperature": 2.0, "similarity_fct": "cosine"},
]


@pytest.mark.parametrize("options", TEMPERATURES, ids=str)
@pytest.mark.parametrize("columns", [3, 4])
def test_divergence_equals_the_slow_definition(columns, options):
    batch = Batch(labels=random(5, columns - 1))
    assert_slow(DistillKLDivLoss(**options), random_columns(0, columns), batch, **options)
    assert_gradcheck(DistillKLDivLoss(**options), random_columns(0, columns), batch)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("margin_mse_1", MarginMSELoss()),
        ("margin_mse_raw", MarginMSELoss()),
        ("margin_mse_margins", MarginMSELoss()),
        ("distill_kl_T1", DistillKLDivLoss()),
        ("distill_kl_T2", DistillKLDivLoss(temperature=2.0)),
    ],
)
def test_recorded_scores(name, loss):
    assert_recorded(name, loss)


@pytest.mark.parametrize("loss", [MarginMSELoss(), DistillKLDivLoss()])
def test_scores_nearer_to_the_teachers_are_better(loss):
    """The query is (1, 0), so the dot product is the first number of a text."""
    query, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0, -2.0]])
    values = []
    for share in (0.0, 0.4, 0.8, 1.0):
        texts = [torch.tensor([[share * score, 5.0]]) for score in labels[0].tolist()]
        values.append(loss([query, *texts], Batch(labels=labels)).item())
    assert falls(values)
    assert values[-1] == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- lists of different length


def padded(lists):
    width = max(len(row) for row in lists)
    return torch.tensor([row + [NAN] * (width - len(row)) for row in lists], dtype=torch.float64)


COUNTS = [2, 0, 1, 3, 1]
LENGTHS = {"margins": 0, "scores": 1}  # how many labels a row has beside one per negative


@pytest.mark.parametrize("beside", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("more", [0, 2], ids=["tight", "wider than the batch needs"])
def test_margins_of_lists(beside, more):
    labels = padded([random(n + beside, seed=n).tolist() for n in COUNTS])
    labels = torch.cat([labels, torch.full((5, more), NAN)], dim=1)
    embeddings = [*random_columns(0, 2), *random_columns(1, 1, rows=sum(COUNTS))]
    batch = Batch(labels=labels, counts=(None, None, torch.tensor(COUNTS)))
    assert_slow(MarginMSELoss(), embeddings, batch)
    assert_gradcheck(MarginMSELoss(), embeddings, batch)


def test_a_batch_without_any_negative():
    embeddings = [*random_columns(0, 2), *random_columns(1, 1, rows=0)]
    batch = Batch(labels=random(5, 1), counts=(None, None, torch.zeros(5, dtype=torch.long)))
    value = MarginMSELoss()(embeddings, batch)
    assert value == 0
    assert torch.equal(gradients(value, embeddings)[0], torch.zeros(5, 6))


def test_lists_in_two_columns_and_one_text_between_them():
    """The texts of a row come column after column, and so do its labels."""
    other = [1, 2, 0, 0, 1]
    labels = padded([random(a + 1 + b, seed=a).tolist() for a, b in zip(COUNTS, other, strict=True)])
    lists = [random_columns(seed, 1, rows=sum(n))[0] for seed, n in enumerate((COUNTS, other), start=3)]
    embeddings = [*random_columns(0, 2), lists[0], *random_columns(1, 1), lists[1]]
    batch = Batch(labels=labels, counts=(None, None, torch.tensor(COUNTS), None, torch.tensor(other)))
    assert_slow(MarginMSELoss(), embeddings, batch)


@pytest.mark.parametrize("more", [0, 2], ids=["tight", "wider than the batch needs"])
def test_divergence_of_lists(more):
    """A row of no text or one text teaches nothing, and does no harm."""
    labels = padded([random(n, seed=n).tolist() for n in COUNTS])
    labels = torch.cat([labels, torch.full((5, more), NAN)], dim=1)
    embeddings = [*random_columns(0, 1), *random_columns(1, 1, rows=sum(COUNTS))]
    batch = Batch(labels=labels, counts=(None, torch.tensor(COUNTS)))
    assert_slow(DistillKLDivLoss(temperature=2.0), embeddings, batch, temperature=2.0)
    assert_gradcheck(DistillKLDivLoss(), embeddings, batch)


@pytest.mark.parametrize(("loss", "columns"), [(MarginMSELoss(), 2), (DistillKLDivLoss(), 1)])
def test_equal_lists_are_columns(loss, columns):
    """Three texts per row, once as a list and once as three columns."""
    first, texts = random_columns(0, columns), random_columns(1, 3)
    together = torch.stack(texts, dim=1).reshape(15, 6)
    labels = random(5, 3)
    counts = (*[None] * columns, torch.full((5,), 3))
    lists = loss([*first, together], Batch(labels=labels, counts=counts))
    torch.testing.assert_close(lists, loss([*first, *texts], Batch(labels=labels)), rtol=1e-12, atol=0)


# ---------------------------------------------------------------- what they refuse


@pytest.mark.parametrize(
    ("columns", "labels", "says"),
    [
        (2, random(5), "MarginMSELoss takes query, positive, one or more negatives"),
        (3, None, "MarginMSELoss takes query, positive, one or more negatives"),
        (3, random(5, 1, 1), "MarginMSELoss takes query, positive, one or more negatives"),
        (3, random(4), "4 labels for 5 rows"),
        (3, random(5, 3), r"labels of shape \[5, 3\] do not fit 1 negatives: give \[rows, 1\] margins or \[rows, 2\]"),
        (4, random(5), r"labels of shape \[5, 1\] do not fit 2 negatives"),
        (4, padded([[1.0, 2.0]] * 4 + [[1.0]]), r"labels of shape \[5, 2\] do not fit 2 negatives"),
        (3, padded([[1.0, 2.0]] * 4 + [[NAN, 1.0]]), r"labels of shape \[5, 2\] do not fit 1 negatives"),
    ],
)
def test_labels_of_margins(columns, labels, says):
    with pytest.raises(ValueError, match=says):
        MarginMSELoss()(random_columns(0, columns), Batch(labels=labels))


@pytest.mark.parametrize(
    ("columns", "labels", "says"),
    [
        (1, random(5, 1), "DistillKLDivLoss takes query, two or more texts"),
        (2, random(5, 1), "DistillKLDivLoss takes query, two or more texts"),
        (3, None, "DistillKLDivLoss takes query, two or more texts"),
        (3, random(5), "DistillKLDivLoss takes query, two or more texts"),
        (3, random(5, 3), r"labels of shape \[5, 3\] do not fit 2 texts: give \[rows, 2\] scores"),
        (4, random(5, 2), r"labels of shape \[5, 2\] do not fit 3 texts"),
    ],
)
def test_labels_of_the_divergence(columns, labels, says):
    with pytest.raises(ValueError, match=says):
        DistillKLDivLoss()(random_columns(0, columns), Batch(labels=labels))


def test_a_list_with_a_label_too_many():
    embeddings = [*random_columns(0, 1), *random_columns(1, 1, rows=8)]
    counts = (None, torch.tensor([2, 2, 2, 1, 1]))
    labels = padded([[1.0, 2.0]] * 4 + [[1.0]])
    with pytest.raises(ValueError, match="do not fit 2 texts"):
        DistillKLDivLoss()(embeddings, Batch(labels=labels, counts=counts))


@pytest.mark.parametrize(("loss", "listed"), [(MarginMSELoss(), 1), (MarginMSELoss(), 0), (DistillKLDivLoss(), 0)])
def test_lists_where_one_text_belongs(loss, listed):
    counts = [None, None, None]
    counts[listed] = torch.ones(5, dtype=torch.long)
    with pytest.raises(ValueError, match=f"one text per cell in column {listed + 1}"):
        loss(random_columns(0, 3), Batch(labels=random(5, 2), counts=tuple(counts)))


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, float("inf")])
@pytest.mark.parametrize("name", ["temperature", "student_temperature", "teacher_temperature"])
def test_bad_temperature(name, value):
    with pytest.raises(ValueError, match="use a number above 0"):
        DistillKLDivLoss(**{name: value})


@pytest.mark.parametrize("loss", [MarginMSELoss, DistillKLDivLoss])
def test_unknown_similarity(loss):
    with pytest.raises(ValueError, match="similarity is 'cosinus', known are"):
        loss("cosinus")
