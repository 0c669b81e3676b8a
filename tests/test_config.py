"""The configuration: defaults, overrides, and what each mistake is answered with."""

from dataclasses import asdict
from pathlib import Path

import pytest
from tiny import ROOT

from minist.training.config import load_config
from minist.training.construct import to_toml

BASE = """
output = "runs/x"
[model]
path = "m"
[[data]]
files = ["d.jsonl"]
columns = { anchor = "q", positive = "d" }
"""


def load(tmp_path, text=BASE, overrides=()):
    (tmp_path / "c.toml").write_text(text)
    return load_config(tmp_path / "c.toml", list(overrides))


def test_defaults(tmp_path):
    config = load(tmp_path)
    assert (config.output, config.seed, config.eval, config.expect) == ("runs/x", 42, [], {})
    assert config.data[0].loss == {"name": "MultipleNegativesRankingLoss"}
    assert config.data[0].paths() == [Path("d.jsonl")]
    assert (config.train.batch_size, config.train.lr, config.train.schedule) == (32, 5e-5, "linear")


def test_a_source_has_its_own_files(tmp_path):
    config = load(tmp_path, BASE.replace('files = ["d.jsonl"]', 'source = "python_docs"'))
    assert config.data[0].paths() == [Path("data/python_docs/train.jsonl")]


def test_order_of_columns_is_kept(tmp_path):
    config = load(tmp_path, BASE.replace('{ anchor = "q", positive = "d" }', '{ z = "1", a = "2", m = "3" }'))
    assert list(config.data[0].columns.items()) == [("z", "1"), ("a", "2"), ("m", "3")]


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.lr=3e-5", lambda c: c.train.lr, 3e-5),
        ("train.lr=1", lambda c: c.train.lr, 1.0),
        ("seed=7", lambda c: c.seed, 7),
        ("output=runs/other", lambda c: c.output, "runs/other"),
        ('output="runs/a b=c"', lambda c: c.output, "runs/a b=c"),
        ("train.drop_last=true", lambda c: c.train.drop_last, True),
        ("data.0.sampler=no_duplicates", lambda c: c.data[0].sampler, "no_duplicates"),
        ("data.0.columns.negative=n", lambda c: c.data[0].columns, {"anchor": "q", "positive": "d", "negative": "n"}),
        ('data.0.files=["a.csv", "b.csv"]', lambda c: c.data[0].files, ["a.csv", "b.csv"]),
        (
            "data.0.loss=MultipleNegativesRankingLoss",
            lambda c: c.data[0].loss,
            {"name": "MultipleNegativesRankingLoss"},
        ),
        ("train.lr_for.ndcg=0.5", lambda c: c.train.lr_for, {"ndcg": 0.5}),
        ("model.pooling.mode=cls", lambda c: c.model.pooling.mode, "cls"),
    ],
)
def test_overrides(tmp_path, override, read, value):
    found = read(load(tmp_path, overrides=[override]))
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_counts(tmp_path):
    assert load(tmp_path, overrides=["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.toml")))
def test_written_out_and_read_again(tmp_path, name):
    config = load_config(ROOT / "configs" / name, ["expect.a_b-c@10=0.5", 'output="a \\"b\\" \\n ü"'])
    text = to_toml(asdict(config))
    assert load(tmp_path, text) == config
    assert "max_grad_norm = 1.0" in text  # defaults too


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("output", "ouput", "the top level has no key 'ouput', the nearest is 'output'; known are output, data, seed"),
        ('output = "runs/x"', "", "the top level lacks the key 'output'"),
        ("[model]", "[modle]", "no key 'modle', the nearest is 'model'"),
        ("path =", "pth =", r"\[model\] has no key 'pth', the nearest is 'path'"),
        ("columns", "colums", r"\[\[data\]\] has no key 'colums', the nearest is 'columns'"),
        ('path = "m"', 'path = "m"\nencoder = { hidden_size = 8 }', "takes path, or .*: give one of them"),
        ('path = "m"', "", "takes path, or .*: give one of them"),
        ('["d.jsonl"]', '"d.jsonl"', r"files in \[\[data\]\] must be a list \(a text each\), it is 'd\.jsonl'"),
        ('files = ["d.jsonl"]', "", "takes files or source: give one of them"),
        ("[[data]]", "[data]", r"data in .* must be a list \(a table each\), it is .*: write \[\[data\]\]"),
        ("[[data]]", '[[data]]\nsampler = "s"', r"sampler in \[\[data\]\] is 's', known are shuffled, no_duplicates"),
        ("[model]", "[model", "is not TOML: .*line 3"),
        ("[model]", "[train]\nlr = 'high'\n[model]", r"lr in \[train\] must be a number, it is 'high'"),
        ("[model]", "[train]\nepochs = 1.5\n[model]", r"epochs in \[train\] must be a whole number, it is 1\.5"),
        ("[model]", "[train]\ndrop_last = 1\n[model]", r"drop_last in \[train\] must be true or false, it is 1"),
        ("[model]", "[train]\nepochs = true\n[model]", r"epochs in \[train\] must be a whole number, it is True"),
        ("[model]", "train = 3\n[model]", r"train in the top level must be a table, it is 3"),
        ("[model]", "[train]\nbatch_size = 0\n[model]", r"batch_size in \[train\] is 0: use a number at least 1"),
        ("[model]", "[train]\nmax_steps = -1\n[model]", r"max_steps in \[train\] is -1"),
        ("[model]", "[train]\nmax_grad_norm = -1.0\n[model]", r"max_grad_norm in \[train\] is -1"),
        ("[model]", "[train]\nschedule = 'x'\n[model]", r"schedule in \[train\] is 'x', known are linear, cosine"),
        ("[model]", "[train]\ndtype = 'half'\n[model]", r"dtype in \[train\] is 'half', known are float32, bfloat16"),
        ("[model]", "[model.tokenizer]\nsize = 3\n[model]", r"\[tokenizer\] has no key 'size'"),
    ],
)
def test_mistakes(tmp_path, old, new, message):
    assert old in BASE
    with pytest.raises(ValueError, match=message):
        load(tmp_path, BASE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "--set train.lr: write key=value"),
        ("train.lrr=1", r"\[train\] has no key 'lrr', the nearest is 'lr'"),
        ("data.3.sampler=shuffled", "the entry is '3', known are 0"),
        ("data.sampler=shuffled", "data has no keys; name the entry: data.0.sampler"),
        ("output.x=1", "output has no keys; it is a value"),
        ("output.x.y=1", "output"),
        ("train.epochs=many", r"epochs in \[train\] must be a whole number, it is 'many'"),
    ],
)
def test_mistaken_overrides(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, overrides=[override])


