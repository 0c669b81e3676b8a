"""The loop of train.py: what differs from step to step and rank to rank, what is logged, which model stays."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tiny import run_script, sentences, tiny_model, write_jsonl

import train
from minist import distributed
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.config import load_config
from minist.training.evaluations import evaluate
from minist.training.run import start_run

CONFIG = """
output = "run"
[model]
path = "model"
[[data]]
name = "pairs"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d" }
loss = { name = "mine.py:Mine" }
[train]
batch_size = 8
max_steps = 4
lr = 1e-2
schedule = "constant"
log_every = 1
[[eval]]
name = "held"
evaluator = "InformationRetrievalEvaluator"
files = ["rows.jsonl"]
columns = { query = "q", document = "d" }
bm25 = true
"""
MINE = """
from minist.losses import MultipleNegativesRankingLoss
from minist.losses.base import Loss
SEEN = []
class Mine(Loss):
    def __init__(self):
        super().__init__()
        self.inner = MultipleNegativesRankingLoss()
    def forward(self, embeddings, batch):
        SEEN.append(batch)
        value = self.inner(embeddings, batch)
        return {"a": value * 0.25, "b": value * 0.75}
"""
# a metric that follows a script, one number per evaluation
SCRIPTED = """
class Scripted:
    columns = ("text",)
    def __init__(self, name, values: list[str]):
        self.name, self.values = name, [float(value) for value in values]
    @staticmethod
    def of_rows(rows):
        assert [place.row["text"] for place in rows][0]
        return {}
    def __call__(self, model):
        return {f"{self.name}_m": self.values.pop(0)}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"q": q, "d": d, "ds": [d, q]} for q, d in zip(sentences(40, 1), sentences(40, 2), strict=True)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "scripted.py").write_text(SCRIPTED)
    (tmp_path / "c.toml").write_text(CONFIG)
    tiny_model().save(tmp_path / "model")
    return tmp_path


def run(*overrides, more=(), code=0):
    arguments = [part for override in overrides for part in ("--set", override)]
    found, out, err = run_script("train.py", "--config", "c.toml", *arguments, *more)
    assert found == code, err
    return out if code == 0 else err


def records(folder, key="loss"):
    lines = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    return [line for line in lines if key in line]


def started(*overrides):
    return start_run(load_config(Path("c.toml"), list(overrides)), resume=False, overwrite=False)


def scripted(*values):
    """[[eval]] of a metric with these values."""
    table = f'{{name="scripted.py:Scripted", values={json.dumps(list(map(str, values)))}}}'
    return f'eval=[{{name="s", files=["rows.jsonl"], columns={{text="q"}}, evaluator={table}}}]'


# ------------------------------------------------------------ steps


def seeds_of(run, monkeypatch, rank, world):
    """The seeds of the dropout in four steps."""
    found = []
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: world)
    monkeypatch.setattr(train, "plain_step", lambda setup, objective, seed: found.append(seed))
    for place in run.batches.start_at(0):
        train.take_step(run, place)
    return found


def test_dropout_is_another_in_each_step_and_on_each_rank(folder, monkeypatch):
    run = started()
    seeds = [seed for rank in (0, 1) for seed in seeds_of(run, monkeypatch, rank, 2)]
    assert len(set(seeds)) == 8
    gaps = [abs(a - b) for i, a in enumerate(seeds) for b in seeds[:i]]
    assert min(gaps) >= 2**16  # a step may count on from its seed, mini-batch by mini-batch


def test_progress_rises_from_0_by_equal_steps(folder, monkeypatch):
    run, found = started(), []
    monkeypatch.setattr(train, "plain_step", lambda setup, objective, seed: found.append(objective.batch.progress))
    for place in run.batches.start_at(0):
        train.take_step(run, place)
    assert found == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("limit", [0.0, 1e-3])
