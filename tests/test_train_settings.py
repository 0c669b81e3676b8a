"""Each setting of a run once, end to end on a tiny model: it does what it says."""

import json
import math

import pytest
import torch
from tiny import run_script, sentences, tiny_model, write_jsonl
from torch.nn.functional import cross_entropy

from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Normalize
from minist.modules.router import Router
from minist.modules.static_embedding import StaticEmbedding

CONFIG = """
output = "run"
[model]
path = "model"
[[data]]
name = "pairs"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d" }
[train]
batch_size = 8
max_steps = 4
lr = 1e-2
log_every = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"q": q, "d": d, "s": 0.5, "ds": [d, q]} for q, d in zip(sentences(40, 1), sentences(40, 2), strict=True)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "c.toml").write_text(CONFIG)
    tiny_model().save(tmp_path / "model")
    return tmp_path


def run(*overrides, output="run", code=0):
    arguments = [part for override in overrides for part in ("--set", override)]
    found, out, err = run_script("train.py", "--config", "c.toml", "--set", f"output={output}", *arguments)
    assert found == code, err
    return out if code == 0 else err


def records(folder, key="loss", output="run"):
    lines = map(json.loads, (folder / output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if key in line]


def losses(folder, output="run"):
    return [line["loss"] for line in records(folder, output=output)]


def changed(folder, model="run/model", before="model"):
    """Names of the weights that training moved."""
    old = dict(SentenceTransformer(folder / before).named_parameters())
    return {n for n, p in SentenceTransformer(folder / model).named_parameters() if not torch.equal(p, old[n])}


def test_layers_that_run_again_give_the_same_numbers(folder):
    dropout = ["train.dropout=0.2", "train.attention_dropout=0.1"]
    run(*dropout)
    run(*dropout, "train.checkpoint_layers=true", output="again")
    assert losses(folder) == losses(folder, "again")


def test_mini_batches_give_the_same_numbers(folder):
    run()
    run("train.mini_batch_tokens=20", output="small")
    assert losses(folder) == pytest.approx(losses(folder, "small"), abs=1e-5)


def test_float16(folder):
    run()
    run("train.dtype=float16", output="half")
    run("train.dtype=float16", "train.mini_batch_tokens=20", output="parts")
    for output in ("half", "parts"):
        assert losses(folder, output)[0] == pytest.approx(losses(folder)[0], rel=0.02)
        assert losses(folder, output)[0] != losses(folder)[0]
        norms = [[line["grad_norm"] for line in records(folder, output=name)] for name in ("run", output)]
        assert norms[1][0] == pytest.approx(norms[0][0], rel=0.1)  # unscaled before it is clipped and logged
        assert all(map(math.isfinite, losses(folder, output)))


def test_freeze(folder):
    run('train.freeze=["embeddings", "layers.0"]')
    assert changed(folder) == {n for n in changed(folder) if "layers.1" in n} != set()
    assert "freeze: 'nothing' fits none of the" in run('train.freeze=["nothing"]', output="x", code=2)


def test_rates_of_their_own(folder):
    run('train.lr_for={"embeddings.word"=0.0}', "train.schedule=constant")
    assert "stack.0.embeddings.word.weight" not in changed(folder)
    assert "stack.0.embeddings.position.weight" in changed(folder)


def test_several_sets_and_losses(folder):
    write_jsonl(folder / "scored.jsonl", [{"a": a, "b": a, "s": i % 3 / 2} for i, a in enumerate(sentences(24, 3))])
    (folder / "c.toml").write_text(
        CONFIG.replace(
            "[train]",
            """
[[data]]
name = "scored"
files = ["scored.jsonl"]
columns = { a = "a", b = "b" }
label = "s"
loss = "CoSENTLoss"
weight = 0.5
[train]
mixing = "round_robin"
prompts = { pairs = { anchor = "query: " }, scored = "text: " }""",
        )
    )
    out = run("train.max_steps=0")
    assert "data   pairs, 40 rows: anchor" in out
    assert "data   scored, 24 rows: a " in out and "label numbers from 0 to 1" in out
    assert [line["data"] for line in records(folder)] == ["pairs", "scored"] * 3
    assert "cut_anchor" in records(folder)[0] and "cut_a" in records(folder)[1]


def test_lists_of_texts_and_parts_of_a_loss(folder):
    run('data.0.columns={anchor="q", positive="d", negatives="ds"}')
    inner = '{name="MultipleNegativesRankingLoss"}'
    run(f'data.0.loss={{name="MatryoshkaLoss", loss={inner}, matryoshka_dims=[16, 4]}}', output="two")
    for line in records(folder, output="two"):
        assert line["loss"] == pytest.approx(line["matryoshka_16"] + line["matryoshka_4"], abs=1e-5)


def test_own_parameters_of_a_loss_are_trained_saved_and_go_on(folder):
    loss = 'data.0.loss={name="SoftmaxLoss", embedding_dimension=16, num_labels=2}'
    label = 'data.0.label="c"'
    texts = zip(sentences(40, 1), sentences(40, 2), strict=True)
    rows = [{"q": q, "d": d, "c": "yes" if len(q) > len(d) else "no"} for q, d in texts]
    write_jsonl(folder / "rows.jsonl", rows)
    assert "label 2 classes (no, yes)" in run(loss, label, "train.save_every=2", "train.lr_for={'loss.pairs'=0.1}")
    states = [torch.load(f"run/checkpoint-{step}/training.pt", weights_only=True)["losses"] for step in (2, 4)]
    assert any(not torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_evaluations_best_and_patience(folder):
    evaluations = """
