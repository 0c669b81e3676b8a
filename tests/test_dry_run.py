"""train.py --dry-run: it writes no run and changes none, its figures are those of the data, and it warns."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, write_jsonl

from minist.data.samplers import Keys
from minist.training import data_report, dry_run
from minist.training.config import load_config
from minist.training.run import start_run

ROWS = """files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d" }"""
CONFIG = f"""
output = "runs/one"
[model]
TYPE
{FROM_SCRATCH}
[[data]]
{ROWS}
loss = "MultipleNegativesRankingLoss"
[train]
batch_size = 8
epochs = 2
lr = 1e-2
[[eval]]
name = "held"
evaluator = "InformationRetrievalEvaluator"
files = ["held.jsonl"]
columns = {{ query = "q", document = "d" }}
"""
LOSS = 'loss = "MultipleNegativesRankingLoss"'
NO_EVALUATION = CONFIG.partition("[[eval]]")[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = ("q", "d", "label", "score", "whole", "docs", "relevant", "class", "unsure")
    pairs = zip(sentences(40, 1), sentences(40, 2), strict=True)
    rows = [
        (f"{i} {q}", f"{i} {d}", i % 2, i % 5, 1, [d, q], [1, 0], "ab"[i % 2], i / 2) for i, (q, d) in enumerate(pairs)
    ]
    write_jsonl(tmp_path / "rows.jsonl", [dict(zip(keys, row, strict=True)) for row in rows])
    write_jsonl(
        tmp_path / "held.jsonl", [{"q": q, "d": d} for q, d in zip(sentences(9, 3), sentences(9, 4), strict=True)]
    )
    return tmp_path


def write_config(config=CONFIG, kind=""):
    Path("c.toml").write_text(config.replace("TYPE", kind and f'type = "{kind}"'))


def dry(config=CONFIG, *overrides, code=0, kind=""):
    write_config(config, kind)
    settings = [part for override in overrides for part in ("--set", override)]
    found, out, err = run_script("train.py", "--dry-run", "--config", "c.toml", *settings)
    assert found == code, err
    if code:
        assert err.startswith("error: ") and err.count("\n") == 1
    return err if code else out


def warnings(*arguments, **options):
    return [line for line in dry(*arguments, **options).splitlines() if line.startswith("warning: ")]


def plain(line):
    return " ".join(line.split())


def test_it_leaves_no_run_and_changes_none(folder):
    dry()
    assert {path.name for path in folder.rglob("*") if path.is_dir()} >= {"runs", "cache"}
    assert not (folder / "runs/one").exists()
    alone = folder / "alone/one"  # beside no cache
    for output in ("runs/one", alone):  # the first has the tokens from the dry run
        settings = ["--set", f"output={output}", "--set", "train.max_steps=2"]
        assert run_script("train.py", "--config", "c.toml", *settings)[0] == 0
    weights = [(run / "model/model.safetensors").read_bytes() for run in (folder / "runs/one", alone)]
    assert weights[0] == weights[1]
    before = [path.read_bytes() for path in sorted((folder / "runs/one").rglob("*")) if path.is_file()]
    out = dry()
    assert "runs/one exists: --resume goes on" in out
    assert before == [path.read_bytes() for path in sorted((folder / "runs/one").rglob("*")) if path.is_file()]


def started():
    return start_run(load_config(Path("c.toml"), []), resume=False, overwrite=True)


def test_no_weight_changes(folder):
    dry()
    run, take_step = started(), runpy.run_path(str(ROOT / "train.py"))["take_step"]
    before = {name: weight.clone() for name, weight in run.trained.model.state_dict().items()}
    dry_run.dry_run(run, take_step)
    assert all(torch.equal(weight, before[name]) for name, weight in run.trained.model.state_dict().items())


def test_columns_and_examples(folder):
    rows = [{"q": "Read A List", "d": f"file {i}"} for i in range(2)] + [
        {"q": "", "d": "wait " * 40},
        {"q": "write", "d": "file 0"},
    ]
    write_jsonl(folder / "rows.jsonl", rows * 2)
    out = [plain(line) for line in dry().splitlines()]
    assert (
        "[[data]] train: MultipleNegativesRankingLoss takes anchor, positive, any negatives, in order; labels: none"
        in out
    )
    tokenizer = started().trained.model.tokenizer
    for name, key, cut in (("anchor", "q", "0.0%"), ("positive", "d", "25.0%")):
        lengths = [len(tokenizer([row[key]]).input_ids) for row in rows]
        assert f"{name} {key} - {sum(lengths) / 4:.1f} {min(lengths)} {max(lengths)} {cut}" in out
    first = out.index("as the model reads it, row 1:")
    assert out[first + 1] == "anchor: '[CLS] read a list [SEP]'"
    assert out[first + 2].startswith("positive: '[CLS] file")
    assert "warning: 2 texts are empty: leave their rows out" in out


def test_the_plan(folder):
    out = dry(CONFIG, "train.warmup=0.2", "train.eval_every=3", "train.save_every=4", "train.schedule=cosine")
    assert "plan   10 steps of 8 rows\n" in out
    assert "they see 80 rows: 2 times the 40 that there are" in out
    assert "each row meets 7 texts of other rows\n" in out
    assert "learning rate 0.01, reached in 2 steps, then cosine" in out
    assert "evaluations: every 3 steps and at the end; checkpoints: every 4 steps, the last 2 stay" in out
    assert re.search(r"takes [\d.]+ seconds; 4 in a run", out)  # after the steps 3, 6, 9 and 10


def test_time_and_memory_are_those_of_the_tokens(folder, monkeypatch):
    """With a clock that counts 2 milliseconds for each token of a step, and a memory that holds 1,000 bytes a row."""
    write_config()
    run = started()
    clock = SimpleNamespace(now=0.0, peak=0, batches=[])
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(dry_run, "peak_memory", lambda device: clock.peak)
    monkeypatch.setattr(dry_run, "reset_peak_memory", lambda device: None)

    def take_step(run, place):
        clock.now += int(run.tasks[0].rows.dataset.tokens(place.rows).sum()) * 0.002
        state = 10**6 * bool(clock.batches)  # after the first step
        clock.batches.append(len(place.rows))
        clock.peak = max(clock.peak, 5000 + state + 1000 * len(place.rows))

    places = list(run.batches.start_at(0))
    totals = [int(run.tasks[0].rows.dataset.tokens(place.rows).sum()) for place in places]
    largest = totals.index(max(totals))
    assert dry_run.grow(run, take_step, places[largest]) == (8, 5000 + 10**6 + 8000)
    assert clock.batches == [4, 4, 8]
    said = []
    run.say = said.append
    dry_run.try_steps(run, take_step, places)
    out = "\n".join(said)
    assert f"in the largest batch, that of step {largest + 1} with {max(totals)} tokens" in out and "(measured)" in out
    found = re.search(r"10 steps take about ([\d.]+) seconds: ([\d.]+) s each, 500 tokens/s", out)
    assert float(found[1]) == pytest.approx(sum(totals) * 0.002, abs=0.06)
    assert float(found[2]) == pytest.approx(sum(totals) * 0.0002, rel=0.01)

    wide = places[0]._replace(rows=torch.arange(40))  # more than there is room for, or time
    for name, least in (("total_memory", 5000 + 10**6 + 22000), ("SECONDS", 0.1)):
        clock.batches, clock.peak = [], 0
        value = (lambda device, least=least: least) if name == "total_memory" else least
        with monkeypatch.context() as patch:
            patch.setattr(dry_run, name, value)
            rows, needed = dry_run.grow(run, take_step, wide)
        assert 8 <= rows < 40 and clock.batches[-1] == rows
        assert needed == 5000 + 10**6 + 40000


FILE = 'files = ["rows.jsonl"]\n'
SPLADE = """[data.loss]
name = "SpladeLoss"
loss = "SparseMultipleNegativesRankingLoss"
document_regularizer_weight = 3e-3
query_regularizer_weight = 5e-3"""
TSDAE = 'columns = { noisy = "d", text = "d" }\ndelete_words = { noisy = 0.6 }'
KINDS = {  # type of the model, loss, rows, and what is printed of them
    "splade": ("SparseEncoder", SPLADE, ROWS, "    anchor: '[CLS] 0 "),
    "words": ("MaskedLM", 'loss = "MaskedLMLoss"', FILE + 'columns = { text = "d" }', "[MASK]"),
    "tsdae": ("", 'loss = "DenoisingAutoEncoderLoss"', FILE + TSDAE, "    noisy: '[CLS] "),
    "drawn": (
        "",
        'loss = "ContrastiveTensionLoss"',
        FILE + 'columns = { text = "d" }\ndraw_pairs = 4',
        "    partner: ",
    ),
    "lists": (
        "CrossEncoder",
        'loss = "ListNetLoss"',
        FILE + 'columns = { query = "q", documents = "docs" }\nlabel = "relevant"',
        "label: 1, 0\n",
    ),
    "pairs": ("CrossEncoder", 'loss = "BinaryCrossEntropyLoss"', f'{ROWS}\nlabel = "label"', "label: 1\n"),
    "negatives": ("CrossEncoder", LOSS, ROWS, "each row meets 4 texts of other rows"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(folder, kind):
    of, loss, rows, printed = KINDS[kind]
    out = dry(NO_EVALUATION.replace(LOSS, loss).replace(ROWS, rows), kind=of)
    assert "10 steps take about" in out and "(measured) in the largest batch" in out
    assert printed in out and out.count("as the model reads it, row") == 2


def test_mini_batches(folder):
    assert "10 steps take about" in dry(NO_EVALUATION, "train.mini_batch_tokens=60")


def test_several_sets(folder):
    other = f'[[data]]\nname = "scored"\n{ROWS}\nlabel = "score"\nloss = "CoSENTLoss"\nweight = 0.5\n[train]'
    out = dry(NO_EVALUATION.replace("[train]", other))
    assert "train: 10 steps, its loss weighs 1\n" in out and "scored: 10 steps, its loss weighs 0.5\n" in out
    assert "label: 3" not in out and "label: 0\n" in out and "label: 1\n" in out


def test_classes_that_the_sampler_groups(folder):
    config = labelled("class", 'loss = "BatchHardTripletLoss"\nsampler = "group_by_label"')
    assert "steps take about" in dry(config.replace('anchor = "q", positive', "text"))


def test_lists_that_are_all_empty(folder):
    rows = [json.loads(line) | {"none": []} for line in (folder / "rows.jsonl").read_text().splitlines()]
    write_jsonl(folder / "rows.jsonl", rows)
    out = dry(NO_EVALUATION.replace('positive = "d"', 'positive = "d", negative = "none"'))
    assert "negative none - 0.0 0 0 0.0%" in plain(out) and "each row meets 7 texts of other rows" in out


def test_names_of_classes(folder):
    loss = '[data.loss]\nname = "SoftmaxLoss"\nembedding_dimension = 16\nnum_labels = 2'
    out = dry(NO_EVALUATION.replace(LOSS, loss).replace(ROWS, f'{ROWS}\nlabel = "class"'))
    assert "label: a (0)\n" in out and "label: b (1)\n" in out


def test_a_sound_config_gives_no_warning(folder):
    assert warnings() == []


def labelled(column, loss):
    return NO_EVALUATION.replace(LOSS, loss).replace(ROWS, f'{ROWS}\nlabel = "{column}"')


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.batch_size=1", "train.max_steps=3"], "batch_size is 1, so no row meets a negative"),
        (["train.warmup=10"], "the learning rate never gets there: set warmup to a share of the 10 steps"),
        (["model.tokenizer.max_length=4"], "88% of anchor are cut"),
    ],
)
def test_warnings_of_settings(folder, settings, says):
    found = warnings(NO_EVALUATION, *settings)
    assert any(line.startswith(f"warning: {says}") for line in found), found


def test_labels_that_are_all_equal(folder):
    (found,) = warnings(labelled("whole", 'loss = "CoSENTLoss"'))
    assert found.startswith("warning: all labels are 1: there is nothing to learn")


def test_labels_out_of_range(folder):
    """Those of the first batch are an error of every run, later ones would be found in the middle of it, or never."""
    loss = 'loss = "CosineSimilarityLoss"'
    assert "takes labels numbers from -1 to 1" in dry(labelled("score", loss), code=2)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    write_jsonl(folder / "rows.jsonl", [row | {"score": 0.1 * i} for i, row in enumerate(rows)])
    (found,) = warnings(labelled("score", loss))
    assert "go from 0 to 3.9, such as 1.1; CosineSimilarityLoss takes numbers from -1 to 1" in found
    assert warnings(labelled("label", loss)) == []
    halves = [row | {"label": 0.5 if i > 30 else i % 2} for i, row in enumerate(rows)]
    write_jsonl(folder / "rows.jsonl", halves)
    write_config(labelled("label", 'loss = "OnlineContrastiveLoss"'))
    (found,) = data_report.doubts_of_labels(started().tasks[0])
    assert "such as 0.5; OnlineContrastiveLoss takes 0 or 1" in found


def test_warnings_of_texts(folder):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    write_jsonl(folder / "rows.jsonl", [row | {"d": row["q"] if i % 3 else "x"} for i, row in enumerate(rows)])
    found = warnings()
    assert any("q and d are the same text in 65% of the rows" in line for line in found)
    assert any(
        "have a text that another row of their batch has too, a false negative: set sampler" in line for line in found
    )
    assert not any(
        "false negative" in line for line in warnings(CONFIG.replace(LOSS, f'{LOSS}\nsampler = "no_duplicates"'))
    )


def test_rows_that_share_a_text():
    texts = torch.tensor([[1, 2], [3, 3], [4, 2], [5, 6], [1, 9]]).numpy().astype("uint64")
    keys = Keys(texts.reshape(-1), torch.arange(0, 11, 2).numpy())
    for rows in ([0, 1, 2, 3, 4], [1, 3], [1, 2, 3], [0, 4]):
        others = [{x for r in rows if r != row for x in texts[r].tolist()} for row in rows]
        expected = sum(not others[i].isdisjoint(texts[row].tolist()) for i, row in enumerate(rows))
        assert data_report.sharing(keys, torch.tensor(rows)) == expected


def test_a_leak(folder):
    (found,) = warnings(CONFIG.replace("held.jsonl", "./rows.jsonl"))
    assert found.startswith("warning: rows.jsonl is read by [[eval]] held and trained on by [[data]] train")


def test_too_little_memory(folder, monkeypatch):
    monkeypatch.setattr(dry_run, "total_memory", lambda device: 2**20)
    out = dry(NO_EVALUATION, "train.batch_size=40")
    assert "(estimated by 8 of its 40 rows)" in out and "warning: too little memory: set mini_batch_tokens" in out


def test_wrong_settings(folder):
    assert "known are" in dry(CONFIG, "train.best=held_ndcg", "train.eval_every=2", code=2)
    assert "a metric in [expect]" in dry(CONFIG, "expect.held_ndcg=0.1", code=2)
    assert "there is no column 'x'" in dry(CONFIG.replace('"q", positive', '"x", positive'), code=2)
    (folder / "runs/one").mkdir(parents=True)
    (folder / "runs/one/thesis.txt").write_text("years of work")
    assert "is no run and is not deleted" in dry(code=2)


def test_an_evaluation_that_takes_long_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(dry_run, "EVALUATION_SECONDS", 0.0)
    out = dry(CONFIG, "train.best=held_ndcg", "train.eval_every=2")
    assert "eval   held takes about " in out and "eval   before" not in out


@pytest.mark.slow
def test_weights_in_shares(folder):
    """Of a rank's memory its share is told, and of frozen weights neither gradients nor AdamW's state."""
    wide = ["model.encoder.hidden_size=256", "model.encoder.intermediate_size=4096", 'train.freeze=["layers.0"]']
    wide = [part for setting in (*wide, "train.fsdp=true") for part in ("--set", setting)]
    write_config(NO_EVALUATION)
    found = []
    for ranks in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", str(ROOT / "train.py")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command += ["--dry-run", "--config", "c.toml", *wide]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found.append([int(n) for n in re.findall(r"(?:weights|gradients|AdamW) (\d+) MB", done.stdout)])
    for alone, shared in zip(*found, strict=True):
        assert abs(alone - 2 * shared) <= 2
    weights, gradients, state = found[0]
    assert abs(weights - 2 * gradients) <= 2 and abs(state - 2 * gradients) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "splade", "words", "lists"])  # each kind of model
def test_two_ranks(folder, kind):
    of, loss, rows, _ = KINDS[kind] if kind else ("", LOSS, ROWS, "")
    config = (NO_EVALUATION if kind else CONFIG).replace(LOSS, loss).replace(ROWS, rows)
    (folder / "c.toml").write_text(config.replace("TYPE", of and f'type = "{of}"'))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(ROOT / "train.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--dry-run", "--config", "c.toml"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps take about") == 1
    assert "plan   10 steps of 8 rows, 4 on each of 2 ranks" in done.stdout
    assert not (folder / "runs/one").exists()


def test_durations():
    assert dry_run.duration(119.44) == "119.4 seconds"
    assert dry_run.duration(120) == "2.0 minutes"
    assert dry_run.duration(9000) == "2.5 hours"
