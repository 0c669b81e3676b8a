"""Losses of cross-encoders: recorded numbers, numbers by hand, empty and odd batches, options, what is refused."""

import json
import math
from itertools import chain

import pytest
import torch
from models import DATA
from shelf_cross_encoder import SCHEMES, SHELF
from torch import nn

from minist import Batch
from minist.losses import cross_encoder
from minist.losses.cross_encoder import (
    ADRMSELoss,
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    LambdaLoss,
    ListMLELoss,
    ListNetLoss,
    MarginMSELoss,
    MSELoss,
    MultipleNegativesRankingLoss,
    PListMLELambdaWeight,
    PListMLELoss,
    RankNetLoss,
    lambda_loss,
)
from minist.losses.cross_encoder.base import cells, log_softmax_of_rows, table

RECORDED = json.loads((DATA / "losses_cross_encoder.json").read_text("utf-8"))["cases"]
NAN = float("nan")


def column(*scores, dtype=torch.float64):
    """Logits of a model with one label, which ask for their gradient."""
    return torch.tensor(scores, dtype=dtype)[:, None].requires_grad_()


def of_lists(counts, labels=None):
    return Batch(labels=None if labels is None else torch.tensor(labels), counts=(torch.tensor(counts),))


# ---------------------------------------------------------------- recorded numbers

MAKE = {
    "ce_bce": BinaryCrossEntropyLoss,
    "ce_bce_posw2": lambda: BinaryCrossEntropyLoss(pos_weight=2.0),
    "ce_ce3": CrossEntropyLoss,
    "ce_mse": MSELoss,
    "ce_margin_mse": MarginMSELoss,
    "ce_mnrl_allnegs(num_negatives=3)": lambda: MultipleNegativesRankingLoss(3),
    "ce_mnrl_allnegs_identity_scale1": lambda: MultipleNegativesRankingLoss(3, 1.0, nn.Identity()),
    "ce_ranknet": RankNetLoss,
    "ce_listnet": ListNetLoss,
    "ce_listmle_True": ListMLELoss,
    "ce_listmle_False": lambda: ListMLELoss(respect_input_order=False),
    "ce_plistmle_True": PListMLELoss,
    "ce_plistmle_False": lambda: PListMLELoss(respect_input_order=False),
    "ce_adrmse": ADRMSELoss,
}
MAKE |= {f"ce_lambda_{name}": lambda name=name: LambdaLoss(name) for name in SCHEMES}
MAKE |= {f"ce_lambda_{n}_k2_nat": lambda n=n: LambdaLoss(n, k=2, reduction_log="natural") for n in SCHEMES}


def recorded_pairs(name, case):
    """Which rows of the table of logits the pairs are, and the batch."""
    columns, labels = case["inputs"], case["labels"]
    if isinstance(columns[1][0], list):
        lists = [[int(document) for document in documents] for documents in columns[1]]
        return list(chain(*lists)), of_lists([len(documents) for documents in lists], list(chain(*labels)))
    if "mnrl" in name:  # all others are negatives
        return [j for i in range(4) for j in (i, *(j for j in range(4) if j != i))], of_lists([4] * 4)
    pairs = [int(document) for row in zip(*columns[1:], strict=True) for document in row]
    several = (torch.tensor([2] * 4),) if len(columns) > 2 else (None,)
    return pairs, Batch(labels=torch.tensor(labels), counts=several)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(name):
    """Value and gradient of the real library, in single precision."""
    case = RECORDED[name]
    logits = torch.tensor(case["logit_table"]).requires_grad_()
    pairs, batch = recorded_pairs(name, case)
    value = MAKE[name]()([logits[pairs].reshape(len(pairs), -1)], batch)
    torch.testing.assert_close(value, torch.tensor(case["loss"]), rtol=1e-6, atol=1e-6)
    gradient = torch.autograd.grad(value, logits)[0]
    torch.testing.assert_close(gradient, torch.tensor(case["grad"]), rtol=1e-5, atol=1e-6)


def test_every_loss_was_recorded():
    assert set(RECORDED) == set(MAKE) and {type(make()).__name__ for make in MAKE.values()} == {e.loss for e in SHELF}


# ---------------------------------------------------------------- numbers by hand


