"""Models that people use, against what was recorded of them."""

from itertools import islice

import numpy as np
import pytest
import torch
from models import docstrings, real_model
from safetensors.torch import load_file

from minist import SentenceTransformer

pytestmark = pytest.mark.real_model

QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = [
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]
RECORDED = {  # by the real library, in bf16: hence the tolerance
    "all-MiniLM-L6-v2": [0.46371, 0.81205, 0.72828, 0.75051],
    "all-mpnet-base-v2": [0.46649, 0.77837, 0.69281, 0.70254],
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_similarities(name):
    model = SentenceTransformer(real_model(name), device="cpu")
    scores = model.similarity(model.encode_query([QUERY]), model.encode_document(DOCUMENTS))
    assert scores[0].tolist() == pytest.approx(RECORDED[name], rel=0.01)


def test_plain_checkpoint_with_old_names():
    """A masked language model of 2018: its norms are called gamma and beta, there is no modules.json."""
    folder = real_model("splade-tiny")
    model = SentenceTransformer(folder, device="cpu")
    state = load_file(folder / "model.safetensors")
    norm = model.stack[0].layers[1].output_norm
    assert torch.equal(norm.weight, state["bert.encoder.layer.1.output.LayerNorm.gamma"])
    assert torch.equal(norm.bias, state["bert.encoder.layer.1.output.LayerNorm.beta"])
    own, twin, other = model.encode(["a cat sat on the mat", "the cat sits on a mat", "interest rates were raised"])
    assert np.dot(own, twin) > np.dot(own, other)


@pytest.fixture(scope="module")
def minilm():
    return SentenceTransformer(real_model("all-MiniLM-L6-v2"), device="cpu")


def test_one_string_gives_one_vector(minilm):
    vector = minilm.encode(QUERY)
    assert vector.shape == (384,)
    np.testing.assert_allclose(vector, minilm.encode([QUERY, *DOCUMENTS])[0], atol=1e-6)


def random_texts(random, count):
    """Cut at random: lengths from nothing to more than the model takes."""
    whole = list(islice(docstrings(), 400))
    sizes = 10 ** random.uniform(0, 3.4, count)  # characters, as many short texts as long ones
    return [whole[random.integers(len(whole))][: int(size)] for size in sizes]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_independent_of_batch_size_order_and_neighbours(minilm, seed):
    random = np.random.default_rng(seed)
    texts = random_texts(random, 24)
    alone = np.stack([minilm.encode(text) for text in texts])
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-6)
    for batch_tokens in (1, 100, 700, 100_000):
        rows = random.permutation(len(texts))[: random.integers(2, len(texts) + 1)]
        together = minilm.encode([texts[row] for row in rows], batch_tokens=batch_tokens)
        np.testing.assert_allclose(together, alone[rows], atol=1e-6, rtol=0)
