"""report.html of a run, and the page of several: whole HTML that shows what a run has, whatever its texts hold."""

import json
import math
import re
from argparse import Namespace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny import FROM_SCRATCH, run_script, sentences, write_jsonl

from minist.commands.report import run
from minist.training import report as module
from minist.training.evaluations import HEADLINES
from minist.training.report import MEANINGS, plots, settings, write_page

EVIL = [
    "<script>alert(1)</script>",
    "</p></svg>\"'&lt;",
    "\u202e\u05d0\u05d1\u05d2 <b>",
    "\U0001f600",
    "a\x00\x07\ufffe",
]
CONFIG = f"""output = "run"
{FROM_SCRATCH}
[[data]]
name = "<i>&'"
files = ["pairs.jsonl"]
columns = {{ anchor = "q<", positive = "d" }}
loss = {{ name = "MatryoshkaLoss", loss = "MultipleNegativesRankingLoss", matryoshka_dims = [16, 8] }}
[train]
batch_size = 9
max_steps = 4
log_every = 1
lr = 1e-2
"""
EVALUATIONS = """
[[eval]]
name = "held<"
evaluator = "InformationRetrievalEvaluator"
files = ["pairs.jsonl"]
columns = { query = "q<", document = "d" }
"""
VOID = {"meta", "br", "circle", "path", "col"}


