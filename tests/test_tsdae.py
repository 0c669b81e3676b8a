"""DenoisingAutoEncoderLoss: its formula, steps in parts, what it refuses, and whole runs."""

import json
import shutil

import pytest
import torch
from models import DATA
from safetensors.torch import load_file
from tiny import FROM_SCRATCH, WORDS, run_script, sentences, tiny_model, write_jsonl

from minist import Packed
from minist.batch import Batch
from minist.losses import DenoisingAutoEncoderLoss
from minist.losses.over_tokens import texts_so_far
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.pooling import Pooling
from minist.modules.router import Router
from minist.training.step import Objective, Setup, mini_batches, token_step

OFF = torch.amp.GradScaler("cpu", enabled=False)
NONE = (None, None)


def columns(model, n=7):
    """Damaged and original texts."""
    texts = sentences(n, seed=n)
    damaged = [" ".join(text.split()[::2]) for text in texts]
    return tuple(model.tokenizer(column).packed() for column in (damaged, texts))


def ready(tied=True, model=None, roles=NONE):
    """A model in training, and the loss with its decoder, in float64."""
    model = (model or tiny_model()).double().train()
    torch.manual_seed(3)
    loss = DenoisingAutoEncoderLoss(tied)
    loss.attach(model, roles, {})
    return model, loss.double()


def step(model, loss, batch, max_tokens=0, weight=1.0):
    """Value and gradients of a step."""
    model.zero_grad()
    loss.zero_grad()
    objective = Objective(loss, batch, weight)
    token_step(Setup(model, model, OFF, None, max_tokens), objective, 0)
    named = [*model.named_parameters(), *loss.named_parameters()]
    return {"loss": objective.value} | {name: p.grad for name, p in named if p.grad is not None}


# ---------------------------------------------------------------- the loss


def test_what_is_read_and_what_is_written():
    texts = Packed.of(torch.tensor([5, 6, 7, 8, 5, 9]), torch.tensor([3, 1, 2]), torch.ones(6, dtype=torch.long))
    so_far, written = texts_so_far(texts)
    assert written.tolist() == [6, 7, 9]
    assert so_far.input_ids.tolist() == [5, 6, 5]
    assert so_far.lengths.tolist() == [2, 0, 1]
    assert so_far.token_type_ids.tolist() == [0, 0, 0]
    assert DenoisingAutoEncoderLoss().count([texts, texts]) == 3


@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_slow_definition(tied):
    """Token after token, each written from the embedding of the damaged text and the tokens before it."""
    model, loss = ready(tied)
    damaged, originals = columns(model)
    ((embeddings,),) = model([damaged])
    total, count = 0, 0
    for i in range(originals.n):
        ids = originals.slice(i, i + 1).input_ids
        for t in range(1, len(ids)):
            so_far = Packed.of(ids[:t], torch.tensor([t]))
            scores = loss.decoder(model.stack[0], so_far, embeddings[i : i + 1])[-1]
            total, count = total - scores.log_softmax(0)[ids[t]], count + 1
    assert count == loss.count([damaged, originals]) > 30
    torch.testing.assert_close(loss(model, [damaged, originals], NONE), total, atol=1e-10, rtol=0)
    found = step(model, loss, Batch((damaged, originals), NONE))
    torch.testing.assert_close(found["loss"], (total / count).detach(), atol=1e-12, rtol=0)
    wanted = torch.autograd.grad(total / count, list(model.parameters()), materialize_grads=True, allow_unused=True)
    for (name, _), gradient in zip(model.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(found[name], gradient, atol=1e-12, rtol=0)


def test_the_embedding_tells_the_decoder_what_to_write():
    """Its gradient reaches the encoder, also where that has no other part in the decoder."""
    model, loss = ready(tied=False)
    found = step(model, loss, Batch(columns(model), NONE))
    assert all(found[name].abs().max() > 1e-7 for name, _ in model.named_parameters() if "token_type" not in name)


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_learned_stands_in_the_embedding(tied):
    """Six texts by heart: told by the embedding of another text, the decoder writes that other one."""
    model, loss = ready(tied)
    texts = model.tokenizer(["read", "write", "sort", "file", "list", "number"]).packed()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=1e-2)
    for _ in range(60):
        step(model, loss, Batch((texts, texts), NONE))
        optimizer.step()
    others = texts.take(torch.arange(texts.n).roll(1))
    own, other = (loss(model, [x, texts], NONE).item() / loss.count([x, texts]) for x in (texts, others))
    assert own < 0.2 < 2 < other


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 25, 60])
def test_mini_batches_are_one_pass(max_tokens, tied):
    model, loss = ready(tied)
    batch = Batch(columns(model), NONE)
    parts = list(mini_batches(batch.columns, max_tokens))
    assert len(parts) > 1
    assert all(sum(len(part.input_ids) for part in pair) <= max_tokens or pair[0].n == 1 for pair in parts)
    assert all(damaged.n == original.n for damaged, original in parts)
    torch.testing.assert_close(step(model, loss, batch, max_tokens), step(model, loss, batch), atol=1e-12, rtol=0)


