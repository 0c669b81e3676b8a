"""SentenceTransformer: batches, prompts, and what is done to embeddings."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import ROOT, sentences, tiny_model

import minist
from minist.data.packed import Packed
from minist.models import text_model as module
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.pooling import Pooling
from minist.quantization import merge_ranges, quantize
from minist.training.run import set_dropout

TEXTS = ["", *sentences(30, seed=2, longest=40)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def embeddings(model):
    return model.encode(TEXTS)


def close(a, b, tolerance=2e-6):
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


def test_the_package_offers_it():
    assert minist.SentenceTransformer is SentenceTransformer


@pytest.mark.parametrize("batch_tokens", [1, 50, 10**6])
def test_neighbours_do_not_matter(model, embeddings, batch_tokens):
    assert embeddings.shape == (31, 16)
    assert embeddings.dtype == np.float32
    close(model.encode(TEXTS, batch_tokens=batch_tokens), embeddings)
    close(np.stack([model.encode(text) for text in TEXTS]), embeddings)


def test_chunks_do_not_matter(model, embeddings, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    close(model.encode(TEXTS), embeddings)


def test_different_texts_have_different_embeddings(embeddings):
    """Else the tests of order say nothing."""
    distances = np.abs(embeddings[:, None] - embeddings[None]).max(-1)
    assert np.sort(distances, axis=1)[:, 1].min() > 1e-3


def test_no_texts(model):
    assert model.encode([]).shape == (0, 16)


def test_convert_to_tensor(model, embeddings):
    found = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)
    close(found.numpy(), embeddings)
    assert model.encode("read", convert_to_tensor=True).shape == (16,)


def test_truncated_then_normalized(model, embeddings):
    kept = embeddings[:, :5]
    close(model.encode(TEXTS, truncate_dim=5), kept)
    expected = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    close(model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True), expected)


def test_truncation_of_the_model_itself(tmp_path, model, embeddings):
    model.save(tmp_path / "m")
    shorter = SentenceTransformer(tmp_path / "m", truncate_dim=4)
    assert (shorter.width, shorter.out_width) == (16, 4)
    close(shorter.encode(TEXTS), embeddings[:, :4])
    close(shorter.encode(TEXTS, truncate_dim=9), embeddings[:, :9])


@pytest.mark.parametrize("dim", [0, -1, 17])
def test_impossible_truncation(tmp_path, model, dim):
    with pytest.raises(ValueError, match=f"truncate_dim is {dim}: use a number at least 1 and at most 16"):
        model.encode(TEXTS, truncate_dim=dim)


# ---------------------------------------------------------------- prompts


@pytest.fixture
def prompted():
    model = tiny_model()
    model.prompts |= {"query": "find: ", "document": "text: ", "topic": "sort: "}
    return model


def test_prompts_go_before_the_text(prompted):
    plain, found = prompted.encode(["read file"]), prompted.encode(["find: read file"])
    close(prompted.encode(["read file"], prompt="find: "), found)
    close(prompted.encode(["read file"], prompt_name="query"), found)
    close(prompted.encode_query(["read file"]), found)
    close(prompted.encode_document(["read file"]), prompted.encode(["text: read file"]))
    close(prompted.encode_query(["read file"], prompt=""), plain)
    close(prompted.encode_query(["read file"], prompt_name="topic"), prompted.encode(["sort: read file"]))
    close(prompted.encode_document(["read file"], prompt_name="query"), found)
    close(prompted.encode(["read file"], prompt_name="query", prompt="sort: "), prompted.encode(["sort: read file"]))
    assert np.abs(plain - found).max() > 1e-3


def test_default_prompt(prompted):
    expected = prompted.encode(["sort: read"])
    prompted.default_prompt_name = "topic"
    close(prompted.encode(["read"]), expected)
    close(prompted.encode(["sort: read"], prompt=""), expected)


def test_pairs_have_the_prompt_once(prompted):
    close(prompted.encode([("read", "file")], prompt_name="query"), prompted.encode([("find: read", "file")]))


def test_excluded_prompt_is_seen_but_not_pooled(prompted):
    texts = ["read file", "sort"]
    prompted.stack[1] = Pooling(16, ("mean",), include_prompt=False)
    tokens = prompted.tokenizer(["find: " + text for text in texts])
    states = prompted.stack[0](tokens.packed()).split(tokens.lengths.tolist())
    prompt = len(prompted.tokenizer(["find: "]).input_ids) - 1
    expected = torch.stack([x[prompt:].mean(0) for x in states])
    close(prompted.encode(texts, prompt_name="query"), expected.detach().numpy())


def test_unknown_prompt(prompted):
    with pytest.raises(ValueError, match="prompt name is 'quarry', known are query, document, topic"):
        prompted.encode("x", prompt_name="quarry")


# ---------------------------------------------------------------- forward, modes, types


def test_columns_are_embedded_in_one_pass(model, embeddings):
    columns = [model.tokenizer(TEXTS[a:b]).packed() for a, b in ((0, 4), (4, 4), (4, 31))]
    found = [x for (x,) in model(columns)]
    assert [len(x) for x in found] == [4, 0, 27]
    close(torch.cat(found).detach().numpy(), embeddings)


def test_no_texts_at_all_give_a_zero_gradient():
    """A rank may hold no row of a small batch; DDP still needs a gradient for every parameter."""
    model = tiny_model()
    nothing = torch.zeros(0, dtype=torch.long)
    ((found,),) = model([Packed.of(nothing, nothing)])
    assert found.shape == (0, 16)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_encode_leaves_the_mode_as_it_was():
    model = tiny_model(encoder={"hidden_dropout_prob": 0.5})
    evaluated = model.encode(TEXTS)
    model.train()
    close(model.encode(TEXTS), evaluated, 0)  # without dropout
    assert model.training
    assert model.stack[0].layers[0].dropout.training
    assert model.eval().encode(TEXTS[:1]) is not None and not model.training


def test_set_dropout():
    model = tiny_model()
    set_dropout(model, 0.3, -1)
    layer = model.stack[0].layers[1]
    assert (layer.dropout.p, layer.attention_dropout.p, model.stack[0].embeddings.dropout.p) == (0.3, 0.0, 0.3)
    set_dropout(model, -1, 0.2)
    assert (layer.dropout.p, layer.attention_dropout.p) == (0.3, 0.2)


def test_bfloat16_is_near(tmp_path, model, embeddings):
    model.save(tmp_path / "m")
    found = SentenceTransformer(tmp_path / "m", dtype="bfloat16").encode(TEXTS)
    assert found.dtype == np.float32
    cosines = (found * embeddings).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(embeddings, axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-7  # near, and not computed in single precision


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8', known are float32, bfloat16"),
        ({"device": "toaster"}, "device is 'toaster', which cannot be used here"),
        ({"truncate_dim": 99}, "truncate_dim is 99"),
    ],
)
def test_impossible_settings(tmp_path, model, settings, message):
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(tmp_path / "m", **settings)


def test_similarity_is_the_models_own(embeddings):
    model = tiny_model()
    close(np.diag(model.similarity(embeddings, embeddings)), np.ones(31))
    model.similarity_name = "dot"
    close(model.similarity(embeddings[:3], embeddings), embeddings[:3] @ embeddings.T, 1e-5)
    close(model.similarity_pairwise(embeddings, embeddings), (embeddings**2).sum(1), 1e-5)


# ---------------------------------------------------------------- prompts of documents


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ({}, ""),
        ({"document": "d: ", "passage": "p: ", "corpus": "c: "}, "d: "),
        ({"passage": "p: ", "corpus": "c: "}, "p: "),
        ({"corpus": "c: "}, "c: "),
    ],
)
def test_prompt_of_documents(prompts, expected):
    model = tiny_model()
    model.prompts |= prompts
    assert model.role_prompt("document") == expected
    close(model.encode_document(TEXTS), model.encode(TEXTS, prompt=expected))


def test_prompts_that_are_given(tmp_path, model):
    model.save(tmp_path / "m")
    opened = SentenceTransformer(
        tmp_path / "m", prompts={"query": "find: ", "topic": "sort: "}, default_prompt_name="topic"
    )
    close(opened.encode_query(TEXTS), model.encode(TEXTS, prompt="find: "))
    close(opened.encode(TEXTS), model.encode(TEXTS, prompt="sort: "))
    with pytest.raises(ValueError, match="the prompt name is 'other', known are query, document"):
        SentenceTransformer(tmp_path / "m", default_prompt_name="other")


# ---------------------------------------------------------------- fewer layers, fewer bits, tokens


def test_keep_layers(tmp_path, model, embeddings):
    model.save(tmp_path / "m")
    smaller = SentenceTransformer(tmp_path / "m", keep_layers=[1])
    assert len(smaller.stack[0].layers) == 1
    assert np.abs(smaller.encode(TEXTS) - embeddings).max() > 1e-3
    smaller.save(tmp_path / "s")
    close(SentenceTransformer(tmp_path / "s").encode(TEXTS), smaller.encode(TEXTS), 0)
    both = SentenceTransformer(tmp_path / "m", keep_layers=[0, 1])
    close(both.encode(TEXTS), embeddings)


@pytest.mark.parametrize("numbers", [[], [2], [1, 0], [0, 0], [-1]])
def test_layers_that_are_not_there(tmp_path, model, numbers):
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"keep_layers: given are .*, allowed are rising numbers from 0 to 1"):
        SentenceTransformer(tmp_path / "m", keep_layers=numbers)


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precision_comes_last(model, precision):
    ranges = merge_ranges([model.encode(TEXTS, truncate_dim=9, normalize_embeddings=True)])
    options = {"truncate_dim": 9, "normalize_embeddings": True}
    found = model.encode(TEXTS, precision=precision, ranges=ranges, **options)
    assert np.array_equal(found, quantize(model.encode(TEXTS, **options), precision, ranges))
    assert model.encode(TEXTS[3], precision=precision, ranges=ranges, **options).shape == found[3].shape
    assert model.encode(TEXTS, precision=precision, convert_to_tensor=True).dtype in (torch.int8, torch.uint8)


def test_unknown_precision(model):
    with pytest.raises(ValueError, match="precision is 'int4', known are float32"):
        model.encode(TEXTS, precision="int4")


def test_vectors_of_tokens(model, embeddings):
    found = model.encode_tokens(TEXTS)
    assert [len(tokens) for tokens in found] == model.tokenizer(TEXTS).lengths.tolist()
    close(np.stack([tokens.mean(0) for tokens in found]), embeddings)  # the model's pooling is a mean
    close(model.encode_tokens(TEXTS[3]), found[3])
    with_prompt = model.encode_tokens(TEXTS[3], prompt="sort: ")
    assert len(with_prompt) == model.tokenizer(["sort: " + TEXTS[3]]).lengths.item()
    assert model.encode_tokens([]) == []


def test_push_to_hub(model, embeddings, monkeypatch, tmp_path):
    """What is uploaded is the saved model; how, is hub.py's."""
    pushed = []

    def push(save, repo, *, private, token, revision):
        pushed.append((repo, private, token, revision))
        save(tmp_path, "me/mine")
        close(SentenceTransformer(tmp_path).encode(TEXTS), embeddings)
        return "address"

    monkeypatch.setattr(module, "push", push)
    assert model.push_to_hub("me/mine", private=True, token="t", revision="dev") == "address"
    assert pushed == [("me/mine", True, "t", "dev")]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_one_device(model, embeddings, device):
    close(model.encode(TEXTS, device=device), embeddings)