def test_several_data_sets(tmp_path):
    more = '\n[[data]]\nname = "more"\nfiles = ["e.jsonl"]\ncolumns = { a = "q" }\nlabel = "score"\n'
    assert [entry.name for entry in load(tmp_path, BASE + more).data] == ["train", "more"]
    with pytest.raises(ValueError, match=r"two entries are \[\[data\]\] train: give each a name of its own"):
        load(tmp_path, BASE + more.replace('"more"', '"train"'))
    with pytest.raises(ValueError, match=r"there is no \[\[data\]\] entry"):
        load(tmp_path, overrides=["data=[]"])


EVAL = '\n[[eval]]\nfiles = ["e.jsonl"]\ncolumns = { query = "q", document = "d" }\n'
FIND = 'evaluator = "InformationRetrievalEvaluator"\n'


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", r"\[\[eval\]\] eval takes evaluator or loss: give one of them"),
        (FIND + 'loss = "CoSENTLoss"', "takes evaluator or loss: give one of them"),
        *(
            (FIND + key, "label, roles, prompts, delete_words and draw_pairs in .* belong to a loss,")
            for key in (
                'label = "score"',
                "label = 0",
                'roles = { query = "query" }',
                'prompts = "find: "',
                'prompts = { query = "find: " }',
                "delete_words = { query = 0.5 }",
                "draw_pairs = 4",
            )
        ),
        ('loss = "CoSENTLoss"\nroles = { quer = "query" }', "roles in .* names 'quer', the columns are query, doc"),
        ('loss = "CoSENTLoss"\ndelete_words = { query = 2 }', "query in delete_words in .* is 2: use a number"),
        ('loss = "CoSENTLoss"\ndraw_pairs = 4', "draw_pairs in .* eval is 4: it takes 2 or more, one column"),
        ('loss = "CoSENTLoss"\nbm25 = true', "bm25 in .* eval belongs to InformationRetrievalEvaluator or Cross"),
        (FIND + EVAL + FIND, r"two entries are \[\[eval\]\] eval"),
    ],
)
def test_evaluations(tmp_path, entry, message):
    load(tmp_path, BASE + EVAL + FIND)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, BASE + EVAL + entry)
    with pytest.raises(ValueError, match=r"\[\[eval\]\] eval has no files"):
        load(tmp_path, BASE + EVAL + FIND, ["eval.0.files=[]"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('data.0.roles={x="query"}', "roles in .* names 'x', the columns are"),
        ("data.0.delete_words={x=0.5}", "delete_words in .* names 'x', the columns are"),
        (
            "data=[{files=['x'], columns={a='q'}, draw_pairs=2, delete_words={partner=0.5}}]",
            r"names 'partner', .* are a$",
        ),
        ("data.0.weight=0.0", "weight in .* is 0.0: use a number above 0"),
        ("data.0.draw_pairs=1", "draw_pairs in .* is 1: it takes 2 or more, one column, and no label"),
        ("data.0.prompts=3", r"prompts in \[\[data\]\] must be a text or a table, it is 3"),
        ("train.lr_for={a='x'}", r"lr_for in \[train\] must be a table \(a number each\), it is \{'a': 'x'\}"),
        ("train.mixing=half", "mixing in .* is 'half', known are proportional, round_robin"),
        ("train.patience=2", "patience in .* needs best, the metric to watch, and eval_every"),
        ("train.mini_batch_tokens=-1", "mini_batch_tokens in .* is -1"),
        ("expect.m='x'", r"expect in the top level must be a table \(a number each\), it is"),
        ("train.lr_for={a=nan}", r"a in lr_for in \[train\] is nan: use a number at least 0"),
        ("train.lr_for={a=-1}", r"a in lr_for in \[train\] is -1: use a number at least 0"),
        ("train.keep=0", "keep in .* is 0: use a number at least 1"),
        ("train.warmup=nan", "warmup in .* is nan: use a number"),
        ("train.best=m", "name metrics, but there is no .* entry that would measure any"),
        ("expect={m=1}", "name metrics, but there is no .* entry that would measure any"),
        ("model.max_length=-1", "max_length in .* is -1"),
        ("data.0.columns={a=1.5}", r"columns in .* must be a table \(a text or a whole number each\)"),
        ("data.0.roles={anchor=3}", r"roles in .* must be a table \(a text each\)"),
        ("seed=-1", "seed in the top level is -1"),
    ],
)
def test_values_that_cannot_be(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, overrides=[override])


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"there is no config file .*none\.toml"):
        load_config(tmp_path / "none.toml", [])
