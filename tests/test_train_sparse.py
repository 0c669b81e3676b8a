"""train.py on a sparse encoder: SPLADE from scratch, with static queries, two ranks, resumed; what it says of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import FROM_SCRATCH, ROOT, run_script, sentences, tiny_model, write_jsonl

from minist import SparseEncoder
from minist.data.rows import Place
from minist.evaluation import InformationRetrievalEvaluator
from minist.models import open_model
from minist.models.sparse_encoder import sparsity
from minist.training.config import load_config
from minist.training.start import make_model

LOSS = """[data.loss]
name = "SpladeLoss"
loss = "SparseMultipleNegativesRankingLoss"
document_regularizer_weight = 3e-3
query_regularizer_weight = 5e-3"""
CONFIG = f"""
output = "runs/one"
[model]
type = "SparseEncoder"
{FROM_SCRATCH}
[[data]]
files = ["pairs.jsonl"]
columns = {{ query = "q", document = "d" }}
roles = {{ query = "query", document = "document" }}
{LOSS}
[train]
batch_size = 16
epochs = 4
lr = 3e-3
log_every = 1
[[eval]]
name = "held"
evaluator = "InformationRetrievalEvaluator"
files = ["pairs.jsonl"]
columns = {{ query = "q", document = "d" }}
bm25 = true
searches = ["read the line"]
"""
STATIC = CONFIG.replace('type = "SparseEncoder"', 'type = "SparseEncoder"\nstatic_queries = true')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"q": " ".join(text.split()[:4]), "d": text} for text in sentences(80)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    return tmp_path


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def train(text, *arguments):
    with open("c.toml", "w") as stream:
        stream.write(text)
    code, out, err = run_script("train.py", "--config", "c.toml", *arguments)
    assert code == 0, err
    return out


@pytest.mark.filterwarnings("ignore")
def test_splade(folder):
    out = train(CONFIG)
    lines = records(folder / "runs/one")
    steps = [line for line in lines if "loss" in line]
    assert steps[0]["document_regularizer_loss"] == 0 < steps[-1]["document_regularizer_loss"], "weights rise"
    for line in steps:
        parts = line["base_loss"] + line["document_regularizer_loss"] + line["query_regularizer_loss"]
        assert line["loss"] == pytest.approx(parts, abs=1e-5)
    assert steps[-1]["base_loss"] < steps[0]["base_loss"] / 2
    model = open_model(folder / "runs/one/model")
    assert type(model) is SparseEncoder
    (measured,) = [line for line in lines if "held_dot_ndcg@10" in line]
    rows = [{"q": " ".join(text.split()[:4]), "d": text} for text in sentences(80)]
    found = metrics(model, rows)
    for name in ("dot_ndcg@10", "query_active_dims", "corpus_active_dims", "avg_flops"):
        assert measured[f"held_{name}"] == pytest.approx(found[name], abs=1e-5)
    assert "nDCG@10 on held" in out and "search: read the line" in out


def metrics(model, rows):
    places = [Place(Path("pairs.jsonl"), i, {"query": row["q"], "document": row["d"]}) for i, row in enumerate(rows, 1)]
    return InformationRetrievalEvaluator(**InformationRetrievalEvaluator.of_rows(places))(model)


@pytest.mark.filterwarnings("ignore")
def test_static_queries(folder):
    train(STATIC)
    model = open_model(folder / "runs/one/model")
    query, document = (model.encode("read the line", role=role) for role in ("query", "document"))
    words, tokenizer = {word for word, _ in model.decode(query)}, model.tokenizer_for("query")
    assert words == set(map(tokenizer.backend.id_to_token, tokenizer(["read the line"]).input_ids.tolist()))
    assert len(model.decode(document)) > len(words)
    weights = model.stack.router.modules_of("query")[0].weight
    assert (weights != 0).all() and weights.std() > 0.1, "by rarity, then trained"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [CONFIG, STATIC], ids=["splade", "static queries"])
def test_mini_batches_and_resuming_change_nothing(folder, config):
    few = ["--set", "train.max_steps=6", "--set", "train.lr=1e-4"]  # Adam turns rounding of gradients near 0 into steps
    train(config, *few)
    train(config, *few, "--set", "train.mini_batch_tokens=40", "--set", "output=runs/two")
    for a, b in zip(records(folder / "runs/one"), records(folder / "runs/two"), strict=True):
        for name in a.keys() - {"texts_per_second", "tokens_per_second", "memory_mb"}:
            # of two tokens with nearly the same score rounding decides which gets the gradient
            assert a[name] == pytest.approx(b[name], abs=1e-4, rel=2e-2 if name == "grad_norm" else 1e-3), name
    whole = open_model("runs/one/model").state_dict()
    stopped = [*few, "--set", "train.save_every=3", "--set", "output=runs/three"]
    train(config, *stopped)
    shutil.rmtree("runs/three/model")
    train(config, *stopped, "--resume")
    for name, weight in open_model("runs/three/model").state_dict().items():
        assert torch.equal(weight, whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("config", [CONFIG, STATIC], ids=["splade", "static queries"])
def test_two_ranks_are_one(folder, config):
    """The regularizers are over the texts of all ranks, and so is the evaluation."""
    small = ["--set", "train.max_steps=5", "--set", "train.lr=1e-4"]
    with open("c.toml", "w") as stream:
        stream.write(config)
    for ranks, output in ((1, "runs/a"), (2, "runs/b")):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        command += [str(ROOT / "train.py"), "--config", "c.toml", *small, "--set", f"output={output}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    one, two = (records(folder / output) for output in ("runs/a", "runs/b"))
    for a, b in zip(one, two, strict=True):
        for name in a.keys() - {"texts_per_second", "tokens_per_second", "memory_mb"}:
            assert a[name] == pytest.approx(b[name], abs=2e-3, rel=2e-2 if name == "grad_norm" else 2e-3), name


def test_embeddings_that_no_memory_holds(folder, monkeypatch):
    monkeypatch.setattr("minist.training.run.total_memory", lambda device: 10**4)
    (folder / "w.toml").write_text(CONFIG)
    code, out, err = run_script("train.py", "--config", "w.toml")
    assert code == 2 and "32 embeddings of " in out
    assert "batch_size in [train] is 16: the embeddings take " in err


def test_static_queries_of_a_dense_model(folder):
    (folder / "w.toml").write_text(STATIC.replace('type = "SparseEncoder"', 'type = "SentenceTransformer"'))
    code, _, err = run_script("train.py", "--config", "w.toml")
    assert code == 2
    assert "static_queries in [model] with type is 'SentenceTransformer', known are SparseEncoder" in err


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_a_sparse_start(folder):
    """Each word is in no more than that share of the texts, though a new model has half of all words in each."""
    (folder / "w.toml").write_text(CONFIG.replace("[model]", "[model]\nsparse_start = 0.05"))
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    texts = [row[column] for row in rows for column in ("q", "d")]
    for changes, (least, most) in (([], (0.03, 0.05)), (["model.sparse_start=0"], (0.3, 1))):
        torch.manual_seed(0)
        active = make_model(load_config(folder / "w.toml", changes)).encode(texts).to_dense() > 0
        assert least <= active.float().mean() <= most
        assert active.float().mean(0).max() <= most + 0.01  # a score at the limit is above 0 or not by rounding


@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize("kind", ["SentenceTransformer", "MaskedLM"])
def test_a_sparse_start_of_other_models(folder, kind):
    text = CONFIG.replace('type = "SparseEncoder"', f'type = "{kind}"\nsparse_start = 0.05')
    (folder / "w.toml").write_text(text)
    code, _, err = run_script("train.py", "--config", "w.toml")
    assert code == 2 and "sparse_start in [model] needs a module that is 'SpladePooling', known are Bert" in err


def test_an_autoencoder_behind_a_dense_model(folder):
    """CSR from a config: the embeddings of a dense model become a few of many latents."""
    tiny_model().save(folder / "dense")
    own = "hidden_dim = 64, k = 4, k_aux = 8"
    start = f'type = "SparseEncoder"\npath = "dense"\nautoencoder = {{ {own} }}'
    text = CONFIG.replace(f'type = "SparseEncoder"\n{FROM_SCRATCH}', start).replace(LOSS, 'loss = "CSRLoss"')
    (folder / "w.toml").write_text(text)
    code, out, err = run_script("train.py", "--config", "w.toml")
    assert (code, err) == (0, "") and "reconstruction_loss" in out
    model = SparseEncoder("runs/one/model")
    assert model.width == 64 and sparsity(model.encode(sentences(5)))["active_dims"] <= 4
    unknown = "an argument of SparseAutoEncoder is 'hiden_dim', known are input_dim"
    for wrong, message in ((own.replace("hidden", "hiden"), unknown), (own.replace("4", "0"), "k is 0")):
        (folder / "x.toml").write_text(text.replace(own, wrong))
        code, _, err = run_script("train.py", "--config", "x.toml", "--overwrite")
        assert code == 2 and message in err
    code, _, err = run_script(
        "train.py", "--config", "w.toml", "--overwrite", "--set", "model.type=SentenceTransformer"
    )
    assert code == 2 and "type in [model] with an autoencoder is 'SentenceTransformer', known are SparseEncoder" in err