def test_clipping(folder, limit):
    """The step of a plain gradient descent is the gradient: as long as the limit says, or as it is."""
    run = started(f"train.max_grad_norm={limit}")
    named = list(run.trained.model.parameters())
    optimizer = torch.optim.SGD([{"params": named, "initial_lr": 1.0}], lr=1.0)
    run.trained = run.trained._replace(optimizer=optimizer)
    before = [p.detach().clone() for p in named]
    norm = train.take_step(run, next(iter(run.batches.start_at(0))))[1]["grad_norm"]
    moved = sum((p - q).square().sum() for p, q in zip(named, before, strict=True)).sqrt().item()
    assert norm > 0.1  # what is logged is the norm before clipping
    assert moved == pytest.approx(limit or norm, rel=1e-3)


def test_the_loss_of_an_evaluation_has_no_dropout(folder):
    entry = 'eval=[{name="held", files=["rows.jsonl"], columns={a="q", b="d"}, loss="MultipleNegativesRankingLoss"}]'
    run = started(entry, "train.dropout=0.5", "train.attention_dropout=0.5")
    run.trained.model.train()
    first, second = (evaluate(run.evaluations, run.trained.model) for _ in range(2))
    assert first == second
    assert run.trained.model.training


# ------------------------------------------------------------ the log


def test_parts_add_up_to_the_loss(folder):
    """As means of the same steps; of several sets too, where a loss without parts is a part itself."""
    second = '{name="plain", files=["rows.jsonl"], columns={a="q", b="d"}}'
    first = '{name="pairs", files=["rows.jsonl"], columns={a="q", b="d"}, loss="mine.py:Mine", weight=0.5}'
    run(f"data=[{first}, {second}]", "train.max_steps=6", "train.log_every=3", "train.mixing=round_robin")
    found = records(folder)
    assert [line["step"] for line in found] == [1, 3, 6]
    for line in found[1:]:
        assert line["a"] + line["b"] + line["plain"] == pytest.approx(line["loss"], rel=1e-6)
        assert min(line["a"], line["plain"]) > 0.05


def test_the_log_says_what_is_a_mean(folder):
    out = run()
    assert out.count("means since the line before") == 1
    assert "parts  a 0." in out and "batch  " in out


# ------------------------------------------------------------ which model stays


def weights(path):
    return list(SentenceTransformer(path).parameters())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_the_untrained_model_can_be_the_best(folder):
    out = run(scripted(5, 1, 2), "train.best=s_m", "train.eval_every=2", "expect={s_m=4}")
    assert "best   s_m 5.0000 at step 0" in out
    assert same(folder / "run/model", folder / "model")
    assert [line["s_m"] for line in records(folder, "s_m")] == [5, 1, 2]


def test_a_metric_that_is_no_number_is_never_the_best_and_is_named(folder):
    values = scripted("nan", "nan", "inf", 1, 2)
    out = run(values, "train.best=s_m", "train.eval_every=1", "train.patience=2", "train.save_every=1")
    assert "best   " not in out  # the last one is
    assert out.count("warning: no number after step ") == 3 and "never the best: s_m" in out
    assert records(folder)[-1]["step"] == 4
    assert same(folder / "run/model", folder / "run/checkpoint-4")


def test_no_number_meets_no_expectation(folder):
    message = run(scripted(1, "nan"), "expect={s_m=-1e9}", code=1)
    assert "the run reached s_m = nan, expected at least" in message


def test_expectation_and_bm25_judge_the_model_that_is_saved(folder):
    """It is that of step 2, between the first and the last."""
    both = (
        scripted(1, 5, 2)[:-1]
        + ", {"
        + (
            'name="held", evaluator="InformationRetrievalEvaluator", files=["rows.jsonl"], '
            'columns={query="q", document="d"}, bm25=true, searches=["sort a list"]}]'
        )
    )
    settings = ["train.best=s_m", "train.eval_every=2", "train.lr=0.02"]
    out = run(both, *settings, "expect={s_m=4.5}")
    chosen = records(folder, "s_m")
    values = [line["held_cosine_ndcg@10"] for line in chosen]
    assert abs(values[1] - values[2]) > 1e-3  # so the test can tell them apart
    assert f"nDCG@10 on held: {values[1]:.4f}" in out
    saved, last = SentenceTransformer(folder / "run/model"), records(folder)[-1]["step"]
    hits = saved.similarity(saved.encode_query(["sort a list"]), saved.encode_document(sentences(40, 2))).max()
    assert last > 2 and f"search: sort a list\n  {hits:.3f}  " in out  # and so do the searches
    assert run(both, *settings, "expect={s_m=5.5}", more=["--overwrite"], code=1)


