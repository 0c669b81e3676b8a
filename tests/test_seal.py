"""What a run is made of, and what may differ when it goes on."""

from types import SimpleNamespace

import pytest
import torch

from minist.training.checkpoint import check_seal, make_seal
from minist.training.config import load_config

CONFIG = """
output = "x"
[model]
path = "m"
[[data]]
files = ["d"]
columns = { a = "b" }
loss = { name = "MultipleNegativesRankingLoss", scale = 5.0 }
"""


def seal(tmp_path, *overrides, data="cache/12ab"):
    (tmp_path / "c.toml").write_text(CONFIG)
    config = load_config(tmp_path / "c.toml", list(overrides))
    return make_seal(config, [SimpleNamespace(folder=tmp_path / data)], torch.device("cpu"))


def test_the_same_run(tmp_path):
    check_seal(seal(tmp_path), seal(tmp_path), tmp_path)
    for free in ("output=y", "train.log_every=3", "train.save_every=3", "train.keep=9", "expect={m=1}"):
        check_seal(seal(tmp_path, free), seal(tmp_path), tmp_path)


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("seed=1", "seed is 1"),
        ("train.lr=0.5", "train.lr is 0.5"),
        ("train.batch_size=8", "train.batch_size is 8"),
        ("train.lr_for={x=0.1}", "train.lr_for.x is 0.1, but .* was made with None"),
        ("data.0.loss.scale=6.0", "data.* is .*6.0.*was made with .*5.0"),
    ],
)
def test_another_run(tmp_path, override, name):
    with pytest.raises(ValueError, match=f"--resume: {name}"):
        check_seal(seal(tmp_path, override), seal(tmp_path), tmp_path / "checkpoint-3")


def test_other_data(tmp_path):
    with pytest.raises(ValueError, match=r"--resume: the data of train is '34cd', but .*checkpoint-3 was made with"):
        check_seal(seal(tmp_path, data="cache/34cd"), seal(tmp_path), tmp_path / "checkpoint-3")


def test_other_threads(tmp_path):
    before = seal(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(ValueError, match=f"the number of threads is {threads + 1}"):
            check_seal(seal(tmp_path), before, tmp_path)
    finally:
        torch.set_num_threads(threads)
