"""What a search tries: ranges as they are written, and the trials drawn from them."""

import random
from statistics import median

import pytest
from tiny import FROM_SCRATCH

from minist.training.trials import draw_trials, make_rungs, read_setting

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
    return draw_trials(config, [read_setting(text) for text in texts], count, config.parent / "out")


@pytest.mark.parametrize(
    ("value", "ends"),
    [("1e-5..1e-4", (1e-5, 1e-4)), ("0.0..1.0", (0.0, 1.0)), ("1..8", (1, 8)), ("-1 .. 2.5", (-1, 2.5))],
)
def test_a_range(value, ends):
    setting = read_setting(f"train.lr={value}")
    assert setting.ends == ends and list(map(type, setting.ends)) == list(map(type, ends)) and setting.is_searched


@pytest.mark.parametrize(
    ("value", "choices"),
    [
        ("16,32, 64", ["16", "32", "64"]),
        ("linear,cosine", ["linear", "cosine"]),
        ("3e-5", ["3e-5"]),
        ("[384,128]", ["[384,128]"]),
        ("[[1,2],[3]],[4]", ["[[1,2],[3]]", "[4]"]),
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


@pytest.mark.parametrize("value", ["2..1", "1..1", "1..inf", "nan..1", "1..true"])
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


def test_a_trial_depends_on_seed_and_number_alone(config):
    a, b = "train.lr=1e-5..1e-3", "train.batch_size=8,16,32"
    few, many, turned = drawn(config, a, b, count=3), drawn(config, a, b, count=6), drawn(config, b, a, count=3)
    assert few == many[:3]
    assert [trial.config for trial in turned] == [trial.config for trial in few]
    assert drawn(config, a, b, "seed=43", count=3)[1].config.train != few[1].config.train
    assert drawn(config, a, count=3)[2].config.train.lr == few[2].config.train.lr  # of a key, whatever the others are


def test_the_first_is_the_default(config):
    first, second = drawn(config, "train.lr=1e-5..1e-4", "train.warmup=0.5", count=2)
    assert first.config.train.lr == 1e-3 and second.config.train.lr <= 1e-4
    assert first.config.train.warmup == second.config.train.warmup == 0.5
    assert first.config.output == str(config.parent / "out/best")


def test_no_two_are_alike(config):
    found = [trial.config.train.batch_size for trial in drawn(config, "train.batch_size=16,32,64", count=3)]
    assert found[0] == 32 and set(found) == {16, 32, 64}  # the default is one of them
    with pytest.raises(ValueError, match="give 3 trials that differ"):
        drawn(config, "train.batch_size=16,32,64", count=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.rl=1e-5..1e-4", "no key 'rl', the nearest is 'lr'"),
        ("train.batch_size=8,none", "must be a whole number"),
        ("train.batch_size=0.5..4.5", "must be a whole number"),
        ("data.1.loss.scale=1..9", "the entry is '1'"),
        ("data.0.loss.scael=1..9", "'scael', known are"),
        ("data.0.loss.name=CoSENTLoss,CosentLoss", "'CosentLoss', known are"),
        ("data.0.loss=MultipleNegativesRankingLoss,MarginMSEloss", "is 'MarginMSEloss', known are"),
        ("train.lr", "write key=value"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(config, text, message):
    with pytest.raises(ValueError, match=message):
        drawn(config, text)


def test_rungs(config):
    trials = drawn(config, "train.lr=1e-5..1e-3", count=9)
    assert [(rung.steps, rung.keep) for rung in make_rungs(trials[:8], 2)] == [(12, 4), (25, 2), (50, 1), (100, 0)]
    assert [(rung.steps, rung.keep) for rung in make_rungs(trials, 3)] == [(11, 3), (33, 1), (100, 0)]
    assert [(rung.steps, rung.keep) for rung in make_rungs(trials[:7], 3)] == [(33, 2), (100, 0)]
    assert [rung.steps for rung in make_rungs(trials[:1], 2)] == [100]
    assert [rung.steps for rung in make_rungs(trials, 0)] == [0]


@pytest.mark.parametrize("text", ["train.max_steps=0", "train.max_steps=7", "train.max_steps=50..100"])
def test_rungs_need_one_length(config, text):
    with pytest.raises(ValueError, match=r"needs a train\.max_steps"):
        make_rungs(drawn(config, text, "train.lr=1e-5..1e-3", count=8), 2)
