"""A search over runs of train.py: what is the best, and what happens to a search that was killed."""

import fcntl
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
from minist.evaluation import InformationRetrievalEvaluator
from minist.training import optimizer, tuning
from minist.training.config import load_config
from minist.training.trials import draw_trials, read_setting
from minist.training.tuning import Outcome, Search, final_value, rung_lengths

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
    assert f"trial-01\n  {{'value': {values[1]}}}" in progress

    code, again, progress = tune()
    assert (code, again, progress) == (0, printed, "")  # and nothing is run
    assert len((folder / "runs").read_text().splitlines()) == 4
    code, _, error = run_script("train.py", "--config", "out/best.toml")
    assert code == 1 and f"reached {METRIC} = {values[best]:.4f}, expected at least 0.999" in error  # its own aim
    assert (folder / "out/best/model").exists()


def test_a_metric_that_falls(folder):
    """Its expectation, which finds a wrong name and a value that is no number, must be met by any number."""
    columns = 'columns = { anchor = "q", positive = "d" }'
    evaluation = f'[[eval]]\nname = "dev"\nfiles = ["pairs.jsonl"]\n{columns}\nloss = "MegaBatchMarginLoss"\n'
    Path("c.toml").write_text(CONFIG.partition("[[eval]]")[0] + evaluation + "[train]\nmax_steps = 2\n")
    search = ("--set", "train.lr=1e-3..1e-1", "--trials", "2", "--metric", "eval_dev_loss")
    code, printed, progress = tune(search=search)
    assert code == 0 and "error" not in progress and sorted(rows(printed)) == [0, 1]


def test_more_trials(folder):
    tune("--trials", "2")
    code, printed, _ = tune("--trials", "3")
    assert code == 0 and sorted(rows(printed)) == [0, 1, 2]
    assert (folder / "runs").read_text().splitlines() == ["trial-01", "trial-00", "trial-02"]


def test_another_search(folder):
    tune("--trials", "2")
    code, _, error = tune("--trials", "2", "--set", "train.lr=1e-3..1e-2")
    assert (
        code == 2
        and "out/search.json is of a search with another set: give the same" in error
        and len(error.splitlines()) == 1
    )
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").touch()
    code, _, error = tune(output="mine")
    assert code == 2 and "is there, and is no search" in error and len(list((folder / "mine").iterdir())) == 1


def test_killed(folder, monkeypatch):
    """Once with a checkpoint, once before the first one: the table is that of a search that nobody killed."""
    _, printed, _ = tune(output="whole")
    rate, run = optimizer.learning_rate, tuning._wait
    for step, trial in ((5, 2), (1, 1)):

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
    code, again, _ = tune(output="half")
    assert code == 0 and again == printed.replace("whole", "half")
    again = (folder / "half/trials.log").read_text().partition("interrupted")[2].partition("saved")[0]
    assert "step 8/8" in again and "step 1/8" not in again  # it went on


def test_a_trial_that_fails_is_a_row(folder):
    search = ("--set", "train.lr=1e35,2e-3", "--trials", "3", "--metric", METRIC)
    code, printed, progress = tune(search=search)
    assert code == 0, progress
    failed = next(n for n, line in rows(printed).items() if "failed" in line)
    assert list(rows(printed))[-1] == failed
    assert "  failed: the loss is nan at step" in rows(printed)[failed], printed
    assert tune(search=search)[1] == printed and len((folder / "runs").read_text().splitlines()) == 3