def test_rows_become_a_table():
    there = cells(torch.tensor([3, 0, 2]), torch.device("cpu"))
    assert there.tolist() == [[True, True, True], [False, False, False], [True, True, False]]
    scores = table(torch.tensor([4.0, 1.0, 0.0, 7.0, 2.0]), there)
    assert scores.tolist() == [[4, 1, 0], [0, 0, 0], [7, 2, 0]]
    shares = log_softmax_of_rows(
        scores - 9, there
    ).exp()  # with the 0 of the missing cell the last row had [0.1, 0, 0.9]
    torch.testing.assert_close(shares[2], torch.tensor([7.0, 2.0, -1e9]).softmax(0))
    assert cells(torch.zeros(0, dtype=torch.long), torch.device("cpu")).shape == (0, 1)


def drawing():
    """The table of weights in the docstring: per scheme, the pairs (2,1), (2,3), (2,4), (3,1)."""
    rows = [line.split() for line in lambda_loss.__doc__.splitlines()]
    return {row[0] + "Scheme": [float(x) for x in row[-4:]] for row in rows if row and row[0] + "Scheme" in SCHEMES}


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_drawing(scheme):
    """maxDCG at 2 has the labels 3 and 1 at the ranks 1 and 2."""
    gains = torch.tensor([[0.0, 7.0, 1.0, 0.0]]) / (7 + 1 / math.log2(3))
    weights = getattr(cross_encoder, scheme)()(gains, torch.arange(2.0, 6.0).log2()).expand(1, 4, 4)[0]
    found = [weights[i - 1, j - 1].item() for i, j in ((2, 1), (2, 3), (2, 4), (3, 1))]
    assert found == pytest.approx(drawing()[scheme], abs=0.0051)


def test_the_pairs_of_the_drawing():
    """Four pairs count; the fifth, (3, 4), has no document among the first two."""
    logits = column(4.0, 3.0, 2.0, 1.0)
    batch = of_lists([4], [0.0, 3.0, 1.0, 0.0])
    pairs = torch.tensor([3 - 4.0, 3 - 2.0, 3 - 1.0, 2 - 4.0]).double()
    found = RankNetLoss(k=2, reduction_log="natural")([logits], batch)
    torch.testing.assert_close(found, (1 + (-pairs).exp()).log().mean())
    both = RankNetLoss(reduction_log="natural")([logits], batch)
    torch.testing.assert_close(both, (1 + (-torch.cat([pairs, torch.ones(1)])).exp()).log().mean())


def test_lambda_is_a_force_between_two_documents():
    """w_ij sigma sigmoid(-sigma (s_i - s_j)), up on the better one and down on the other."""
    logits = column(1.0, 0.2)
    value = LambdaLoss("LambdaRankScheme", sigma=2.0, reduction_log="natural")([logits], of_lists([2], [0.0, 1.0]))
    weight = 1 - 1 / torch.tensor(3.0).double().log2()
    wanted = weight * 2 * torch.sigmoid(torch.tensor(1.6).double())
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0][:, 0], torch.stack([wanted, -wanted]))


def test_of_equal_scores_the_first_given_comes_first():
    """A model that knows nothing yet: rank 1 is for the first document, whatever its label is."""
    scheme, labels = LambdaLoss("NDCGLoss1Scheme"), [0.0, 1.0, 0.0]
    values = [scheme([column(0.0, 0.0, 0.0)], of_lists([3], labels[i:] + labels[:i])).item() for i in range(3)]
    ranks = torch.tensor([2.0, 1.0, 3.0])  # of the document with label 1
    torch.testing.assert_close(torch.tensor(values), 1 / (1 + ranks).log2() / 3)


def test_list_net_by_hand():
    """Shares 1/4 and 3/4 by label, 1/2 each by score."""
    value = ListNetLoss()([column(5.0, 5.0)], of_lists([2], [0.0, float(torch.tensor(3.0).log())]))
    assert value.item() == pytest.approx(0.6931472)


def test_ranks_by_hand():
    """Three documents, the last two equal in label: ranks 1, 2.5, 2.5; scores so far apart that sigmoids are steps."""
    value = ADRMSELoss(alpha=1.0)([column(0.0, 500.0, -500.0)], of_lists([3], [2, 1, 1]))
    wanted = ((1 - 2) ** 2 / 1 + (2.5 - 1) ** 2 / 1.8073549 + (2.5 - 3) ** 2 / 1.8073549) / 3
    assert value.item() == pytest.approx(wanted, abs=1e-6)


