"""MaskedLMLoss: its formula, steps in parts and on two ranks, whole runs, what they save, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from models import DATA
from safetensors.torch import load_file
from tiny import ENCODER, FROM_SCRATCH, ROOT, WORDS, run_script, sentences, tiny_model, write_jsonl
from two_ranks import WORLD, run_ranks

from minist import collectives
from minist.batch import Batch
from minist.data.transforms import mask_words, vocabulary_of
from minist.losses.over_tokens import MaskedLMLoss
from minist.models import open_model
from minist.models.cross_encoder import CrossEncoder
from minist.models.folder import content_of
from minist.models.masked_lm import MaskedLM
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.sparse_encoder import SparseEncoder
from minist.models.stack import Stack
from minist.modules.router import Router
from minist.training.config import ModelConfig, TokenizerConfig
from minist.training.start import new_model
from minist.training.step import Objective, Setup, mini_batches, token_step

OFF = torch.amp.GradScaler("cpu", enabled=False)
NEW = "ignore:the model has a new head"
pytestmark = pytest.mark.filterwarnings(NEW)
FAMILIES = ["bert", "mpnet", "roberta", "xlm-roberta", "distilbert", "modernbert"]


def tiny_lm(model_type="bert"):
    """In training, in float64; no weight is 0 or 1, so that each counts."""
    torch.manual_seed(0)
    own = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "dropout": 0.0, "attention_dropout": 0.0}
    shape = (own if model_type == "distilbert" else ENCODER) | {"initializer_range": 0.3}
    if model_type == "modernbert":
        shape = {key: value for key, value in shape.items() if "prob" not in key and key != "max_position_embeddings"}
    table = shape | {"model_type": model_type}
    model = new_model(
        ModelConfig("MaskedLM", encoder=table, tokenizer=TokenizerConfig(200, 32)), sentences(100)
    ).double()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) / 10
    return model.train()


def masked(model, n=13, ratio=0.4):
    """Masked texts and targets."""
    packed = model.tokenizer(sentences(n, seed=n)).packed()
    return mask_words(packed, torch.arange(n), vocabulary_of(model.tokenizer), ratio, True, 1, 0)


def step(model, batch, max_tokens=0, weight=1.0):
    """Value and gradients of a step."""
    model.zero_grad()
    objective = Objective(MaskedLMLoss(), batch, weight)
    token_step(Setup(model, model, OFF, None, max_tokens), objective, 0)
    return {"loss": objective.value} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("model_type", FAMILIES)
def test_equals_the_slow_definition(model_type):
    """Text after text and token after token, each score a product with one word."""
    model = tiny_lm(model_type)
    texts, targets = masked(model)
    encoder, head = model.stack
    total, count = 0, 0
    for i in range(texts.n):
        states = encoder(texts.slice(i, i + 1))
        for x, target in zip(states, targets.slice(i, i + 1).input_ids.tolist(), strict=True):
            if target >= 0:
                turned = head.norm(F.gelu(head.dense(x)))
                words = zip(encoder.embeddings.word.weight, head.bias, strict=True)
                scores = torch.stack([turned @ word + bias for word, bias in words])
                total, count = total - scores.log_softmax(0)[target], count + 1
    loss = MaskedLMLoss()
    assert count == loss.count([texts, targets]) > 8
    torch.testing.assert_close(loss(model, [texts, targets], (None,)), total, atol=1e-10, rtol=0)
    found = step(model, Batch((texts, targets), (None,)))
    torch.testing.assert_close(found["loss"], (total / count).detach(), atol=1e-12, rtol=0)
    wanted = torch.autograd.grad(total / count, list(model.parameters()), materialize_grads=True, allow_unused=True)
    for (name, _), gradient in zip(model.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(found.get(name, torch.zeros_like(gradient)), gradient, atol=1e-12, rtol=0)
    assert found["stack.1.dense.weight"].abs().max() > 1e-4


def test_half_types_are_raised_before_the_sum():
    model = tiny_lm().float()
    columns = masked(model)
    exact = MaskedLMLoss()(model, columns, (None,))
    with torch.autocast("cpu", torch.bfloat16):
        half = MaskedLMLoss()(model, columns, (None,))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("max_tokens", [1, 40, 90])
def test_mini_batches_are_one_pass(max_tokens):
    model = tiny_lm()
    batch = Batch(masked(model), (None,))
    assert len(list(mini_batches(batch.columns, max_tokens))) > 1
    torch.testing.assert_close(step(model, batch, max_tokens), step(model, batch), atol=1e-12, rtol=0)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_no_token_chosen(model_type):
    """As in a batch of short texts; all other weights get a gradient of 0."""
    model = tiny_lm(model_type)
    packed = model.tokenizer(["", "read"]).packed()
    found = step(model, Batch((packed, packed._replace(input_ids=torch.full_like(packed.input_ids, -1))), (None,)))
    assert found.pop("loss") == 0
    assert all((gradient == 0).all() for gradient in found.values())


def work_as_a_rank(rank, folder):
    model = tiny_lm()
    texts, targets = masked(model, n=9)
    first = [list(range(7)), [7, 8]][rank]  # ranks have other numbers of tokens
    share = Batch(tuple(x.take(torch.tensor(first)) for x in (texts, targets)), (None,))
    torch.save(step(model, share), folder / f"{rank}.pt")
    assert collectives.gather(torch.ones(1)).sum() == WORLD


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    run_ranks(work_as_a_rank, tmp_path)
    model = tiny_lm()
    whole = step(model, Batch(masked(model, n=9), (None,)))
    for rank in range(WORLD):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), whole, atol=1e-12, rtol=0)


# ---------------------------------------------------------------- runs

CONFIG = f"""
output = "run"
[model]
type = "MaskedLM"
{FROM_SCRATCH}
[[data]]
name = "texts"
files = ["texts.jsonl"]
columns = {{ text = "text" }}
loss = {{ name = "MaskedLMLoss", mask_ratio = 0.3 }}
[[eval]]
name = "held"
files = ["texts.jsonl"]
columns = {{ text = "text" }}
loss = {{ name = "MaskedLMLoss", mask_ratio = 0.3, whole_words = false }}
[train]
batch_size = 20
max_steps = 40
lr = 1e-2
save_every = 20
log_every = 1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # a text is a stretch of the word list: its words tell what stands between them
    write_jsonl(tmp_path / "texts.jsonl", [{"text": " ".join(WORDS[i % 15 :][:6])} for i in range(60)])
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path