class Checker(HTMLParser):
    """Opens and closes elements, and fails where they do not fit; keeps the text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(file):
    page = Path(file).read_text("utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == [] and "script" not in checker.tags
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\ud800-\udfff]", page)
    outside = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|src=|href=|url\(", outside)  # it asks for nothing
    return checker


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [f"{evil} {text}" for evil, text in zip(EVIL * 6, sentences(30), strict=True)]
    write_jsonl(Path("pairs.jsonl"), [{"q<": text, "d": f"{text} sort"} for text in dict.fromkeys(texts)])
    Path("c.toml").write_text(CONFIG + EVALUATIONS)
    return tmp_path


def train(*overrides, arguments=()):
    sets = [part for override in overrides for part in ("--set", override)]
    code, printed, err = run_script("train.py", "--config", "c.toml", *sets, *arguments)
    assert code == 0, err
    return printed


def report(*arguments):
    return run_script("minist/__main__.py", "report", *arguments)


def rows_of(file):
    """The first cell of each row of a table -> the others."""
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page_of(file))]
    return {first: others for first, *others in found}


def pictures(page):
    """Title and names of lines of each figure."""
    found = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return {re.search("<title>(.*?)</title>", svg)[1]: re.findall(r'class="name".*?>(.*?)<', svg) for svg in found}


def test_a_run(folder):
    train("train.eval_every=2", "train.best=held<_cosine_ndcg@10", "train.save_every=2")
    page, rows, curves = read("run/report.html"), rows_of("run/report.html"), pictures(page_of("run/report.html"))
    steps = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows["kind"] == ["SentenceTransformer"] and rows["modules"] == ["BertEncoder &gt; Pooling"]
    assert rows["train.batch_size"] == ["9"] and "train.warmup" not in rows
    losses = {record["step"]: record["loss"] for record in steps if "loss" in record}
    best = min(losses, key=losses.get)
    assert rows["loss"] == [f"{losses[best]:.4g} (step {best})", f"{losses[4]:.4g} (step 4)"]
    gains = {record["step"]: record["held<_cosine_ndcg@10"] for record in steps if "loss" not in record}
    best = max(gains, key=gains.get)
    assert rows["held&lt;_cosine_ndcg@10"][0] == f"{gains[best]:.4g} (step {best})" and set(gains) == {0, 2, 4}
    assert all(evil in page.text for evil in EVIL[:3]) and "a\ufffd\ufffd\ufffd" in page.text
    assert curves["loss"] == [] and curves["positive, negative"] == ["positive", "negative"]
    assert {"learning_rate", "memory_mb", "texts_per_second", "tokens_per_second"} <= curves.keys()
    assert curves["any other"] == ["matryoshka_16", "matryoshka_8"]
    assert "before, step 0" in rows_heads(page_of("run/report.html")) and "\u2713" in page.text
    assert "after, step 4" in rows_heads(page_of("run/report.html"))
    assert "MatryoshkaLoss" in page.text
    assert all(step["memory_mb"] > 50 for step in steps if "loss" in step)  # python alone has more


def rows_heads(page):
    return re.findall(r'<th scope="col">(.*?)</th>', page)


def test_before_is_kept_when_a_run_goes_on(folder):
    train("train.save_every=2", "train.max_steps=2")
    before = json.loads(Path("run/examples.json").read_text())["before"]
    train("train.save_every=2", arguments=["--resume"])
    found = json.loads(Path("run/examples.json").read_text())
    assert found["before"] == before and found["after"]["step"] == 4
    Path("run/examples.json").unlink()  # as in a run of an older version
    train("train.save_every=2", "train.max_steps=6", arguments=["--resume"])
    assert list(json.loads(Path("run/examples.json").read_text())) == ["after"]
    assert "after, step 6" in read("run/report.html").text


def test_a_run_that_is_killed_has_a_report(folder, monkeypatch):
    """Before its first step, and as of its last checkpoint."""
    Path("c.toml").write_text(CONFIG)
    seen = []

    def write(file, folders):
        write_page(file, folders)
        seen.append((read(file).text, rows_of(file)))

    monkeypatch.setattr(module, "write_page", write)
    train("train.save_every=2")
    assert "None." in seen[0][0] and "loss" not in seen[0][1] and seen[0][1]["steps"] == ["4"]
    assert "(step 2)" in seen[1][1]["loss"][1] and "(step 4)" in seen[-1][1]["loss"][1]
    assert not Path("run/examples.json").exists()


def test_what_cannot_be_written_stops_no_training(folder, monkeypatch):
    def full(file, folders):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(module, "write_page", full)
    printed = train()
    assert "note   report.html could not be written: [Errno 28] No space left on device" in printed
    assert Path("run/model").exists()


@pytest.mark.parametrize("damaged", ["", '{"before": {"st', "[]", '{"before": 5}', '{"before": {"step": 0}}', "\x00"])
def test_damaged_files_stop_no_training(folder, damaged):
    train("train.save_every=2", "train.max_steps=2")
    Path("run/examples.json").write_text(damaged)
    Path("run/about.json").write_text(damaged)
    printed = train("train.save_every=2", arguments=["--resume"])
    assert re.search(r"^note   report.html could not be written: run/.*examples.json", printed, re.MULTILINE)
    assert Path("run/model").exists()
    for name in ("about.json", "examples.json"):
        train("train.save_every=2", "train.max_steps=2", arguments=["--overwrite"])
        Path("run", name).write_text(damaged)
        code, _, err = report("run")
        assert code == 2 and err.startswith("error: run/") and name in err and err.count("\n") == 1


def test_several_runs(folder):
    train("output=a")
    train("output=b", "train.lr=2e-2", "eval=[]")
    Path("old").mkdir()
    Path("old/metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 7, "loss": 2.5, "x\\ud800": 1}\n{"step": 9, "l'
    )
    code, printed, _ = report("a", "b", "old", "a", "b/../a", "--output", "c.html")
    assert (code, printed) == (0, "c.html is written: open it in a browser\n")
    page, rows = read("c.html"), rows_of("c.html")
    assert "x\ufffd" in page.text and rows["loss"][4:] == ["2.5 (step 7)"] * 2
    assert rows["held&lt;_cosine_ndcg@10"][2:] == [""] * 4
    assert rows["train.lr"] == ["0.01", "0.02", "unknown"]
    curves = pictures(page_of("c.html"))
    assert curves["loss"] == ["a", "b", "old"] and curves["positive"] == ["a", "b"]
    report("a", "b")
    rows = rows_of("compare.html")
    assert rows["train.lr"] == ["0.01", "0.02"] and rows["output"] == ["a", "b"]
    assert "train.batch_size" not in rows and rows["eval.held&lt;.columns.query"] == ["q&lt;", "default"]


def test_settings_that_differ():
    long = "x" * 400
    found = settings(
        {"a": {"lr": 1, "same": 2, "long": long}, "b<": {"lr": 3, "same": 2, "new": "<", "long": long + "y"}}
    )
    assert re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", found) == [
        *("setting", "a", "b&lt;"),
        *("lr", "1", "3"),
        *("long", "x" * 298 + "..", "x" * 298 + ".."),
        *("new", "default", "&lt;"),
    ]


def page_of(file):
    return Path(file).read_text("utf-8")


def test_names_of_runs(folder):
    for name in ("x/run", "y/run", "x/run/inner"):
        Path(name).mkdir(parents=True)
        Path(name, "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    for given, names in [
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["x/run", "x/run/inner"], ["run", "run/inner"]),
        ([str(folder / "y/run"), "./x/run"], ["y/run", "x/run"]),
    ]:
        assert report(*given)[0] == 0
        assert pictures(page_of("compare.html"))["loss"] == names
    assert "None." in read("compare.html").text  # no about.json, no settings
    assert report("x/run", "--output", "one/two.html")[1] == "one/two.html is written: open it in a browser\n"
    assert read("one/two.html").text.split()[0] == "run"
    Path("x/run/metrics.jsonl").write_text("")  # it has just begun
    assert report("x/run")[0] == 0 and pictures(page_of("compare.html")) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file none/metrics.jsonl"),
        ('{"step": 1}\nx\n', "none/metrics.jsonl, line 2 is not JSON"),
        ('{"global_step": 1}\n', "none/metrics.jsonl, line 1: the step is None"),
    ],
)
def test_errors(folder, content, message):
    Path("none").mkdir()
    if content is not None:
        Path("none/metrics.jsonl").write_text(content)
    code, _, err = report("none", "./none")
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not Path("compare.html").exists()


def test_ten_thousand_steps(tmp_path):
    figures = [name for name in re.findall("`(.*?)`", MEANINGS.read_text("utf-8")) if name.isidentifier()]
    figures += ["part_a", "part_b"]
    records = [{"step": i} | {name: math.sin(i) + 2 for name in figures} for i in range(1, 10_001)]
    metrics = [{"step": i} | {f"held_ndcg@{k}": 1 - k / i for k in range(1, 20)} for i in range(100, 10_001, 100)]
    write_jsonl(tmp_path / "metrics.jsonl", records + metrics)
    run(Namespace(runs=[tmp_path], output=tmp_path / "report.html"))
    assert len(figures) > 20 and (tmp_path / "report.html").stat().st_size < 500_000
    read(tmp_path / "report.html")


def drawn(*names, together=True):
    return list(pictures("".join(plots({name: {"run": [(1, 1.0)]} for name in names}, together))).items())


def test_what_is_drawn_together():
    names = ("accuracy", "own", "loss", "positive", "negative", "other")
    assert drawn(*names) == [
        *(("loss", []), ("positive, negative", ["positive", "negative"]), ("accuracy", [])),
        ("any other", ["own", "other"]),
    ]
    assert [title for title, _ in drawn(*names, together=False)] == [
        *("loss", "positive", "negative", "accuracy", "own", "other")
    ]
    assert drawn("cut_a", "eval_b_loss", "h_dot_ndcg@10", "h_ndcg@3") == [
        ("cut_a", []),
        (".._ndcg@..", ["h_dot_ndcg@10", "h_ndcg@3"]),
        ("eval_b_loss", []),
    ]


def test_every_figure_has_a_meaning(folder):
    train()
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    names = {name: None for record in records for name in record if name != "step"}
    assert dict(drawn(*names))["any other"] == ["matryoshka_16", "matryoshka_8"]
    others = "f1_micro f1_weighted f1_threshold precision recall mcc query_active_dims sparsity_ratio avg_flops pearson"
    assert "any other" not in dict(drawn(*(f"h_{name.strip('_')}" for name in [*HEADLINES, *others.split()])))
