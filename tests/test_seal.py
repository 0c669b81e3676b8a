"""What a run is made of, and what may differ when it goes on."""

from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from minist import distributed
from minist.training.checkpoint import FREE, LENGTH, MEASURING, check_seal, make_seal
from minist.training.config import Config, EvalConfig, load_config

CONFIG = """
output = "x"
[model]
path = "m"
[[data]]
files = ["d"]
columns = { a = "b" }
loss = { name = "MultipleNegativesRankingLoss", scale = 5.0 }
"""
CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    return load_config(tmp_path / "c.toml", [])


def seal(config, data="cache/12ab"):
    return make_seal(config, [SimpleNamespace(folder=data)], CPU)


def another(value):
    """A value of the same type that is not the same."""
    if isinstance(value, list):
        return [*value, "more"]
    return {"more": 1} | value if isinstance(value, dict) else f"{value}x" if isinstance(value, str) else value + 1


def changed(config, path=()):
    """Each key of the config by its name, and the config with another value there."""
    part = config
    for name in path:
        part = part[0] if isinstance(part, list) else vars(part)[name]
    for key in fields(part):
        value = vars(part)[key.name]
        if is_dataclass(value):
            yield from changed(config, (*path, key.name))
        else:
            new = replace(part, **{key.name: not value if isinstance(value, bool) else another(value)})
            whole = replace(config, **{path[0]: new}) if len(path) == 1 else new
            if len(path) == 2:
                whole = replace(config, model=replace(config.model, **{path[1]: new}))
            yield ".".join([*path, key.name]), whole


def test_every_key_of_the_config_is_refused_or_named_as_free(config):
    before, free = seal(config), {*FREE, *MEASURING}
    shown = {
        "output",
        "expect",
        "train.log_every",
        "train.save_every",
        "train.keep",
    }  # said again: a key too many there
    assert free == shown | {"eval", "train.eval_every"}  # would be a run that goes on as another
    assert set(LENGTH) == {"train.epochs", "train.max_steps"}
    seen = set()
    for name, other in changed(config):
        seen.add(name)
        if name == "data":  # see below
            continue
        if name in free:
            assert check_seal(seal(other), before, "checkpoint-3") == []
        elif name in LENGTH:
            note = check_seal(seal(other), before, "checkpoint-3")
            assert f"{name} is " in note[0] and "the learning rate follows the new number of steps" in note[1]
        else:
            with pytest.raises(ValueError, match=rf"--resume: {name}(\.more)? is .*checkpoint-3 was made with"):
                check_seal(seal(other), before, "checkpoint-3")
    assert free | set(LENGTH) < seen
    assert {"seed", "data", "train.dropout", "train.lr_for", "model.tokenizer.vocab_size", "guide.cache"} < seen


def test_every_key_of_a_data_set(config):
    before = seal(config)
    for key in fields(config.data[0]):
        value = vars(config.data[0])[key.name]
        entry = replace(config.data[0], **{key.name: another(value)})
        with pytest.raises(ValueError, match="--resume: data is "):
            check_seal(seal(replace(config, data=[entry])), before, "c")


def test_a_key_that_is_removed(config):
    wide = replace(config, train=replace(config.train, lr_for={"x": 0.1}))
    with pytest.raises(ValueError, match=r"--resume: train\.lr_for\.x is None, but .* was made with 0\.1"):
        check_seal(seal(config), seal(wide), "c")
    with pytest.raises(ValueError, match=r"--resume: train\.lr_for\.x is 0\.1, but .* was made with None"):
        check_seal(seal(wide), seal(config), "c")


def test_a_key_that_was_not_there_yet(config):
    """A checkpoint of an earlier version was made with what is now the default."""
    before = {key: value for key, value in seal(config).items() if key != "train.fsdp"}
    assert check_seal(seal(config), before, "c") == []
    with pytest.raises(ValueError, match=r"--resume: train\.fsdp is True, but .* was made with False"):
        check_seal(seal(replace(config, train=replace(config.train, fsdp=True))), before, "c")


def test_evaluations_count_where_they_choose_the_model(config):
    best = replace(config, eval=[EvalConfig()], train=replace(config.train, best="m"))
    for other in (replace(best, eval=[]), replace(best, train=replace(best.train, eval_every=9))):
        with pytest.raises(ValueError, match=r"--resume: (eval|train\.eval_every) is "):
            check_seal(seal(other), seal(best), "c")


def test_other_data(config):
    with pytest.raises(ValueError, match=r"--resume: the data of train is '34cd', but checkpoint-3 was made with"):
        check_seal(seal(config, "cache/34cd"), seal(config), "checkpoint-3")


def test_other_ranks(config, monkeypatch):
    before = seal(config)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ValueError, match="--resume: the number of ranks is 2, but c was made with 1"):
        check_seal(seal(config), before, "c")


def test_other_threads_are_said(config, monkeypatch):
    before, threads = seal(config), torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    found = check_seal(seal(config), before, "c")
    assert found == [f"the number of threads is {threads + 1}, it was {threads}", "the last bits of numbers may differ"]


def test_all_keys_are_looked_at():
    assert {key.name for key in fields(Config)} == {
        "output", "data", "seed", "model", "train", "guide", "teacher", "eval", "expect"
    }  # fmt: skip