def run(*overrides, resume=False):
    """A run that must succeed: what it printed."""
    settings = [part for override in overrides for part in ("--set", override)]
    code, out, err = run_script("train.py", "--config", "c.toml", *settings, *(["--resume"] if resume else []))
    assert (code, err) == (0, "")
    return out


def figures(output, name):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record[name] for record in map(json.loads, lines) if name in record]


def test_training_lowers_the_loss(folder):
    run("train.eval_every=20")
    losses, held = figures(folder / "run", "loss"), figures(folder / "run", "eval_held_loss")
    assert len(losses) == 40
    assert losses[0] == pytest.approx(torch.tensor(200.0).log(), abs=3)  # it knows nothing of 200 words
    assert sum(losses[-4:]) / 4 < 0.5 * losses[0]
    assert held[-1] < held[0] < losses[0]


def test_what_is_masked_is_new_in_every_epoch_and_fixed_in_an_evaluation(folder):
    run("train.lr=0.0", "train.eval_every=3", "train.max_steps=12")
    losses, held = figures(folder / "run", "loss"), figures(folder / "run", "eval_held_loss")
    epochs = [sum(losses[i : i + 3]) for i in range(0, 12, 3)]
    assert len({*epochs}) == 4
    assert len({*held}) == 1


def test_texts_are_counted_once(folder):
    """The targets are no texts that were read."""
    run("train.max_steps=2")
    tokens, texts = (figures(folder / "run", f"{name}_per_second")[-1] for name in ("tokens", "texts"))
    model = open_model("run/model", "MaskedLM")
    lengths = model.tokenizer([" ".join(WORDS[i % 15 :][:6]) for i in range(60)]).lengths.float()
    assert lengths.min() <= tokens / texts <= lengths.max()