def test_weights_of_ranks():
    ones = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64)
    exponential = torch.tensor([[3.0, 1, 0], [4, 0, 0], [0, 0, 0], [0, 0, 0]]).double() / 4
    torch.testing.assert_close(PListMLELambdaWeight()(ones), exponential)
    reciprocal = torch.tensor([[6.0, 3, 2], [22 / 3, 11 / 3, 0], [11, 0, 0], [0, 0, 0]]).double() / 11
    torch.testing.assert_close(PListMLELambdaWeight("reciprocal")(ones), reciprocal)
    own = PListMLELambdaWeight(
        lambda lists: 1 / torch.tensor([1, 2, 3]).double().expand_as(lists)
    )  # also behind the end
    torch.testing.assert_close(own(ones), reciprocal)


def test_long_lists_are_finite():
    """2^(n - rank) and 2^label are more than a float can hold."""
    n = 3000
    logits = torch.linspace(-5, 5, n)[:, None].requires_grad_()
    labels = torch.arange(n) % 300
    for loss in (PListMLELoss(), ListMLELoss(), ListNetLoss()):
        gradient = torch.autograd.grad(loss([logits], of_lists([n], labels.tolist())), logits)[0]
        assert gradient.isfinite().all() and gradient.abs().max() > 0
    few = logits[:300]
    gradient = torch.autograd.grad(LambdaLoss()([few], of_lists([300], labels[:300].tolist())), few)[0]
    assert gradient.isfinite().all() and gradient.abs().max() > 0


# ---------------------------------------------------------------- little or nothing in a batch


@pytest.mark.parametrize("example", SHELF, ids=str)
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_is_zero(example, rows):
    """No pair at all: no row, or rows without any."""
    logits = torch.zeros(0, example.width, requires_grad=True)
    classes = torch.zeros(0, dtype=torch.long) if example.loss == "CrossEntropyLoss" else torch.zeros(0)
    labels = {"MarginMSELoss": torch.full((rows, 1), NAN), "MultipleNegativesRankingLoss": None}.get(
        example.loss, classes
    )
    counts = torch.zeros(rows, dtype=torch.long) if example.lengths else None
    value = example.make()([logits], Batch(labels=labels, counts=(counts,)))
    assert value.item() == 0
    assert torch.autograd.grad(value, logits)[0].shape == logits.shape


NEEDS_TWO = [e for e in SHELF if e.lengths and e.loss != "ADRMSELoss" and "NDCGLoss1Scheme" not in e.options.values()]


@pytest.mark.parametrize("example", NEEDS_TWO, ids=str)
def test_nothing_is_learned_of_rows_of_one_pair(example):
    logits = column(2.0, -7.0)
    labels = {"MarginMSELoss": torch.full((2, 1), NAN), "MultipleNegativesRankingLoss": None}
    batch = Batch(labels=labels.get(example.loss, torch.tensor([3.0, -1.0])), counts=(torch.tensor([1, 1]),))
    value = example.make()([logits], batch)
    assert value.item() == 0
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-15  # the rounding of a logcumsumexp


@pytest.mark.parametrize("loss", [LambdaLoss(), RankNetLoss(k=1), LambdaLoss("LambdaRankScheme")])
def test_equal_labels_have_no_order(loss):
    logits = column(2.0, -7.0, 1.0)
    value = loss([logits], of_lists([3], [0, 0, 0]))
    assert value.item() == 0
    assert torch.equal(torch.autograd.grad(value, logits)[0], torch.zeros(3, 1).double())


@pytest.mark.parametrize("loss", [RankNetLoss(), ListNetLoss(), ListMLELoss(), BinaryCrossEntropyLoss()])
def test_scores_far_apart_still_have_a_gradient(loss):
    """log(sigmoid(x)) as it is written would be -inf, and a softmax 0."""
    logits = column(-1e4, 1e4, dtype=torch.float32)
    several = not isinstance(loss, BinaryCrossEntropyLoss)
    batch = of_lists([2], [1.0, 0.0]) if several else Batch(labels=torch.tensor([1.0, 0.0]))
    gradient = torch.autograd.grad(loss([logits], batch), logits)[0]
    assert gradient.isfinite().all() and gradient[0] < -0.1 and gradient[1] > 0.1