def test_weight():
    model, loss = ready()
    batch = Batch(columns(model), NONE)
    whole, half = step(model, loss, batch), step(model, loss, batch, weight=0.5)
    torch.testing.assert_close({name: x / 2 for name, x in whole.items()}, half, atol=1e-12, rtol=0)


def test_texts_with_nothing_to_write():
    model, loss = ready()
    one = Packed.of(torch.tensor([5, 6]), torch.tensor([1, 1]))
    found = step(model, loss, Batch((one, one), NONE))
    assert found.pop("loss") == 0
    assert all((gradient == 0).all() for gradient in found.values())


def test_the_encoder_is_that_of_the_role():
    query, document = tiny_model(), tiny_model(seed=1)
    towers = Router({"query": list(query.stack), "document": list(document.stack)}, "document")
    roles = ("query", "query")
    model, loss = ready(model=SentenceTransformer.from_modules([towers], query.tokenizer), roles=roles)
    texts = columns(model)
    found = step(model, loss, Batch(texts, roles))
    assert any("routes.query" in name for name in found)
    assert not any("routes.document" in name for name in found)
    alone, own_loss = ready()
    torch.testing.assert_close(found["loss"], step(alone, own_loss, Batch(texts, NONE))["loss"], atol=1e-12, rtol=0)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("count", "labels", "says"),
    [
        (1, None, "takes damaged text, original text, labels none; got 1 column and no labels"),
        (3, None, "got 3 columns"),
        (2, torch.ones(4), r"got 2 columns and labels of shape \[4\]"),
    ],
)
def test_wrong_columns(count, labels, says):
    with pytest.raises(ValueError, match=says):
        DenoisingAutoEncoderLoss().check([torch.zeros(4, 8)] * count, Batch(labels=labels))


def test_lists_of_texts():
    with pytest.raises(ValueError, match="one text per cell in column 2, not a list"):
        DenoisingAutoEncoderLoss().check([torch.zeros(4, 8)] * 2, Batch(counts=(None, torch.tensor([1, 1, 1, 1]))))


def test_an_encoder_of_other_layers():
    with pytest.raises(ValueError, match=r"must be bert, roberta, xlm-roberta, distilbert; this model has a MPNetEnc"):
        DenoisingAutoEncoderLoss().attach(tiny_model(encoder={"model_type": "mpnet"}), NONE, {})


def test_columns_of_two_vocabularies():
    query, document = tiny_model(), tiny_model(seed=1)
    towers = Router({"query": list(query.stack), "document": list(document.stack)}, "document")
    tokenizers = {"query": query.tokenizer, "document": document.tokenizer}
    model = SentenceTransformer.from_modules([towers], tokenizers)
    with pytest.raises(ValueError, match="two columns of one route: give both the same role"):
        DenoisingAutoEncoderLoss().attach(model, ("query", "document"), {})


# ---------------------------------------------------------------- runs