@pytest.mark.slow
def test_settings_of_memory_change_nothing(folder):
    run("output=one")
    run("output=parts", "train.mini_batch_tokens=60", "train.checkpoint_layers=true")
    found, wanted = (figures(folder / name, "loss") for name in ("parts", "one"))
    assert found == pytest.approx(wanted, abs=1e-3)


def test_a_resumed_run_is_the_same(folder):
    run("train.dropout=0.2")
    shutil.copytree("run", "half")
    shutil.rmtree("half/checkpoint-40")
    shutil.rmtree("half/model")
    run("train.dropout=0.2", "output=half", resume=True)
    assert figures(folder / "half", "loss") == figures(folder / "run", "loss")
    a, b = (load_file(folder / name / "model/model.safetensors") for name in ("run", "half"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_run_of_two_ranks_is_the_same(folder):
    """What is masked in a text does not depend on the rank that reads it."""
    low = ["train.lr=1e-3", "train.max_steps=6", "train.batch_size=9"]
    run(*low)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train.py"), "--config", "c.toml"]
    command += [part for override in ["output=two", *low] for part in ("--set", override)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("loss", "eval_held_loss"):
        assert figures(folder / "two", name) == pytest.approx(figures(folder / "run", name), abs=1e-5)


# ---------------------------------------------------------------- what it saves


def test_it_saves_a_plain_checkpoint(tmp_path):
    model = tiny_lm().float().eval()
    model.save(tmp_path / "saved")
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files == wanted | {"sentence_bert_config.json", "README.md"}
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    assert json.loads((tmp_path / "saved/tokenizer_config.json").read_text())["mask_token"] == "[MASK]"
    again = open_model(tmp_path / "saved", "MaskedLM")
    assert again.max_length == 32
    columns = masked(model)
    assert torch.equal(MaskedLMLoss()(again, columns, (None,)), MaskedLMLoss()(model, columns, (None,)))


def test_all_kinds_begin_with_it(tmp_path):
    model = tiny_lm().float().eval()
    model.save(tmp_path / "saved")
    packed = model.tokenizer(["read file"]).packed()
    states, words = model.stack[0](packed), model.stack[0].embeddings.word.weight
    sentence, pairs, sparse = (kind(tmp_path / "saved") for kind in (SentenceTransformer, CrossEncoder, SparseEncoder))
    torch.testing.assert_close(sentence.encode("read file", convert_to_tensor=True), states.mean(0))
    assert torch.equal(pairs.stack[0](packed), states)
    scores = model.stack[1].transform(states) @ words.T + model.stack[1].bias
    torch.testing.assert_close(sparse.encode("read file").to_dense(), scores.relu().log1p().amax(0))


@pytest.mark.parametrize("kind", [SentenceTransformer, SparseEncoder])
def test_it_goes_on_from_a_saved_model(tmp_path, kind):
    """A sparse model has a head already."""
    tiny_lm().float().save(tmp_path / "plain")
    kind(tmp_path / "plain").save(tmp_path / "saved")
    head, plain = (tmp_path / name / "model.safetensors" for name in ("saved", "plain"))
    if kind is SparseEncoder:
        model = MaskedLM(tmp_path / "saved")
        assert torch.equal(model.stack[1].dense.weight, load_file(plain)["cls.predictions.transform.dense.weight"])
    else:
        with pytest.warns(UserWarning, match="the model has a new head that scores words: train it"):
            model = MaskedLM(tmp_path / "saved")
        assert "cls.predictions.bias" not in load_file(head)
        assert not torch.equal(model.stack[1].dense.weight, model.stack[0].embeddings.word.weight[:16])
    assert torch.equal(
        model.stack[0].embeddings.word.weight, load_file(plain)["bert.embeddings.word_embeddings.weight"]
    )


def test_the_head_of_a_model_in_memory_is_kept():
    model = tiny_lm()
    sparse = SparseEncoder(content_of(Stack([*model.stack]), model.tokenizer))
    again = MaskedLM(sparse.content())
    assert again.stack[1] is sparse.stack[1]


def test_a_new_head_is_not_the_first_words():
    torch.manual_seed(5)
    table = ModelConfig("MaskedLM", encoder=ENCODER, tokenizer=TokenizerConfig(200, 32))
    encoder, head = new_model(table, sentences(100)).stack
    both = torch.stack([head.dense.weight.flatten(), encoder.embeddings.word.weight[:16].flatten()])
    assert torch.corrcoef(both)[0, 1].abs() < 0.3


@pytest.mark.parametrize("start", ["bert_mlm", "distilbert_mlm", "modernbert_mlm", "roberta_mlm", "mpnet_mlm"])
def test_a_run_goes_on_from_a_checkpoint(folder, start):
    begin = CONFIG.index("[model]"), CONFIG.index("[[data]]")
    model = f'[model]\ntype = "MaskedLM"\npath = "{DATA / "enc" / start}"\nmax_length = 20\n'
    (folder / "c.toml").write_text(CONFIG[: begin[0]] + model + CONFIG[begin[1] :])
    run("train.max_steps=2", "train.lr=1e-9")
    a, b = load_file(DATA / "enc" / start / "model.safetensors"), load_file("run/model/model.safetensors")
    assert b.keys() <= a.keys()
    assert all((a[name] - b[name]).abs().max() < 1e-6 for name in b)
    assert open_model("run/model", "MaskedLM").max_length == 20


def test_tsdae_takes_its_head(folder):
    run("train.max_steps=2")
    path, columns = 'model={path="run/model"}', 'columns={damaged="text", text="text"}'
    (folder / "t.toml").write_text(
        f'output="t"\n{path}\ndata=[{{files=["texts.jsonl"], {columns}, loss="DenoisingAutoEncoderLoss"}}]\n'
        "train={max_steps=1, save_every=1, lr=1e-12}"
    )
    code, _, err = run_script("train.py", "--config", "t.toml")
    assert (code, err) == (0, "")
    found = torch.load("t/checkpoint-1/training.pt", weights_only=True)["losses"]["0.decoder.head.dense.weight"]
    wanted = load_file("run/model/model.safetensors")["cls.predictions.transform.dense.weight"]
    torch.testing.assert_close(found, wanted)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.0.loss=MultipleNegativesRankingLoss"], "known are MaskedLMLoss, path"),
        (["data.0.loss.mask_ratio=1.5"], "mask_ratio is 1.5: use a number at most 1 and above 0"),
        (["data.0.loss.mask_ratio=0"], "mask_ratio is 0: use a number at most 1 and above 0"),
        (['data.0.columns={a="text", b="text"}'], "takes one column of text, labels none; got 2 columns"),
        (["data.0.label=number"], "takes one column of text, labels none; got 1 column and labels of shape [20]"),
        (["data.0.draw_pairs=2"], "got 2 columns and labels of shape"),
        (["model.num_labels=2"], "num_labels is 2, but a MaskedLM gives no scores"),
        (["model.type=SentenceTransformer"], "MaskedLMLoss"),
        (["model.encoder={}", "model.path=twins"], "a MaskedLM has one encoder, the model has the routes"),
        (["model.encoder={}", "model.path=no_mask"], "[[data]] texts: the tokenizer has no mask token, [MASK] or"),
    ],
)
def test_one_line_for_what_a_config_gets_wrong(folder, overrides, says):
    write_jsonl(folder / "texts.jsonl", [{"text": " ".join(WORDS[i % 15 :][:6]), "number": i} for i in range(60)])
    model = tiny_model()
    towers = Router({"query": list(model.stack), "document": list(tiny_model(seed=1).stack)}, "document")
    SentenceTransformer.from_modules([towers], model.tokenizer).save(folder / "twins")
    model.save(folder / "no_mask")
    file = folder / "no_mask/tokenizer.json"
    file.write_text(file.read_text().replace("[MASK]", "[HIDE]"))
    settings = [part for override in overrides for part in ("--set", override)]
    code, _, err = run_script("train.py", "--config", "c.toml", *settings)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not (folder / "run").exists()


def test_an_evaluator_of_embeddings(folder):
    evaluator = 'eval=[{name="e", files=["texts.jsonl"], columns={query="text", document="text"}, '
    evaluator += 'evaluator="InformationRetrievalEvaluator"}]'
    code, _, err = run_script("train.py", "--config", "c.toml", "--set", evaluator)
    assert (code, err.count("\n")) == (2, 1)
    assert "is for models that give embeddings" in err