def test_a_run_that_stopped_early_stays_stopped(folder):
    settings = [scripted(1, 5, 4, 3, 2, 1, 0), "train.best=s_m", "train.eval_every=1", "train.patience=2"]
    settings += ["train.max_steps=20", "train.save_every=1"]
    run(*settings)
    assert records(folder)[-1]["step"] == 3
    before = weights(folder / "run/model")
    run(*settings, more=["--resume"])
    assert records(folder)[-1]["step"] == 3
    assert all(torch.equal(a, b) for a, b in zip(weights(folder / "run/model"), before, strict=True))


# ------------------------------------------------------------ start and end


@pytest.mark.parametrize("wrong", [["train.best=nothing"], ["expect={nothing=1}"], ["eval=[]", "train.best=m"]])
def test_what_is_wrong_leaves_nothing_that_blocks_the_corrected_start(folder, wrong):
    run(*wrong, code=2)
    assert not (folder / "run").exists()
    run()


def test_overwriting_a_link(folder):
    (folder / "elsewhere").mkdir()
    (folder / "run").symlink_to("elsewhere")
    (folder / "elsewhere/config.toml").touch()
    (folder / "elsewhere/checkpoint-99").mkdir()
    (folder / "elsewhere/checkpoint-99/run.json").write_text("{}")
    run("train.save_every=4", more=["--overwrite"])
    assert (folder / "run").is_symlink()
    assert [path.name for path in (folder / "elsewhere").glob("checkpoint-*")] == ["checkpoint-4"]


def test_going_on_longer_with_other_evaluations(folder):
    run("train.save_every=4")
    one = records(folder)
    out = run("train.max_steps=6", scripted(1), "train.eval_every=6", more=["--resume"])
    assert "train.max_steps is 6, it was 4" in out
    assert "the learning rate follows the new number of steps" in out
    assert [line["step"] for line in records(folder)] == [1, 2, 3, 4, 5, 6]
    assert records(folder)[:4] == one
    assert "is behind the 3 steps" in run("train.max_steps=3", scripted(1), more=["--resume"], code=2)


def test_a_checkpoint_of_something_else(folder):
    run("train.save_every=4")
    for state in (b"", b"nothing", None):
        for file in ("training.pt", "run.json"):
            shutil.copytree(folder / "run", folder / "broken")
            place = folder / "broken/checkpoint-4" / file
            torch.save({"x": torch.ones(1)}, place) if state is None else place.write_bytes(state)
            message = run("output=broken", more=["--resume"], code=2)
            assert "checkpoint-4" in message and message.count("\n") == 1
            shutil.rmtree(folder / "broken")


def test_a_file_edited_to_the_same_size(folder):
    run("train.save_every=4")
    text = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(text.replace("read", "sort", 1))
    assert "the data of pairs is" in run(more=["--resume"], code=2)


# ------------------------------------------------------------ what a config may say


def test_max_length_of_a_model_with_a_path(folder):
    run("model.max_length=6", "train.max_steps=1")
    assert SentenceTransformer(folder / "run/model").tokenizer.max_length == 6
    assert records(folder)[0]["cut_anchor"] > 0


@pytest.mark.parametrize("scratch", [False, True])
def test_lists_of_texts_with_deleted_words_and_from_scratch(folder, scratch):
    lists = ['data.0.columns={a="q", b="d", c="ds"}', "data.0.delete_words={c=0.5}"]
    new = "model={tokenizer={vocab_size=100}, encoder={hidden_size=16, num_attention_heads=2, num_hidden_layers=1}}"
    run(*lists, 'data.0.loss="MultipleNegativesRankingLoss"', *([new] if scratch else []))
    task = started("output=x", *lists, 'data.0.loss="MultipleNegativesRankingLoss"').tasks[0]
    rows = torch.tensor([4, 7])
    deleted, whole = task.rows.batch(rows, 0, 0, 0.0).columns[2], task.rows.dataset.take(rows)[2]
    assert deleted.n == whole.n == 4
    assert len(deleted.input_ids) < len(whole.input_ids)
    alone = task.rows.batch(rows[1:], 0, 0, 0.0).columns[2]  # whatever the batch
    assert torch.equal(alone.input_ids, deleted.slice(2, 4).input_ids)