def test_margins_of_rows_with_fewer_negatives():
    """Rows with 2, 0 and 1 negatives; labels may be wider than the batch needs."""
    logits, counts = column(5.0, 3.0, 1.0, 9.0, 2.0, 4.0), [3, 1, 2]
    labels = [[1.0, 5.0, NAN], [NAN] * 3, [-2.0, NAN, NAN]]
    value = MarginMSELoss()([logits], of_lists(counts, labels))
    assert value.item() == pytest.approx((1 + 1 + 0) / 3)


# ---------------------------------------------------------------- options


def test_names_stand_for_modules():
    batch, logits = of_lists([2], [1.0, 0.0]), [column(0.3, -0.2)]
    assert torch.equal(ListNetLoss("Sigmoid")(logits, batch), ListNetLoss(nn.Sigmoid())(logits, batch))
    assert not torch.equal(ListNetLoss("Sigmoid")(logits, batch), ListNetLoss()(logits, batch))
    weighed = PListMLELoss(PListMLELambdaWeight("reciprocal"))
    assert torch.equal(PListMLELoss("reciprocal")(logits, batch), weighed(logits, batch))
    assert not torch.equal(PListMLELoss()(logits, batch), weighed(logits, batch))
    given = LambdaLoss(cross_encoder.NDCGLoss2PPScheme(mu=10))
    assert torch.equal(given(logits, batch), LambdaLoss("NDCGLoss2PPScheme")(logits, batch))
    assert not torch.equal(LambdaLoss(cross_encoder.NDCGLoss2PPScheme(mu=1))(logits, batch), given(logits, batch))


def test_a_scheme_of_ones_own():
    class Only(lambda_loss.WeightingScheme):
        """The best document against all others."""

        def forward(self, gains, discounts):
            return (gains == gains.max()).double()[:, :, None]

    logits, batch = [column(1.0, 2.0, 4.0)], of_lists([3], [3, 0, 1])
    wanted = (1 + torch.tensor([1.0, 3.0]).exp()).log().sum() / 3  # of three pairs that count, two weigh 1
    assert LambdaLoss(Only(), reduction_log="natural")(logits, batch).item() == pytest.approx(wanted.item())