# ---------------------------------------------------------------- their arguments, half types, forks


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ({"batch_size": 32}, "batch_size: memory is bounded by batch_tokens"),
        ({"output_value": None}, "output_value: encode_tokens gives the vectors of tokens"),
        ({"convert_to_numpy": True}, "convert_to_numpy: numpy is what it gives, unless convert_to_tensor"),
        ({"pool": None}, "pool: give several devices"),
        ({"chunk_size": 100}, "chunk_size: memory is bounded by batch_tokens"),
        ({"normalize": True}, "normalize: it is called normalize_embeddings"),
        ({"colour": 3}, r"colour: help\(model.encode\) lists them"),
    ],
)
def test_arguments_of_sentence_transformers(model, argument, advice):
    for encode in (model.encode, model.encode_query):
        with pytest.raises(ValueError, match=f"^encode has no argument {advice}"):
            encode(TEXTS, **argument)


def test_float16_is_near(tmp_path, model, embeddings):
    model.save(tmp_path / "m")
    half = SentenceTransformer(tmp_path / "m", dtype="float16")
    assert half.dtype == torch.float16
    found = half.encode(TEXTS)
    assert found.dtype == np.float32
    assert 1e-7 < np.abs(found - embeddings).max() < 0.02


def test_rows_leave_the_device_chunk_by_chunk(model, embeddings, monkeypatch):
    """And lie in one array that is there from the start."""
    monkeypatch.setattr(module, "CHUNK", 7)
    made, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **options: made.append(size) or empty(*size, **options))
    close(model.encode(TEXTS), embeddings)
    assert made.count((31, 16)) == 1


FORK = """
import multiprocessing, sys
from minist import SentenceTransformer
from minist.training.run import set_dropout

model = SentenceTransformer(sys.argv[1], device="cpu")
texts = ["read write sort file list number"] * 3000
before = model.encode(texts)
def work(queue):
    queue.put(float(abs(model.encode(texts) - before).max()))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=work, args=(queue,))
process.start()
print(queue.get(timeout=100))
process.join()
"""


@pytest.mark.slow
def test_encode_in_a_process_that_was_forked_after_encode(tmp_path):
    """It waited for threads that only its parent has."""
    wide = {"hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}
    tiny_model(encoder=wide).save(tmp_path / "m")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FORK, str(tmp_path / "m")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