def test_a_collection_as_beir_lays_it_out(folder):
    write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": t} for i, t in enumerate(sentences(9, 3))])
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": t} for i, t in enumerate(sentences(9, 3))])
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(9))
    (folder / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    files = 'queries="queries.jsonl", corpus="corpus.jsonl"'
    entry = f'{{name="beir", evaluator="InformationRetrievalEvaluator", {files}'
    run(f'eval=[{entry}, qrels="test.tsv"}}]')
    assert records(folder, "beir_cosine_ndcg@10")[0]["beir_cosine_ndcg@10"] == pytest.approx(1.0)
    message = run(f"eval=[{entry}}}]", "output=x", code=2)
    assert "[[eval]] beir takes files and columns, or for an evaluator queries, corpus and qrels, all three" in message


def test_what_a_loss_wants_of_labels_is_passed_on(folder, monkeypatch):
    asked = []

    def stop(cache, files, columns, label, format, wants):
        asked.append((label, format, wants))
        raise ValueError("seen")

    monkeypatch.setattr("minist.training.entries.dataset_folder", stop)
    monkeypatch.setattr("minist.losses.CoSENTLoss.class_names", False)
    for loss in ("CoSENTLoss", "SoftmaxLoss"):
        table = 'data.0.loss={name="SoftmaxLoss", embedding_dimension=16, num_labels=2}'
        run(table if loss == "SoftmaxLoss" else f"data.0.loss={loss}", "data.0.label=2", "data.0.format=tsv", code=2)
    assert asked == [(2, "tsv", "numbers"), (2, "tsv", "")]


def test_arguments_of_an_evaluator(folder):
    entry = scripted(1, 2)
    without = 'eval=[{name="s", files=["rows.jsonl"], columns={text="q"}, evaluator="scripted.py:Scripted"}]'
    assert "scripted.py:Scripted lacks the argument 'values'" in run(without, code=2)
    message = run(entry.replace("values", "valves"), code=2)
    assert "an argument of scripted.py:Scripted is 'valves', known are name, values" in message
    assert "takes text" in run(entry.replace('{text="q"}', '{word="q"}'), code=2)
    assert not (folder / "run").exists()


def test_names_that_are_not_utf_8_folders_and_pipes(folder):
    os.mkfifo("pipe")
    message = run("output=\udcff", code=2)
    assert "write key=value in UTF-8" in message
    for config in ("pipe", "model"):
        code, _, err = run_script("train.py", "--config", config)
        assert (code, err.count("\n")) == (2, 1)
        assert f"there is no config file {config}" in err
        assert run(f'data.0.files=["{config}"]', code=2).count("\n") == 1


def test_what_is_not_used_is_said(folder):
    """Rows that no batch has, and what the files of an evaluation lack."""
    write_jsonl(folder / "rows.jsonl", [{"q": f"read {i}", "d": "one answer"} for i in range(12)])
    with_note = SCRIPTED.replace("values]", "values]\n        self.note = 'no title'")
    slots = SCRIPTED.replace("columns", "__slots__ = ('name', 'values')\n    columns")  # it has no dict of attributes
    overrides = ("data.0.sampler=no_duplicates", "train.max_steps=1", "train.batch_size=4")
    for script, said in ((with_note, True), (slots, False)):
        (folder / "scripted.py").write_text(script)
        out = run(scripted(1, 2), *overrides, *(() if said else ("output=other",)))
        assert "note   pairs: 11 rows left out: no_duplicates finds no place for them in an epoch" in out
        assert ("no title" in out) == said
