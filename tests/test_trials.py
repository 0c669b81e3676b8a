"""What a search tries: ranges as they are written, and the trials drawn from them."""

import random
from statistics import median

import pytest
from tiny import FROM_SCRATCH

from minist.training.trials import draw_trials, read_setting

CONFIG = f"""
output = "run"
{FROM_SCRATCH}
[[data]]
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
loss = {{ name = "MultipleNegativesRankingLoss" }}
[train]
max_steps = 100
lr = 1e-3
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path / "c.toml"


def drawn(config, *texts, count=5):
    return draw_trials(config, [read_setting(text) for text in texts], count)


@pytest.mark.parametrize(
    ("value", "ends"),
    [("1e-5..1e-4", (1e-5, 1e-4)), ("0.0..1.0", (0.0, 1.0)), ("1..8", (1, 8)), ("-1 .. 2.5", (-1, 2.5))],
)
def test_a_range(value, ends):
    setting = read_setting(f"train.lr={value}")
    assert (
        tuple(setting.ends) == ends and list(map(type, setting.ends)) == list(map(type, ends)) and setting.is_searched
    )


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ("16,32, 64", ["16", "32", "64"]),
        ("linear,cosine", ["linear", "cosine"]),
        ("3e-5", ["3e-5"]),
        ("[384,128]", ["[384,128]"]),
        ("[1,2],[4]", ["[1,2]", "[4]"]),
        ("", [""]),
        ('[{a="b,c"}],1', ['[{a="b,c"}]', "1"]),
        ('"a, b","c"', ['"a, b"', '"c"']),
        (
            '{name="A",loss={name="B",scale=1},x=[1,2]},{name="C"}',
            ['{name="A",loss={name="B",scale=1},x=[1,2]}', '{name="C"}'],
        ),
        ("../a,../b", ["../a", "../b"]),
        ("a..b", ["a..b"]),
    ],
)
def test_choices(value, choices):
    setting = read_setting(f"key={value}")
    assert list(setting.choices) == choices and not setting.ends and setting.is_searched == (len(choices) > 1)


@pytest.mark.parametrize("value", ["2..1", "1..1", "1..1e999"])
def test_no_range(value):
    with pytest.raises(ValueError, match=r"--set train\.lr="):
        read_setting(f"train.lr={value}")


def draws(value, n=2000):
    setting = read_setting(f"k={value}")
    return [float(setting.override(random.Random(i)).partition("=")[2]) for i in range(n)]


def test_a_wide_range_is_drawn_by_its_logarithm():
    found = draws("1e-5..1e-3")
    assert 1e-5 <= min(found) < 1.1e-5 and 0.9e-3 < max(found) <= 1e-3
    assert 0.8e-4 < median(found) < 1.25e-4
    assert 0.8e-4 < median(draws("3e-5..3e-4")) < 1.1e-4
    assert all(float(f"{x:.2e}") == x for x in found)  # three digits


def test_another_is_drawn_as_it_is():
    assert 0.45 < median(draws("0.0..1.0")) < 0.55
    assert 2.9 < median(draws("1.0..5.0")) < 3.1


def test_whole_numbers():
    found = draws("1..4")
    assert {x: found.count(x) > 400 for x in set(found)} == {1: True, 2: True, 3: True, 4: True}
    wide = draws("1..100")
    assert set(wide) <= set(range(1, 101)) and 100 in wide and 7 <= median(wide) <= 13


def test_trials_depend_on_the_seed_and_not_on_how_many_they_are(config):
    a, b = "train.lr=1e-5..1e-3", "train.batch_size=8,16,32"
    few, many = drawn(config, a, b, count=3), drawn(config, a, b, count=6)
    assert few == many[:3]
    assert drawn(config, a, b, "seed=43", count=3)[1].config.train != few[1].config.train


def test_the_first_is_the_default(config):
    first, second = drawn(config, "train.lr=1e-5..1e-4", "train.warmup=0.5", count=2)
    assert first.config.train.lr == 1e-3 and second.config.train.lr <= 1e-4
    assert first.config.train.warmup == second.config.train.warmup == 0.5
    assert first.overrides == ["train.warmup=0.5"]


def test_no_two_are_alike(config):
    found = [trial.config.train.batch_size for trial in drawn(config, "train.batch_size=16,32,64", count=3)]
    assert found[0] == 32 and set(found) == {16, 32, 64}  # the default is one of them
    with pytest.raises(ValueError, match="gives 3 trials that differ"):
        drawn(config, "train.batch_size=16,32,64", count=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.rl=1e-5..1e-4", "no key 'rl', the nearest is 'lr'"),
        ("train.batch_size=8,none", "must be a whole number"),
        ("train.batch_size=0.5..4.5", "must be a whole number"),
        ("data.1.loss.scale=1..9", "the entry is '1'"),
        ("train.lr", "lr in .train. must be a number"),
        ("train.lr=1..nan", "lr in .train. must be a number"),
    ],
)
def test_what_cannot_be_is_refused(config, text, message):
    with pytest.raises(ValueError, match=message):
        drawn(config, text)