def test_all_fail(folder):
    search = ("--set", "train.lr=1e35", "--set", "train.warmup=0.0,0.5", "--trials", "2", "--metric", METRIC)
    code, printed, error = tune(search=search)
    assert code == 2 and error.splitlines()[-1] == "error: all trials in out failed, so none is the best"
    assert all("failed: the loss is nan" in line for line in rows(printed).values()) and len(rows(printed)) == 2
    assert not (folder / "out/best.toml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('data.0.files=["nothing.jsonl"]', "there is no file nothing.jsonl"),
        ("data.0.loss.scael=1..9", "'scael', known are scale"),
        ("model.encoder.hidden_sise=8,16", "hidden_sise"),
    ],
)
def test_a_wrong_config_ends_the_search(folder, text, message):
    code, printed, error = tune("--set", text, "--trials", "3")
    assert code == 2 and not printed
    assert error.splitlines()[-1].startswith("error: ") and message in error.splitlines()[-1]
    assert (folder / "runs").read_text().splitlines() == ["trial-02"]
    assert tune("--trials", "2")[0] == 0, "and it may be mended"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "1"], "--trials is 1: use a number at least 2"),
        (["--processes", "0"], "--processes is 0"),
        (["--halving", "--set", "train.max_steps=3"], "needs a train.max_steps that is the same .* at least 4"),
        (["--set", "train.rl=1..9"], "no key 'rl', the nearest is 'lr'"),
        (["--metric", ""], "name one by --metric"),
        (["--device", "cpu"], "tune has no argument device: CUDA_VISIBLE_DEVICES"),
        (["--set", "eval=[]", "--set", "expect={}"], "a metric of an .*eval.* entry"),
        (["--set", "train.lr=3..2"], "the range is empty"),
    ],
)
def test_bad_input(folder, arguments, message):
    code, _, error = tune(*arguments)
    assert code == 2 and re.search(message, error) and len(error.splitlines()) == 1
    assert not (folder / "out").exists()


def test_a_wrong_metric_is_seen_before_the_first_step(folder):
    code, _, error = tune("--metric", "dev_cosine_nDCG")
    assert code == 2 and "is 'dev_cosine_nDCG', known are" in error and METRIC in error
    assert not (folder / "out/trial-03").exists()
    code, _, _ = tune("--trials", "2")
    assert code == 0 and (folder / "runs").read_text().splitlines() == ["trial-03", "trial-01", "trial-00"]


def test_a_metric_that_is_no_number(folder, monkeypatch):
    monkeypatch.setattr(InformationRetrievalEvaluator, "__call__", lambda self, model: {METRIC: float("nan")})
    code, printed, _ = tune("--trials", "2")
    assert code == 2 and all(f"failed: the run reached {METRIC} = nan" in line for line in rows(printed).values())


@pytest.mark.parametrize(
    ("metric", "order"), [("eval_dev_loss", [2, 0, 1, 3]), ("dev_ndcg@10", [0, 2, 1, 3]), ("dev_loss@10", [0, 2, 1, 3])]
)
def test_losses_are_to_be_low(tmp_path, metric, order):
    search = Search(tmp_path, tmp_path, None, {"metric": metric})
    steps, values, errors = [2, 1, 2, 2], [2.0, 9.0, 1.0, float("nan")], ["", "", "", "wrong"]
    trials = [tuning.Trial(i, [], None) for i in range(4)]
    found = [Outcome(*given) for given in zip(trials, steps, values, errors, strict=True)]
    assert [outcome.trial.number for outcome in sorted(found, key=search.rank)] == order


def test_the_table(folder):
    config = load_config(folder / "c.toml", ["train.lr_for={embeddings=0.5}"])
    keys = ["train.lr", "data.0.loss.scale", "data.0.loss.name", "eval.0.name", "train.lr_for.embeddings", "seed"]
    found = [value_of(config, key) for key in keys]
    assert found == ["0.0001", "-", "MultipleNegativesRankingLoss", "dev", "0.5", "42"]
    found = [Outcome(tuning.Trial(1, [], config), 0, 0.5), Outcome(tuning.Trial(0, [], config), 0, error="too large")]
    assert table(found, ["train.lr", "seed"], "dev").splitlines() == [
        "trial        train.lr  seed  dev",
        "1            0.0001    42    0.5000",
        "0 (default)  0.0001    42    failed: too large",
    ]


def test_the_value_is_that_of_the_final_model(tmp_path):
    lines = [{"step": 1, "m": 0.1}, {"step": 2, "m": 0.5, "o": 1}, {"step": 2, "loss": 9, "m": 8, "learning_rate": 1}]
    write_jsonl(tmp_path / "metrics.jsonl", [*lines, {"step": 4, "m": 0.3, "o": 2}])
    assert final_value(tmp_path, "", "m") == 0.3
    assert final_value(tmp_path, "m", "m") == 0.5 and final_value(tmp_path, "m", "o") == 1


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("step 1\nerror: no file\n", "no file"),
        ("[rank1]: Traceback ..\n[rank1]: torch.OutOfMemoryError: CUDA\nmultiprocessing.ChildFailedError: \n", "CUDA"),
        ("torch.ChildFailedError: \n", "exit code 1"),
    ],
)
def test_why_a_run_failed(folder, monkeypatch, printed, reason):
    monkeypatch.setattr(tuning, "_wait", lambda command, log: (log.write(printed.encode()) and log.flush()) or 1)
    assert reason in tune()[2].splitlines()[-1]


