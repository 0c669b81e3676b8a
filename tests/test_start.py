"""Models to start from: embeddings cut to their principal components, and word vectors alone."""

import numpy as np
import pytest
import torch
from test_distributed import two_towers
from tiny import run_script, sentences, tiny_model, write_jsonl

from minist import CrossEncoder, SentenceTransformer
from minist.training.config import Config, DataConfig, ModelConfig, PoolingConfig, TokenizerConfig
from minist.training.start import new_model, some_texts, with_components

TEXTS = sentences(60, 1)
CONFIG = """output = "run"
[model]
path = "model"
{}
[[data]]
files = ["rows.jsonl"]
columns = {{ anchor = "q", positive = "d" }}
[train]
batch_size = 8
max_steps = 2
lr = 1e-2
"""


def test_the_components_are_eigenvectors_of_the_covariance():
    model = tiny_model()
    x = model.encode(TEXTS).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(x.T))  # the largest last
    smaller = with_components(model, TEXTS, 5)
    weight = smaller.stack[-1].linear.weight.detach().double().numpy()
    assert weight.shape == (5, 16) and smaller.out_width == 5
    signs = np.sign(np.sum(weight * vectors.T[::-1][:5], axis=1, keepdims=True))
    np.testing.assert_allclose(weight, signs * vectors.T[::-1][:5], atol=1e-4)
    np.testing.assert_allclose(smaller.encode(TEXTS), x @ weight.T, atol=1e-5)  # the mean stays
    kept = np.var(smaller.encode(TEXTS), axis=0, ddof=1)
    np.testing.assert_allclose(kept, values[::-1][:5], rtol=1e-3)


def test_prompts_routes_and_the_device_stay():
    model = two_towers()
    model.prompts["query"], model.truncate_dim = "find: ", 5  # which says nothing of components
    smaller = with_components(model, TEXTS, 4)
    assert smaller.prompts["query"] == "find: " and smaller.routes == model.routes
    assert smaller.encode_query(["a"]).shape == smaller.encode_document(["a"]).shape == (1, 4)


def test_texts_are_drawn_from_all_columns(folder):
    """Of three columns every third text would be of the same one."""
    rows = [{"q": "", "d": "d", "n": "n" * 5} for _ in range(2400)]
    write_jsonl(folder / "rows.jsonl", rows)
    columns = {"anchor": "q", "positive": "d", "negative": "n"}
    config = Config(data=[DataConfig(columns=columns, files=["rows.jsonl"])])
    found = some_texts(config)
    assert found == some_texts(config) and 1850 < len(found) < 2150
    assert all(abs(found.count(text) - len(found) / 3) < 120 for text in ("", "d", "nnnnn"))
    write_jsonl(folder / "rows.jsonl", rows[:666])
    assert some_texts(config) == ["", "d", "nnnnn"] * 666


def test_more_components_than_there_can_be():
    with pytest.raises(
        ValueError, match=r"pca in .model., with \d+ texts, is 17: use a number at least 1 and at most 16"
    ):
        with_components(tiny_model(), TEXTS, 17)
    with pytest.raises(ValueError, match="with 6 texts, is 6: use a number at least 1 and at most 5"):
        with_components(tiny_model(), TEXTS[:6], 6)
    assert np.isfinite(with_components(tiny_model(), TEXTS[:6], 5).encode(TEXTS)).all()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"q": q, "d": d} for q, d in zip(TEXTS, sentences(60, 2), strict=True)])
    tiny_model().save("model")
    return tmp_path


def train(lines, *overrides):
    with open("c.toml", "w", encoding="utf-8") as file:
        file.write(CONFIG.format(lines))
    arguments = [part for override in overrides for part in ("--set", override)]
    return run_script("train.py", "--config", "c.toml", *arguments)


def test_a_run_with_components_and_one_that_goes_on(folder):
    assert train("pca = 6", "train.save_every=1")[0] == 0
    model = SentenceTransformer("run/model")
    assert model.encode(["a"]).shape == (1, 6)
    assert [type(module).__name__ for module in model.stack] == ["BertEncoder", "Pooling", "Dense"]
    code, _, error = run_script("train.py", "--config", "c.toml", "--set", "train.save_every=1", "--resume")
    assert code == 0, error  # no second Dense
    assert SentenceTransformer("run/model").encode(["a"]).shape == (1, 6)


@pytest.mark.filterwarnings("ignore:the model has a new head")
def test_components_of_no_embeddings(folder):
    CrossEncoder.from_encoder(tiny_model().stack[0], tiny_model().tokenizer, "cls").save("scores")
    code, _, error = train("pca = 6", "model.path=scores")
    assert code == 2 and "a model with pca in [model] gives is 'scores', known are embeddings" in error
    code, _, error = train("pca = 6", "model.path=", "model.encoder={hidden_size=16}")
    assert code == 2 and "pca and twins in [model] belong to a model with a path" in error


def new_static(pooling="", kind="", **encoder):
    tokenizer = TokenizerConfig(vocab_size=200, max_length=32)
    table = {"model_type": "static", **encoder}
    return new_model(ModelConfig(type=kind, encoder=table, tokenizer=tokenizer, pooling=PoolingConfig(pooling)), TEXTS)


def test_a_static_model_is_a_mean_of_word_vectors(tmp_path):
    torch.manual_seed(0)
    model = new_static(hidden_size=24)
    ids, vectors = model.tokenizer.backend.encode(TEXTS[0], add_special_tokens=False).ids, model.stack[0].embedding
    expected = vectors.weight[ids].mean(0).detach().numpy()
    np.testing.assert_allclose(model.encode(TEXTS[0]), expected, atol=1e-6)
    model.save(tmp_path)
    np.testing.assert_allclose(SentenceTransformer(tmp_path).encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert new_static().out_width == 256


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_hidden_layers": 2}, "a key in .model.encoder. of a static model is 'num_hidden_layers', known are"),
        ({"hidden_size": 0}, "hidden_size in .model.encoder. is 0"),
        ({"hidden_size": "a"}, "hidden_size in .model.encoder. is 'a'"),
        ({"kind": "SparseEncoder"}, "type in .model. of a static model is 'SparseEncoder'"),
        ({"pooling": "cls"}, "mode in .model.pooling. of a static model is 'cls', known are mean"),
    ],
)
def test_a_static_model_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        new_static(**given)
