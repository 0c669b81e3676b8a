"""report.html of a run, and the page of several: whole HTML that shows what a run has, whatever its texts hold."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny import FROM_SCRATCH, run_script, sentences, write_jsonl

from minist.commands.report import differences
from minist.training import report as module
from minist.training.report import grouped, meanings, run_page, write_page

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


def test_a_run(folder):
    train("train.eval_every=2", "train.best=held<_cosine_ndcg@10", "train.save_every=2")
    page = read("run/report.html")
    assert "A SentenceTransformer from random weights: BertEncoder \u2192 Pooling." in page.text
    assert "Step 4 of 4." in page.text and "MatryoshkaLoss" in page.text
    assert all(evil in page.text for evil in EVIL[:3]) and "a\ufffd\ufffd\ufffd" in page.text
    assert "best by held<_cosine_ndcg@10" in page.text and 'class="best"' in page_of("run/report.html")
    for name in ("loss", "learning_rate", "memory_mb", "positive, negative", "matryoshka_16", "texts_per_second"):
        assert name in page.text
    assert "before step 1" in page.text and "after step 4" in page.text and "\u2713 right" in page.text
    assert "train.batch_size" in page.text and "train.warmup" not in page.text
    steps = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert all(step["memory_mb"] > 50 for step in steps if "loss" in step)  # python alone has more


def test_before_is_kept_when_a_run_goes_on(folder):
    train("train.save_every=2", "train.max_steps=2")
    before = json.loads(Path("run/examples.json").read_text())["before"]
    train("train.save_every=2", arguments=["--resume"])
    found = json.loads(Path("run/examples.json").read_text())
    assert found["before"] == before and found["after"]["step"] == 4
    Path("run/examples.json").unlink()  # as in a run of an older version
    train("train.save_every=2", "train.max_steps=6", arguments=["--resume"])
    assert list(json.loads(Path("run/examples.json").read_text())) == ["after"]
    assert "after step 6" in read("run/report.html").text


def test_a_run_that_is_killed_has_a_report(folder, monkeypatch):
    """Before its first step, and as of its last checkpoint."""
    Path("c.toml").write_text(CONFIG)
    seen = []

    def write(file, *page):
        write_page(file, *page)
        seen.append(read(file).text)

    monkeypatch.setattr(module, "write_page", write)
    train("train.save_every=2")
    assert "No step has been logged yet." in seen[0] and "Nothing has been evaluated" in seen[0]
    assert "Step 2 of 4." in seen[1] and "Step 4 of 4." in seen[-1]
    assert not Path("run/examples.json").exists()


def test_what_cannot_be_written_stops_no_training(folder, monkeypatch):
    def full(file, *page):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(module, "write_page", full)
    printed = train()
    assert "note   report.html could not be written: [Errno 28] No space left on device" in printed
    assert Path("run/model").exists()


def test_several_runs(folder):
    train("output=a")
    train("output=b", "train.lr=2e-2", "eval=[]")
    Path("old").mkdir()
    Path("old/metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 7, "loss": 2.5, "x\\ud800": 1}\n{"step": 9, "l'
    )
    code, printed, _ = report("a", "b", "old", "a", "--output", "c.html")
    assert (code, printed) == (0, "3 runs in c.html: open it in a browser\n")
    page = read("c.html")
    assert "2.5000 step 7" in page.text and "x\ufffd" in page.text
    rows = re.findall(
        r"<tr><td><code>(.*?)</code></td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", page_of("c.html")
    )
    assert ("train.lr", "0.01", "0.02", "") in rows
    curves = [svg for svg in re.findall(r"<svg.*?</svg>", page_of("c.html"), re.DOTALL) if "<title>loss<" in svg]
    assert len(curves) == 1 and re.findall(r'class="name".*?>(.*?)<', curves[0]) == ["a", "b", "old"]


def test_differences():
    found = differences(
        {"a": {"lr": 1, "same": 2, "output": "a"}, "b<": {"lr": 3, "same": 2, "output": "b", "new": "<"}}
    )
    assert re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", found) == [
        *("setting", "a", "b&lt;"),
        *("<code>lr</code>", "1", "3"),
        *("<code>new</code>", "", "&lt;"),
    ]


def page_of(file):
    return Path(file).read_text("utf-8")


def test_names_of_runs(folder):
    for name in ("x/run", "y/run"):
        Path(name).mkdir(parents=True)
        Path(name, "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert report("x/run", "y/run")[0] == 0
    assert re.findall(r'class="name".*?>(.*?)<', page_of("compare.html")) == ["x/run", "y/run"]
    assert "None." in read("compare.html").text  # no config.toml, no settings
    assert report("x/run", "--output", "one.html")[1] == "1 run in one.html: open it in a browser\n"
    assert "Curves" in read("one.html").text  # without about.json


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file none/metrics.jsonl"),
        ("", "the number of lines in none/metrics.jsonl, which a run writes as it goes, is 0: use a number at least 1"),
        ('{"loss": 1}\nx\n', "none/metrics.jsonl, line 2 is not JSON"),
        ('{"global_step": 1}\n', "none/metrics.jsonl, line 1: the key is 'step', known are global_step"),
    ],
)
def test_errors(folder, content, message):
    Path("none").mkdir()
    if content is not None:
        Path("none/metrics.jsonl").write_text(content)
    code, _, err = report("none", "none/../none")
    assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not Path("compare.html").exists()


def test_ten_thousand_steps(tmp_path):
    figures = [name for meaning in meanings() for name in meaning.names if ".." not in name] + ["part_a", "part_b"]
    records = [{"step": i} | {name: math.sin(i) + 2 for name in figures} for i in range(1, 10_001)]
    metrics = [{"step": i} | {f"held_ndcg@{k}": 1 - k / i for k in range(1, 20)} for i in range(100, 10_001, 100)]
    write_jsonl(tmp_path / "metrics.jsonl", records + metrics)
    write_page(tmp_path / "report.html", *run_page(tmp_path))
    assert (tmp_path / "report.html").stat().st_size < 500_000
    read(tmp_path / "report.html")


def test_what_is_drawn_together():
    def of(*names):
        return [(meaning.names, own) for meaning, own in grouped(names).items()]

    assert of("accuracy", "loss", "own", "positive", "negative") == [
        (("loss",), ["loss"]),
        ((), ["own"]),
        (("positive", "negative"), ["positive", "negative"]),
        (("accuracy",), ["accuracy"]),
    ]
    assert of("confidence", "accuracy") == [(("accuracy", "confidence"), ["confidence", "accuracy"])]
    assert of("cut_a", "eval_b_loss", "h_dot_ndcg@10") == [
        (("cut_..",), ["cut_a"]),
        ((".._ndcg@..",), ["h_dot_ndcg@10"]),
        (("eval_.._loss",), ["eval_b_loss"]),
    ]
    assert all(meaning.what for meaning in meanings()) and len(meanings()) > 20


def test_every_figure_has_a_meaning(folder):
    train()
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    names = {name for record in records for name in record if name != "step"}
    assert set(grouped(names)[module.PARTS]) == {"matryoshka_16", "matryoshka_8"}