@pytest.mark.parametrize("code", [0, -15])
def test_a_trial_that_is_told_to_end_ends_the_search(folder, monkeypatch, code):
    wait = tuning._wait
    told = lambda command, log: code if "trial-01" in " ".join(command) else wait(command, log)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_wait", told)
        assert tune("--trials", "3")[0] == 130
    code, printed, _ = tune("--trials", "3")
    assert code == 0 and "failed" not in printed
    assert (folder / "runs").read_text().splitlines() == ["trial-02", "trial-01", "trial-00"]


def test_one_search_at_a_time(folder):
    with tuning.open_log(folder / "out"):
        code, _, error = tune()
    assert code == 2 and "out/trials.log is in use" in error and len(error.splitlines()) == 1
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(("count", "lengths"), [(2, [50, 100]), (7, [25, 50, 100]), (8, [12, 25, 50, 100])])
def test_rungs(folder, count, lengths):
    settings = [read_setting("train.max_steps=100"), read_setting("train.lr=1e-5..1e-3")]
    assert rung_lengths(draw_trials(folder / "c.toml", settings, count)) == lengths


@pytest.mark.parametrize("text", ["train.max_steps=0", "train.max_steps=7", "train.max_steps=50..100"])
def test_rungs_need_one_length(folder, text):
    settings = [read_setting(text), read_setting("train.lr=1e-5..1e-3")]
    with pytest.raises(ValueError, match=r"needs a train\.max_steps"):
        rung_lengths(draw_trials(folder / "c.toml", settings, 8))


def test_halving(folder):
    """8 trials to step 2, the better 4 to 4, 2 to 8 and one to 16."""
    arguments = ("--trials", "8", "--set", "train.max_steps=16", "--halving")
    code, printed, progress = tune(*arguments)
    assert code == 0, progress
    going, steps = list(range(8)), {}
    for rung, length in enumerate([2, 4, 8, 16]):
        steps |= dict.fromkeys(going, length)
        order = sorted(going, key=lambda n: measured(f"trial-{n:02d}")[1 + rung], reverse=True)
        going = order[: len(order) // 2]
    assert {n: int(line.split()[-2]) for n, line in rows(printed).items()} == steps
    assert next(iter(rows(printed))) == next(n for n in steps if steps[n] == 16)
    assert len((folder / "runs").read_text().splitlines()) == 8 + 4 + 2 + 1
    assert tune(*arguments)[:2] == (0, printed) and len((folder / "runs").read_text().splitlines()) == 15
    best = load_config(folder / "out/best.toml", [])
    assert (best.train.max_steps, best.train.save_every, best.train.patience) == (16, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "goes_on"), [(1, True), (2, False)])
def test_sigkill(folder, monkeypatch, processes, goes_on):
    """Of the search alone, whose trial goes on, or of its trial too."""
    whole = tune("--trials", "2", output="whole")[1]
    monkeypatch.undo()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "minist", "tune", "--config", folder / "c.toml", *SEARCH]
    command += ["--trials", "2", "--processes", str(processes), "--output"]

    def start(output):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, folder / output], cwd=folder, env=environment, **pipes)

    if processes > 1:
        whole, _ = start("ranks").communicate(timeout=300)
    process, trial = start("half"), folder / "half/trial-01"
    while not list(trial.glob("checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate()
    found = subprocess.run(["pgrep", "-f", str(trial)], capture_output=True, text=True).stdout.split()
    for pid in map(int, found):
        os.kill(pid, signal.SIGSTOP if goes_on else signal.SIGKILL)
    if goes_on:
        assert "is in use" in start("half").communicate()[1]
        os.kill(int(found[0]), signal.SIGCONT)
        with open(folder / "half/trials.log") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
    out, _ = start("half").communicate(timeout=300)
    assert out.splitlines()[:-1] == whole.splitlines()[:-1] and len(rows(out)) == 2