CONFIG = f"""
output = "run"
{FROM_SCRATCH}
[[data]]
name = "texts"
files = ["texts.jsonl"]
columns = {{ noisy = "text", text = "text" }}
delete_words = {{ noisy = 0.6 }}
loss = "DenoisingAutoEncoderLoss"
[train]
batch_size = 16
max_steps = 24
lr = 1e-2
save_every = 12
log_every = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # a text is a stretch of the word list: who knows some of its words knows where it lies
    write_jsonl(tmp_path / "texts.jsonl", [{"text": " ".join(WORDS[i % 15 :][:6])} for i in range(60)])
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def run(*overrides, resume=False):
    """A run that must succeed: the records of its steps."""
    settings = [part for override in overrides for part in ("--set", override)]
    code, _, err = run_script("train.py", "--config", "c.toml", *settings, *(["--resume"] if resume else []))
    assert (code, err) == (0, "")


def losses_of(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.0.loss={name='DenoisingAutoEncoderLoss', tie_encoder_decoder=false}"],
        ["train.mini_batch_tokens=60", "train.checkpoint_layers=true", "train.dropout=0.1"],
        ["train.dtype=bfloat16"],
    ],
    ids=["tied", "copied", "in parts", "half"],
)
def test_training_lowers_the_loss(folder, overrides):
    run(*overrides)
    found = losses_of(folder / "run")
    assert len(found) == 24
    assert sum(found[-4:]) / 4 < 0.7 * found[0]


@pytest.mark.slow
def test_settings_of_memory_change_nothing(folder):
    run("output=one")
    run("output=parts", "train.mini_batch_tokens=60", "train.checkpoint_layers=true")
    assert losses_of(folder / "parts") == pytest.approx(losses_of(folder / "one"), abs=1e-4)


def test_the_decoder_is_no_part_of_the_model(folder):
    run()
    model = SentenceTransformer("run/model")
    assert [type(module).__name__ for module in model.stack] == ["BertEncoder", "Pooling"]
    assert isinstance(model.stack[1], Pooling)
    saved = torch.load("run/checkpoint-24/training.pt", weights_only=True)["losses"]
    assert {"0.decoder.head.bias", "0.decoder.layers.1.value.weight"} <= saved.keys()


@pytest.mark.slow
@pytest.mark.parametrize("tied", ["true", "false"])
def test_a_resumed_run_is_the_same(folder, tied):
    settings = [f"data.0.loss={{name='DenoisingAutoEncoderLoss', tie_encoder_decoder={tied}}}", "train.dropout=0.2"]
    settings += ["train.attention_dropout=0.1"]
    run(*settings)
    shutil.copytree("run", "half")
    shutil.rmtree("half/checkpoint-24")
    shutil.rmtree("half/model")
    run(*settings, "output=half", resume=True)
    assert losses_of(folder / "half") == losses_of(folder / "run")
    a, b = (SentenceTransformer(folder / name / "model").state_dict() for name in ("run", "half"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (torch.load(f"{name}/checkpoint-24/training.pt", weights_only=True)["losses"] for name in ("run", "half"))
    assert all(torch.equal(a[name], b[name]) for name in a)


EVAL = 'eval=[{name="held", files=["texts.jsonl"], columns={a="text", b="text"}, loss="DenoisingAutoEncoderLoss"}]'


def test_evaluated_with_the_decoder_that_was_trained(folder):
    """At a rate of 0, in one batch of all rows, it is the loss of the first step; words deleted likewise."""
    same = EVAL.replace("loss", "delete_words={a=0.6}, loss")
    one = ["train.max_steps=1", "train.lr=0.0", "train.batch_size=60"]
    run(same, *one)
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    found = {name: value for line in lines for name, value in json.loads(line).items()}
    assert found["eval_held_loss"] == pytest.approx(found["loss"], abs=1e-5)
    run(same, "output=learned", "train.dropout=0.3", "train.eval_every=12")
    lines = (folder / "learned/metrics.jsonl").read_text().splitlines()
    values = [json.loads(line).get("eval_held_loss") for line in lines]
    first, last = [value for value in values if value]
    assert last < first < found["loss"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "data.0.loss={name='MatryoshkaLoss', loss={name='DenoisingAutoEncoderLoss'}, matryoshka_dims=[8]}",
            "DenoisingAutoEncoderLoss cannot stand inside another loss",
        ),
        (
            EVAL.replace('"DenoisingAutoEncoderLoss"', '{name="DenoisingAutoEncoderLoss", tie_encoder_decoder=false}'),
            "config: DenoisingAutoEncoderLoss in [[eval]] held has weights of its own, which nothing would train",
        ),
        ('data.0.columns={noisy="text"}', "config: [[data]] texts: DenoisingAutoEncoderLoss takes damaged text,"),
        ('model.encoder={model_type="mpnet", hidden_size=12}', "this model has a MPNetEncoder"),
    ],
)
def test_what_a_config_gets_wrong(folder, override, says):
    code, _, err = run_script("train.py", "--config", "c.toml", "--set", override)
    assert code == 2
    assert says in err
    assert not (folder / "run").exists()


def test_a_checkpoint_lends_its_head(folder):
    """At a rate of nearly 0 what is read is kept."""
    shutil.copytree(DATA / "enc/bert_mlm", "checkpoint")
    start = CONFIG[CONFIG.index("[model.encoder]") : CONFIG.index("[[data]]")]
    (folder / "c.toml").write_text(CONFIG.replace(start, '[model]\npath = "checkpoint"\n'))
    run("train.max_steps=12", "train.lr=1e-12")
    saved = torch.load("run/checkpoint-12/training.pt", weights_only=True)["losses"]
    state = load_file("checkpoint/model.safetensors")
    torch.testing.assert_close(saved["0.decoder.head.dense.weight"], state["cls.predictions.transform.dense.weight"])
    assert saved["0.decoder.head.bias"].abs().max() > 1e-3
    torch.testing.assert_close(saved["0.decoder.head.bias"], state["cls.predictions.bias"])