[[eval]]
name = "held"
loss = "MultipleNegativesRankingLoss"
files = ["rows.jsonl"]
columns = { anchor = "q", positive = "d" }
[[eval]]
name = "found"
evaluator = "InformationRetrievalEvaluator"
files = ["rows.jsonl"]
columns = { query = "q", document = "d" }
"""
    (folder / "c.toml").write_text(CONFIG + evaluations)
    best = ["train.best=eval_held_loss", "train.eval_every=1", "train.patience=2", "train.max_steps=30", "train.lr=0.3"]
    out = run(*best, "train.schedule=constant")
    found = [line["eval_held_loss"] for line in records(folder, "eval_held_loss")]
    lowest = min(range(len(found)), key=lambda i: found[i])  # the model before training counts too
    assert len(found) == lowest + 2 + 1 < 31  # two more, then it stopped
    assert "found_cosine_ndcg@10" in records(folder, "eval_held_loss")[0]
    chosen = SentenceTransformer("run/model")
    texts = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    q, d = (chosen.encode([row[k] for row in texts], normalize_embeddings=True, convert_to_tensor=True) for k in "qd")
    parts = [20 * q[i : i + 8] @ d[i : i + 8].T for i in range(0, 40, 8)]
    expected = sum(cross_entropy(scores, torch.arange(8)).item() for scores in parts)
    assert found[lowest] == pytest.approx(expected / 5, abs=1e-4)
    assert f"best   eval_held_loss {found[lowest]:.4f} at step {lowest}" in out
    message = run("train.best=held_loss", output="x", code=2)
    assert "best in [train] is 'held_loss', known are eval_held_loss, found_cosine_accuracy@1" in message


def test_a_loss_is_evaluated_with_what_it_learned(folder):
    """And with the class numbers of the rows that it was trained on, though a class is missing here."""
    labelled = [
        {"q": q, "d": d, "c": "bca"[i % 3]} for i, (q, d) in enumerate(zip(*[sentences(40, 1)] * 2, strict=True))
    ]
    write_jsonl(folder / "rows.jsonl", labelled)
    write_jsonl(folder / "held.jsonl", [row for row in labelled if row["c"] != "a"])
    nli = 'label = "c"\nloss = { name = "SoftmaxLoss", embedding_dimension = 16, num_labels = 3 }\n'
    entry = f'[[eval]]\nname = "held"\nfiles = ["held.jsonl"]\ncolumns = {{ anchor = "q", positive = "d" }}\n{nli}'
    (folder / "c.toml").write_text(CONFIG.replace("[train]", nli + "[train]") + entry)
    run("train.save_every=4", "train.lr_for={'loss.pairs'=0.1}")
    (value,) = [line["eval_held_loss"] for line in records(folder, "eval_held_loss")]
    weights = torch.load("run/checkpoint-4/training.pt", weights_only=True)["losses"]
    model = SentenceTransformer("run/model")
    held = [row for row in labelled if row["c"] != "a"]
    u, v = (model.encode([row[k] for row in held], convert_to_tensor=True) for k in "qd")
    logits = torch.cat([u, v, abs(u - v)], 1) @ weights["0.classifier.weight"].T + weights["0.classifier.bias"]
    expected = cross_entropy(logits, torch.tensor(["abc".index(row["c"]) for row in held])).item()
    assert value == pytest.approx(expected, abs=1e-4)
    message = run("eval.0.loss.num_labels=4", output="x", code=2)
    assert "SoftmaxLoss in [[eval]] held has weights of its own, which nothing would train" in message
    write_jsonl(folder / "held.jsonl", [{"q": "a", "d": "b", "c": "d"}])
    message = run(output="x", code=2)
    assert "[[eval]] held: the labels have the class 'd', known are 'a', 'b', 'c'" in message


def test_prompts_for_all_sets_reach_evaluations(folder):
    """A loss that is measured on the rows it was trained on must see the same texts."""
    entry = '[[eval]]\nname = "held"\nfiles = ["rows.jsonl"]\ncolumns = {{ anchor = "q", positive = "d" }}\n{}'
    values = {}
    for name, prompts in {
        "none": "",
        "all": '"read: "',
        "column": '{anchor = "read: ", positive = "read: "}',
        "set": '{pairs = "read: ", held = "read: "}',
    }.items():
        (folder / "c.toml").write_text(CONFIG + entry.format('loss = "MultipleNegativesRankingLoss"'))
        run("train.lr=0.0", "train.max_steps=1", *([f"train.prompts={prompts}"] if prompts else []), output=name)
        (values[name],) = [line["eval_held_loss"] for line in records(folder, "eval_held_loss", output=name)]
    assert values["all"] == values["column"] == values["set"] != values["none"]


def test_prompts_of_the_model_alone_are_not_trained(folder):
    note = "no prompts in [train], so it learns without the model's 'ask: '"
    assert note in run('model.prompts={query="ask: "}', "train.max_steps=1")
    assert note not in run('model.prompts={query="ask: "}', 'train.prompts="ask: "', "train.max_steps=1", output="with")
    assert "no prompts in [train]" not in run("train.max_steps=1", output="without")


@pytest.mark.slow
def test_guide_and_teacher(folder):
    tiny_model(seed=4).save(folder / "other")
    message = run('data.0.loss="GISTEmbedLoss"', output="x", code=2)
    assert 'GISTEmbedLoss needs a guide: write [guide] model = ".."' in message
    gist = ['data.0.loss={name="GISTEmbedLoss", temperature=0.1}', 'guide.model="other"']
    run(*gist)
    held = 'eval=[{name="held", files=["rows.jsonl"], columns={anchor="q", positive="d"}, loss="GISTEmbedLoss"}]'
    run(*gist, held, "guide.cache=true", output="kept")
    assert records(folder, "eval_held_loss", output="kept")[0]["eval_held_loss"] > 0
    assert losses(folder) == pytest.approx(losses(folder, "kept"), abs=1e-5)
    run('data.0.loss="MSELoss"', 'teacher.model="other"', "train.max_steps=60", output="taught")
    assert losses(folder, "taught")[-1] < 0.5 * losses(folder, "taught")[0]


def test_a_model_with_routes(folder):
    tower, static = tiny_model(), StaticEmbedding(200, 16)
    router = Router({"query": [static, Normalize()], "document": [*tower.stack, Normalize()]}, "document")
    SentenceTransformer.from_modules([router], tower.tokenizer).save(folder / "routes")
    path = 'model={path="routes"}'
    assert 'roles = { anchor = "query", positive = "document" }' in run(path, output="x", code=2)
    assert "the role is 'qery', known are query, document" in run('data.0.roles={anchor="qery"}', output="x", code=2)
    roles = 'data.0.roles={anchor="query", positive="document"}'
    for tokens in (0, 20):
        run(path, roles, f"train.mini_batch_tokens={tokens}", output=f"t{tokens}")
    assert losses(folder, "t0") == pytest.approx(losses(folder, "t20"), abs=1e-5)
    moved = changed(folder, "t0/model", "routes")
    assert any("query" in name for name in moved) and any("document" in name for name in moved)


def test_transforms(folder):
    one = ['data.0.columns={a="q", b="q"}', "data.0.delete_words={a=0.5}"]
    run(*one)
    run('data.0.columns={text="q"}', "data.0.draw_pairs=4", "data.0.loss=ContrastiveLoss", output="drawn")
    run(one[0], output="whole")
    assert losses(folder)[0] > losses(folder, "whole")[0]  # a text finds itself better than what is left of it
    assert len(losses(folder, "drawn")) == 4


def test_contrastive_tension(folder):
    """Two copies are trained, one is saved."""
    twins = ['model={path="model", twins=true}', 'data.0.loss="ContrastiveTensionLoss"', "data.0.draw_pairs=4"]
    one = 'data.0.columns={text="q"}'
    assert "must say who takes which" in run(*twins, one, output="x", code=2)
    run(*twins, one, 'data.0.roles={text="first", partner="second"}', "train.save_every=4")
    assert SentenceTransformer("run/model").routes == ()
    assert len(changed(folder)) > 20
    assert SentenceTransformer("run/checkpoint-4").routes == ("first", "second")
    a, b = (SentenceTransformer("run/checkpoint-4").encode(["read file"], role=role) for role in ("first", "second"))
    assert abs(a - b).max() > 1e-4  # they went different ways


def test_a_loss_that_takes_other_columns(folder):
    message = run('data.0.loss="TripletLoss"', output="x", code=2)
    assert "config: [[data]] pairs: TripletLoss takes " in message and "got 2 columns" in message
    assert not (folder / "x").exists()
