"""Objects that a config names."""

import pytest

from minist import losses
from minist.losses.base import Loss
from minist.training.construct import make

MINE = """
from minist.losses.base import Loss
class Mine(Loss):
    def __init__(self, power=2):
        super().__init__()
        self.power = power
class Other:
    pass
"""


def make_loss(table):
    return make("the loss", table, losses, Loss)


def test_by_name():
    loss = make_loss({"name": "MultipleNegativesRankingLoss", "scale": 30.0})
    assert type(loss) is losses.MultipleNegativesRankingLoss
    assert loss.scale == 30.0


def test_a_loss_inside_a_loss():
    inner = {"name": "TripletLoss", "triplet_margin": 2.0}
    loss = make_loss({"name": "MatryoshkaLoss", "loss": inner, "matryoshka_dims": [8, 4]})
    assert type(loss.inner[0]) is losses.TripletLoss
    both = make_loss({"name": "WeightedSumLoss", "losses": [inner, inner], "weights": [1.0, 2.0]})
    assert [type(part) for part in both.inner] == [losses.TripletLoss] * 2
    named = make_loss({"name": "MatryoshkaLoss", "loss": "CoSENTLoss", "matryoshka_dims": [8, 4]})
    assert type(named.inner[0]) is losses.CoSENTLoss
    both = make_loss({"name": "WeightedSumLoss", "losses": ["CoSENTLoss", inner]})
    assert [type(part) for part in both.inner] == [losses.CoSENTLoss, losses.TripletLoss]
    none_or_one = make_loss({"name": "CSRLoss", "loss": "CoSENTLoss"})
    assert type(none_or_one.inner[0]) is losses.CoSENTLoss
    function = make_loss({"name": "SpladeLoss", "loss": "SparseDistillKLDivLoss", "document_regularizer_weight": 1.0})
    assert type(function.inner[0]) is losses.DistillKLDivLoss
    with pytest.raises(ValueError, match="loss of CSRLoss is 3, it must be a name or a table"):
        make_loss({"name": "CSRLoss", "loss": 3})
    for wrong in (3, {"scale": 2.0}, ["CoSENTLoss"]):
        with pytest.raises(ValueError, match=r"loss of MatryoshkaLoss is .*, it must be a name or a table"):
            make_loss({"name": "MatryoshkaLoss", "loss": wrong, "matryoshka_dims": [8, 4]})
    with pytest.raises(ValueError, match=r"losses of WeightedSumLoss is (3|\[3\]), it must be"):
        make_loss({"name": "WeightedSumLoss", "losses": [3]})
    with pytest.raises(
        ValueError, match=r"losses of WeightedSumLoss is 3, it must be a list \(a table with a name each\)"
    ):
        make_loss({"name": "WeightedSumLoss", "losses": 3})
    with pytest.raises(
        ValueError, match="loss of MatryoshkaLoss is 'Triplet', known are TripletLoss, AdaptiveLayerLoss, "
    ):
        make_loss({"name": "MatryoshkaLoss", "loss": {"name": "Triplet"}, "matryoshka_dims": [8, 4]})


def test_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    assert make_loss({"name": f"{file}:Mine", "power": 3}).power == 3
    assert type(make_loss({"name": f"{file}:Mine", "power": {"name": "CoSENTLoss"}}).power) is losses.CoSENTLoss
    with pytest.raises(ValueError, match=r"mine.py is 'None', known are .*Mine, Other"):
        make_loss({"name": f"{file}:None"})
    with pytest.raises(ValueError, match=r"Other is no Loss, make it a subclass of minist\.losses\.base"):
        make_loss({"name": f"{file}:Other"})
    with pytest.raises(ValueError, match=r"there is no file .*none\.py"):
        make_loss({"name": f"{tmp_path}/none.py:Mine"})


@pytest.mark.parametrize("name", ["Other", "", "nn", "Tensor", "contrastive", 3])
def test_only_what_the_package_offers(name):
    with pytest.raises(
        ValueError, match=f"the loss is {name!r}, (known are (Contrastive.*, )?AdaptiveLayerLoss|it must be a name)"
    ):
        make_loss({"name": name})


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="an argument of MultipleNegativesRankingLoss is 'size', known are scale, sim"):
        make_loss({"name": "MultipleNegativesRankingLoss", "size": 3})
    with pytest.raises(ValueError, match=r"MultipleNegativesRankingLoss with .*: scale is -1"):
        make_loss({"name": "MultipleNegativesRankingLoss", "scale": -1.0})
    with pytest.raises(ValueError, match=r"MatryoshkaLoss lacks the argument 'matryoshka_dims', it takes loss, matr"):
        make_loss({"name": "MatryoshkaLoss", "loss": {"name": "TripletLoss"}})
