"""A search over runs of train.py: what is the best, and what happens to a search that was killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, write_jsonl

from minist.commands.tune import table, value_of
from minist.training import optimizer, tuning
from minist.training.tuning import choose_metric, final_metrics

METRIC = "dev_cosine_ndcg@10"
CONFIG = f"""
output = "run"
{FROM_SCRATCH}
[[data]]
files = ["pairs.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
loss = {{ name = "MultipleNegativesRankingLoss" }}
[[eval]]
name = "dev"
evaluator = "InformationRetrievalEvaluator"
files = ["pairs.jsonl"]
columns = {{ query = "q", document = "d" }}
[train]
batch_size = 8
max_steps = 8
lr = 1e-4
save_every = 3
[expect]
"{METRIC}" = 0.999
"""
SEARCH = ("--set", "train.lr=1e-3..1e-1", "--set", "data.0.loss.scale=5..40", "--trials", "4", "--metric", METRIC)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where trials run inside this process; `folder / "runs"` counts them."""
    a, b = sentences(40, seed=1), sentences(40, seed=2)
    write_jsonl(tmp_path / "pairs.jsonl", [{"q": x, "d": y} for x, y in zip(a, b, strict=True)])
    (tmp_path / "c.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)

    def wait(command, log):
        code, *printed = run_script("train.py", *command[command.index(str(ROOT / "train.py")) + 1 :])
        log.write("".join(printed).encode())
        log.flush()
        with open("runs", "a") as runs:
            runs.write(re.search(r"trial-\d+", " ".join(command))[0] + "\n")
        return code

    monkeypatch.setattr(tuning, "_wait", wait)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def tune(*arguments, output="out", search=SEARCH):
    return run_script("minist/__main__.py", "tune", "--config", "c.toml", *search, "--output", output, *arguments)


def rows(printed):
    """Trial number -> the line of the table, in its order."""
    lines = printed.split("\n\n")[0].splitlines()[1:]
    return {int(line.split()[0]): line for line in lines}


def measured(trial, key=METRIC):
    lines = map(json.loads, (Path("out") / trial / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def test_the_best_of_all(folder):
    code, printed, progress = tune()
    assert code == 0, progress
    values = {n: measured(f"trial-0{n}")[-1] for n in range(4)}
    assert list(rows(printed)) == sorted(values, key=values.get, reverse=True)
    assert all(line.endswith(f"{values[n]:.4f}") for n, line in rows(printed).items())
    assert rows(printed)[0].startswith("0 (default)  0.0001") and "(default)" not in rows(printed)[1]
    best = next(iter(rows(printed)))
    assert best != 0 and f"trial {best} is the best" in printed
    assert progress.count("left") == 4 and "0:00 left" in progress

    code, again, progress = tune()
    assert (code, again) == (0, printed) and progress.count("run before") == 4  # and nothing is run
    assert len((folder / "runs").read_text().splitlines()) == 4
    code, _, error = run_script("train.py", "--config", "out/best.toml")
    assert code == 2 and f"reached {METRIC} = {values[best]:.4f}, expected at least 0.999" in error  # its own aim
    assert (folder / "out/best/model").exists()


def test_more_trials(folder):
    tune("--trials", "2")
    code, printed, _ = tune("--trials", "3")
    assert code == 0 and sorted(rows(printed)) == [0, 1, 2]
    assert (folder / "runs").read_text().splitlines() == ["trial-00", "trial-01", "trial-02"]


def test_another_search(folder):
    tune("--trials", "2")
    code, _, error = tune("--trials", "2", "--set", "train.lr=1e-3..1e-2")
    assert code == 2 and "out/trial-01 is of another search, it has lr = " in error and len(error.splitlines()) == 1
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").touch()
    code, _, error = tune(output="mine")
    assert code == 2 and "is there, and is no search" in error and len(list((folder / "mine").iterdir())) == 1


def test_killed(folder, monkeypatch):
    """Once with a checkpoint, once before the first one: the table is that of a search that nobody killed."""
    _, printed, _ = tune(output="whole")
    rate, run = optimizer.learning_rate, tuning._wait
    for step, trial in ((1, 1), (5, 2)):

        def killed(at, *rest, step=step):
            if at == step:
                raise KeyboardInterrupt
            return rate(at, *rest)

        def wait(command, log, trial=trial, killed=killed):
            if f"trial-0{trial}" not in " ".join(command):
                return run(command, log)
            with monkeypatch.context() as patch:
                patch.setattr(optimizer, "learning_rate", killed)
                run(command, log)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tuning, "_wait", wait)
            assert tune(output="half")[0] == 130
    assert not list((folder / "half").glob("trial-01/checkpoint-[1-2]"))
    assert (folder / "half/trial-02/checkpoint-3").exists() and not (folder / "half/trial-02/model").exists()
    code, again, _ = tune(output="half")
    assert code == 0 and again == printed.replace("whole", "half")
    assert "step 4/8" not in (folder / "half/trial-02.log").read_text().rpartition("interrupted")[2]  # it went on


def test_a_trial_that_fails_is_a_row(folder):
    search = ("--set", "train.lr=1e35,2e-3", "--trials", "3", "--metric", METRIC)
    code, printed, progress = tune(search=search)
    assert code == 0, progress
    failed = next(n for n, line in rows(printed).items() if "failed" in line)
    assert list(rows(printed))[-1] == failed
    assert "  failed: the loss is nan at step" in rows(printed)[failed], printed
    assert tune(search=search)[1] == printed and len((folder / "runs").read_text().splitlines()) == 3


def test_all_fail(folder):
    code, printed, error = tune(search=("--set", "train.lr=1e35", "--set", "train.warmup=0.0,0.5", "--trials", "2"))
    assert code == 2 and error.splitlines()[-1] == "error: no trial of out has a number, so none is the best"
    assert all("failed: the loss is nan" in line for line in rows(printed).values()) and len(rows(printed)) == 2
    assert not (folder / "out/best.toml").exists()


def test_a_wrong_config_ends_the_search(folder):
    (folder / "pairs.jsonl").unlink()
    code, printed, error = tune()
    assert code == 2 and not printed and "pairs.jsonl" in error.splitlines()[-1]
    assert (folder / "runs").read_text().splitlines() == ["trial-00"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials is 0: use a number at least 1"),
        (["--processes", "0"], "--processes is 0"),
        (["--halving", "1"], "--halving is 1: use a number at least 2"),
        (["--device", "cpu"], "tune has no argument device: CUDA_VISIBLE_DEVICES"),
        (["--set", "eval=[]", "--set", "expect={}"], "has no .*eval.* entry"),
        (["--set", "train.lr=3..2"], "the range is empty"),
    ],
)
def test_bad_input(folder, arguments, message):
    code, _, error = tune(*arguments)
    assert code == 2 and re.search(message, error) and len(error.splitlines()) == 1
    assert not (folder / "out").exists()


def test_which_metric(folder):
    code, _, error = tune("--metric", "dev_cosine_nDCG")
    assert code == 2 and "--metric is 'dev_cosine_nDCG', known are" in error and METRIC in error
    code, _, error = tune("--metric", "")
    assert code == 2 and "name one by --metric" in error and METRIC in error and "recall" not in error
    code, _, _ = tune("--metric", METRIC, "--trials", "2")
    assert code == 0 and (folder / "runs").read_text().splitlines() == ["trial-00", "trial-01"]  # nothing is lost
    config = tuning.load_config(folder / "c.toml", [])
    assert choose_metric("", config, {"dev_accuracy@3": 1.0, "eval_dev_loss": 2.0}) == "eval_dev_loss"


def test_losses_are_to_be_low():
    def best(metric, *values):
        trials = [tuning.Trial(i, (), None) for i in range(len(values))]
        found = [tuning.Outcome(t, 0, {metric: v}) for t, v in zip(trials, values, strict=True)]
        return [outcome.trial.number for outcome in sorted(found, key=lambda outcome: outcome.rank(metric))]

    nan, inf = float("nan"), float("inf")
    assert best("eval_dev_loss", 2.0, nan, 1.0, -inf) == [2, 0, 1, 3]
    assert best("dev_ndcg@10", 0.5, nan, 0.7, inf, 0.7) == [2, 4, 0, 1, 3]


def test_the_table(folder):
    config = tuning.load_config(folder / "c.toml", ["train.lr_for={embeddings=0.5}"])
    keys = ["train.lr", "data.0.loss.scale", "data.0.loss.name", "eval.0.name", "train.lr_for.embeddings", "seed"]
    found = [value_of(config, key) for key in keys]
    assert found == ["0.0001", "-", "MultipleNegativesRankingLoss", "dev", "0.5", "42"]
    assert table([["a", "bcd"], ["efg", "h"]]) == "a    bcd\nefg  h"


def test_metrics_are_those_of_the_final_model(tmp_path):
    lines = [{"step": 1, "m": 0.1}, {"step": 2, "m": 0.5, "o": 1}, {"step": 2, "loss": 9, "m": 8, "learning_rate": 1}]
    write_jsonl(tmp_path / "metrics.jsonl", [*lines, {"step": 4, "m": 0.3, "o": 2}])
    assert final_metrics(tmp_path, "", 0) == {"m": 0.3, "o": 2}
    assert final_metrics(tmp_path, "m", 0)["o"] == 1
    assert final_metrics(tmp_path, "", 2)["o"] == 1
    assert final_metrics(tmp_path, "m", 1)["m"] == 0.1


def test_halving(folder):
    """8 trials to step 2, the better 4 to 4, 2 to 8 and one to 16."""
    arguments = ("--trials", "8", "--set", "train.max_steps=16", "--halving")
    code, printed, progress = tune(*arguments)
    assert code == 0, progress
    going, steps = list(range(8)), {}
    for rung, length in enumerate([2, 4, 8, 16]):
        steps |= dict.fromkeys(going, length)
        order = sorted(going, key=lambda n: measured(f"trial-{n:02d}")[rung], reverse=True)
        going = order[: len(order) // 2]
    assert {n: int(line.split()[-2]) for n, line in rows(printed).items()} == steps
    assert next(iter(rows(printed))) == next(n for n in steps if steps[n] == 16)
    assert len((folder / "runs").read_text().splitlines()) == 8 + 4 + 2 + 1
    assert tune(*arguments)[:2] == (0, printed) and len((folder / "runs").read_text().splitlines()) == 15
    best = tuning.load_config(folder / "out/best.toml", [])
    assert (best.train.max_steps, best.train.save_every, best.train.patience) == (16, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "goes_on"), [(1, True), (1, False), (2, False)])
def test_sigkill(folder, monkeypatch, processes, goes_on):
    """Of the search alone, whose trial goes on and is waited for, or of its trial too."""
    monkeypatch.undo()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "minist", "tune", "--config", folder / "c.toml", *SEARCH]
    command += ["--trials", "3", "--set", "train.max_steps=40", "--processes", str(processes), "--output"]

    def start(output):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, folder / output], cwd=folder, env=environment, **pipes)

    whole, _ = start("whole").communicate(timeout=300)
    process = start("half")
    while not list((folder / "half").glob("trial-01/checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    trial = str(folder / "half/trial-01")
    found = subprocess.run(["pgrep", "-f", trial], capture_output=True, text=True).stdout.split()
    for pid in map(int, found):
        os.kill(pid, signal.SIGSTOP if goes_on else signal.SIGKILL)
    process.communicate()
    process = start("half")
    if goes_on:
        assert any("waiting for its end" in line for line in process.stderr)
        os.kill(int(found[0]), signal.SIGCONT)
    out, _ = process.communicate(timeout=300)
    assert out == whole.replace("whole", "half") and len(rows(out)) == 3
    log = Path(f"{trial}.log").read_text()
    assert log.count("\nmodel  ") == (1 if goes_on else 2), "it was not begun again, or was"