def test_what_the_data_must_know():
    """How many negatives are to be drawn, whether labels are lists, how many classes there may be."""
    assert [MultipleNegativesRankingLoss(n).negatives for n in (None, 0, 7)] == [None, 0, 7]
    assert MultipleNegativesRankingLoss().negatives == 4 and MarginMSELoss().negatives == 0
    assert {e.loss for e in SHELF if e.make().label_lists} == {
        "LambdaLoss", "RankNetLoss", "ListNetLoss", "ListMLELoss", "PListMLELoss", "ADRMSELoss"
    }  # fmt: skip
    assert {e.loss for e in SHELF if e.make().class_names} == {"CrossEntropyLoss"}
    assert CrossEntropyLoss().num_classes(3) == 3 and ListNetLoss().num_classes(1) == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MSELoss("Sigmoidal"), "activation_fn, .* is 'Sigmoidal', known are Identity, Sigmoid, "),
        (lambda: ListNetLoss(None), "activation_fn, .* is '?None'?, known are Identity, "),
        (lambda: BinaryCrossEntropyLoss(pos_weight=0), "pos_weight is 0: use a number above 0"),
        (lambda: MultipleNegativesRankingLoss(-1), "num_negatives is -1: use a number at least 0"),
        (lambda: MultipleNegativesRankingLoss(scale=0), "scale is 0: use a number above 0"),
        (
            lambda: LambdaLoss("NDCGLoss3Scheme"),
            "weighting_scheme is 'NDCGLoss3Scheme', known are NoWeightingScheme, ND",
        ),
        (lambda: LambdaLoss(None), "weighting_scheme is None, known are NoWeightingScheme"),
        (lambda: LambdaLoss(k=0), "k is 0: use a number at least 1"),
        (lambda: LambdaLoss(sigma=0), "sigma is 0: use a number above 0"),
        (lambda: LambdaLoss(eps=0), "eps is 0: use a number above 0"),
        (lambda: RankNetLoss(reduction_log="e"), "reduction_log is 'e', known are binary, natural"),
        (lambda: cross_encoder.NDCGLoss2PPScheme(-1), "mu is -1: use a number at least 0"),
        (
            lambda: PListMLELambdaWeight("linear"),
            "rank_discount_fn is 'linear', known are exponential, logarithmic, rec",
        ),
        (lambda: PListMLELambdaWeight(2), "rank_discount_fn is 2, known are exponential"),
        (lambda: PListMLELoss("linear"), "rank_discount_fn is 'linear', known are exponential, logarithmic"),
        (lambda: ADRMSELoss(-1), "alpha is -1: use a number above 0"),
    ],
)
def test_bad_options(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# ---------------------------------------------------------------- what they refuse

TWO = Batch(labels=torch.tensor([1.0, 0.0]))
LIST = "takes query, list of documents, labels a list with a number for each document, such as .2, 0, 1.; "


@pytest.mark.parametrize(
    ("loss", "batch", "says"),
    [
        (BinaryCrossEntropyLoss(), Batch(), "takes two texts, labels numbers from 0 to 1 .*; got no labels"),
        (BinaryCrossEntropyLoss(), of_lists([2], [1.0, 0.0]), "takes two texts.*; got rows of several pairs of texts"),
        (BinaryCrossEntropyLoss(), Batch(labels=torch.ones(3)), "there are 3 labels for 2 rows"),
        (
            BinaryCrossEntropyLoss(),
            Batch(labels=torch.tensor([0.5, 5.0])),
            "from 0 to 1 .*; got 5.0: divide, or use MSE",
        ),
        (
            MSELoss(),
            Batch(labels=torch.ones(2, 2)),
            r"takes two texts, labels numbers .*; got labels of shape \[2, 2\]",
        ),
        (MarginMSELoss(), TWO, "takes query, positive, one or more negatives, .*; got rows of one pair of texts"),
        (MarginMSELoss(), of_lists([2], [1.0, 0.0]), "there are 2 labels for 1 rows"),
        (
            MarginMSELoss(),
            of_lists([2], [[1.0, 0.0, 4.0]]),
            r"shape \[1, 3\] do not fit 1 negatives: give \[rows, 1\] marg",
        ),
        (MarginMSELoss(), of_lists([2]), "got no labels"),
        (
            MultipleNegativesRankingLoss(),
            Batch(),
            "takes anchor, positive, any number of negatives, labels none; got rows",
        ),
        (MultipleNegativesRankingLoss(), of_lists([2], [1.0]), r"labels none; got labels of shape \[1\]"),
        (LambdaLoss(), TWO, LIST + "got rows of one pair of texts"),
        (ListNetLoss(), of_lists([2]), LIST + "got no labels"),
        (ADRMSELoss(), of_lists([2], [1.0]), LIST + "there are 1 labels for 2 documents"),
        (ListMLELoss(), of_lists([2], [[1.0, 0.0]]), LIST + r"got labels of shape \[1, 2\]"),
    ],
)
def test_wrong_batches(loss, batch, says):
    with pytest.raises(ValueError, match=f"^{type(loss).__name__}:? .*{says}") as error:
        loss([column(1.0, 2.0)], batch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("example", [e for e in SHELF if e.loss != "CrossEntropyLoss"], ids=str)
def test_models_with_several_labels(example):
    says = f"^{example.loss} takes a model with num_labels = 1, this one has 3: CrossEntropyLoss is for several$"
    with pytest.raises(ValueError, match=says):
        example.make()([example.logits(3).expand(-1, 3)], example.batch(3))


@pytest.mark.parametrize(
    ("width", "labels", "says"),
    [
        (1, [0, 0], "the model has num_labels = 1: use BinaryCrossEntropyLoss, or MSELoss, or set num_labels"),
        (3, [0, 3], "labels go from 0 to 3: use 0 to 2, or set num_labels"),
        (3, [-1, 2], "labels go from -1 to 2: use 0 to 2, or set num_labels"),
        (3, [[0.5, 0.5]] * 2, "labels have 2 shares for 3 classes: give one for each, or set num_labels"),
    ],
)
def test_classes_beyond_the_model(width, labels, says):
    with pytest.raises(ValueError, match=f"^CrossEntropyLoss: {says}$"):
        CrossEntropyLoss()([torch.zeros(2, width)], Batch(labels=torch.tensor(labels)))
