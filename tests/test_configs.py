"""Every recipe in configs/ runs: a few steps on a tiny model and few texts."""

import json

import pytest
from tiny import ROOT, run_script, sentences, tiny_model, write_jsonl

from minist.models import MaskedLM, open_model
from minist.training.config import load_config

RECIPES = sorted((ROOT / "configs").glob("*.toml"))
SLOW = ("tsdae", "simcse", "contrastive_tension", "finetune")  # a second or two each


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "data/python_docs"
    made.mkdir(parents=True)
    for name, seed in (("python_docs/train", 1), ("python_docs/heldout", 2), ("whole_pairs", 5)):
        rows = [{"summary": q, "body": d} for q, d in zip(sentences(30, seed), sentences(30, seed + 9), strict=True)]
        write_jsonl(tmp_path / f"data/{name}.jsonl", rows)
    (tmp_path / "data/sick").mkdir()
    classes = ["NEUTRAL", "ENTAILMENT", "CONTRADICTION"] * 10
    for name, seed in (("train", 3), ("trial", 4)):
        rows = [
            f"{a}\t{b}\t{c}\n" for a, b, c in zip(sentences(30, seed), sentences(30, seed + 9), classes, strict=True)
        ]
        (tmp_path / f"data/sick/SICK_{name}.txt").write_text(
            "sentence_A\tsentence_B\tentailment_judgment\n" + "".join(rows)
        )
    lists = [sentences(5, seed) for seed in range(30)]
    mined = [{"query": a, "documents": others, "labels": [1, 0, 0, 0]} for a, *others in lists]
    write_jsonl(tmp_path / "data/rerank_train.jsonl", mined)
    found = [{"query": a, "positive": b, "documents": [c, b], "scores": [0.9, 0.8]} for a, b, c, *_ in lists]
    write_jsonl(tmp_path / "data/rerank_heldout.jsonl", found)
    keys = ("query", "positive", "negative_1", "negative_2", "negative_3", "negative_4")
    scored = [dict(zip(keys, [*texts, "wait"], strict=True)) | {"scores": [0.9, 0.2, 0.3, 0.1, 0]} for texts in lists]
    write_jsonl(tmp_path / "data/distill_reranker.jsonl", scored)
    tiny_model(encoder={"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 4}).save(tmp_path / "tiny")
    tiny_model().save(tmp_path / "encoder")
    MaskedLM(tmp_path / "encoder").save(tmp_path / "words")
    return tmp_path


@pytest.mark.filterwarnings("ignore:the model has a new head")
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(r, marks=[pytest.mark.slow] * (r.stem in SLOW)) for r in RECIPES],
    ids=[r.stem for r in RECIPES],
)
def test_recipe(folder, recipe):
    config = load_config(recipe, [])
    assert config.output == f"runs/{recipe.stem}"  # named alike, so that recipes do not meet
    changes = ["train.max_steps=3", "train.batch_size=10", "train.log_every=1", "train.eval_every=3"]
    start = "words" if config.model.type == "SparseEncoder" else "tiny"
    changes += [f"model.path={start}"] if config.model.path else ["model.tokenizer.vocab_size=200"]
    changes += ["teacher.model=tiny"] if config.teacher.model else []
    changes += ["model.max_length=30"] if config.model.max_length else []
    changes += ["expect={}"] if config.expect else []  # of a model that has learned
    code, out, err = run_script("train.py", "--config", recipe, *(p for c in changes for p in ("--set", c)))
    assert (code, err) == (0, "")
    assert sum(line.startswith("step ") for line in out.splitlines()) == 3
    metrics = [json.loads(line) for line in (folder / config.output / "metrics.jsonl").read_text().splitlines()]
    ndcg = {"heldout_cosine_ndcg@10", "heldout_dot_ndcg@10", "heldout_ndcg@10"}
    assert metrics[-1].keys() & (ndcg | {"sick_accuracy", "eval_heldout_loss"})
    model = open_model(folder / config.output / "model", config.model.type)
    words = tiny_model().stack[0].vocab_size
    wanted = {"embeddings": (128, 384), "scores": (1, 3), "words": range(201), "sparse": (words,)}
    assert model.width in wanted[model.gives]
