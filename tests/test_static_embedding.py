"""StaticEmbedding against loops over texts, and the folders of such models, of model2vec among them."""

import json
import shutil

import numpy as np
import pytest
import torch
from models import DATA
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend

from minist.data.packed import Packed
from minist.models.folder import load_folder
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Normalize
from minist.modules.static_embedding import StaticEmbedding, fold_model2vec

FOLDER = DATA / "folders" / "st6" / "static"
TEXTS = ["the cat sat", "", "zebra [CLS] cat cat", "[UNK]", "   "]
LENGTHS = [[3, 1, 4], [0, 2, 0, 0, 3, 0], [0], [0, 0], []]


def packed(lengths):
    ids = torch.arange(sum(lengths)) * 7 % 11
    return Packed.of(ids, torch.tensor(lengths, dtype=torch.long))


def slowly(weight, batch):
    """The mean of each text's rows; zero for a text without tokens."""
    rows = torch.zeros(batch.n, weight.shape[1], dtype=weight.dtype)
    for i in range(batch.n):
        ids = batch.input_ids[batch.cu_seqlens[i] : batch.cu_seqlens[i + 1]].tolist()
        for token in ids:
            rows[i] += weight[token] / len(ids)
    return rows


# ---------------------------------------------------------------- the module


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_equals_a_loop(lengths):
    module, batch = StaticEmbedding(11, 4).double(), packed(lengths)
    found = module(batch)
    torch.testing.assert_close(found, slowly(module.embedding.weight, batch), atol=1e-14, rtol=0)
    assert found.shape == (len(lengths), 4)
    assert not found[[i for i, length in enumerate(lengths) if length == 0]].any()
    assert module.out_width == 4


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_gradient(lengths):
    batch = packed(lengths)
    modules = [StaticEmbedding(11, 4).double() for _ in range(2)]
    modules[1].load_state_dict(modules[0].state_dict())
    weights = torch.arange(1.0, 4 * batch.n + 1, dtype=torch.float64).reshape(-1, 4)
    (modules[0](batch) * weights).sum().backward()
    (slowly(modules[1].embedding.weight, batch) * weights + 0 * modules[1].embedding.weight.sum()).sum().backward()
    found, expected = (module.embedding.weight.grad for module in modules)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    assert found.any() == (sum(lengths) > 0)


def test_bfloat16():
    module, batch = StaticEmbedding(11, 4).bfloat16(), packed([3, 0, 8])
    found = module(batch)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, slowly(module.embedding.weight.double(), batch).bfloat16(), atol=0.01, rtol=0.01)
    found.sum().backward()
    assert module.embedding.weight.grad.dtype == torch.bfloat16


# ---------------------------------------------------------------- vectors of model2vec

MAPPING = torch.tensor([2, 0, 0, 1, 2, 2])
WEIGHTS = torch.tensor([0.5, 0.25, 3.0, 0.1, 1.0, 0.0])
VECTORS = {
    torch.float32: torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
    torch.float16: torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).half(),
    torch.int8: torch.tensor([[-128, 127, 1], [3, -7, 50], [100, 0, -1], [9, 8, 7], [6, 5, 4], [1, 1, 1]]).to(
        torch.int8
    ),
}


@pytest.mark.parametrize("dtype", VECTORS, ids=str)
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("weighted", [None, torch.float16, torch.float32, torch.float64], ids=str)
def test_vectors_of_model2vec(dtype, mapped, weighted):
    """What model2vec averages: embedding[mapping[token]] * weights[token], in single precision at least."""
    state = {"embeddings": VECTORS[dtype][:3] if mapped else VECTORS[dtype]}
    state |= {"mapping": MAPPING} if mapped else {}
    weights = WEIGHTS.to(weighted or torch.float32)
    state |= {"weights": weights} if weighted else {}
    expected = np.zeros((6, 3))
    for token in range(6):
        row = state["embeddings"][MAPPING[token] if mapped else token].double().numpy()
        expected[token] = row * (weights[token].item() if weighted else 1)
    found = fold_model2vec(state)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=0)


def test_a_mapping_of_small_numbers():
    for dtype in (torch.int32, torch.int64, torch.uint8):
        found = fold_model2vec({"embeddings": VECTORS[torch.float32][:3], "mapping": MAPPING.to(dtype)})
        assert torch.equal(found, VECTORS[torch.float32][:3][MAPPING])


# ---------------------------------------------------------------- folders


def by_hand(folder, weight, texts):
    """Tokenized without special tokens, then the loop."""
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    ids = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    flat = torch.tensor([i for row in ids for i in row])
    return slowly(weight.double(), Packed.of(flat, torch.tensor([len(row) for row in ids]))).numpy()


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "m")
    return tmp_path / "m"


@pytest.fixture
def model2vec(folder):
    """A folder as model2vec saves one: int8 vectors that tokens share, and a weight for each token."""
    count = Backend.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    draw = torch.Generator().manual_seed(0)
    state = {
        "embeddings": torch.randint(-128, 128, (7, 3), generator=draw, dtype=torch.int8),
        "mapping": torch.randint(7, (count,), generator=draw),
        "weights": torch.rand(count, generator=draw, dtype=torch.float64),
    }
    save_file(state, folder / "model.safetensors")
    (folder / "config_sentence_transformers.json").unlink()
    about = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True}
    (folder / "config.json").write_text(json.dumps(about))
    entries = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
    entries += [{"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}]
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def test_folder(folder, tmp_path):
    weight = load_file(folder / "model.safetensors")["embedding.weight"]
    model = SentenceTransformer(folder)
    found = model.encode(TEXTS)
    np.testing.assert_allclose(found, by_hand(folder, weight, TEXTS), atol=1e-6, rtol=0)
    assert found[0].any() and not found[1].any() and not found[4].any()
    assert model.width == weight.shape[1]
    model.save(tmp_path / "again")
    files = {path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*.*")}
    own = {"model.safetensors", "tokenizer.json", "modules.json", "config_sentence_transformers.json"}
    assert files == own | {"README.md"}
    assert torch.equal(load_file(tmp_path / "again/model.safetensors")["embedding.weight"], weight)
    assert np.array_equal(SentenceTransformer(tmp_path / "again").encode(TEXTS), found)


def test_texts_are_not_cut_unless_the_tokenizer_says_so(folder, tmp_path):
    long = " ".join(["cat"] * 600 + ["zebra"] * 600)
    weight = load_file(folder / "model.safetensors")["embedding.weight"]
    found = SentenceTransformer(folder).encode([long])
    np.testing.assert_allclose(found, by_hand(folder, weight, [long]), atol=1e-5, rtol=0)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(5)
    backend.save(str(folder / "tokenizer.json"))
    model = SentenceTransformer(folder)
    np.testing.assert_allclose(model.encode(["cat " * 5 + "zebra"]), model.encode(["cat"]), atol=1e-6, rtol=0)
    model.save(tmp_path / "again")
    assert SentenceTransformer(tmp_path / "again").tokenizer.max_length == 5


@pytest.mark.parametrize("modules", [True, False])
def test_folder_of_model2vec(model2vec, tmp_path, modules):
    if not modules:
        (model2vec / "modules.json").unlink()
    vectors = fold_model2vec(load_file(model2vec / "model.safetensors"))
    expected = by_hand(model2vec, vectors, TEXTS)
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    model = SentenceTransformer(model2vec)
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-6, rtol=0)
    assert [type(module) for module in model.stack] == [StaticEmbedding, Normalize]
    model.save(tmp_path / "again")
    assert torch.equal(load_file(tmp_path / "again/model.safetensors")["embedding.weight"], vectors)
    assert np.array_equal(SentenceTransformer(tmp_path / "again").encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("normalize", [False, None])
def test_model2vec_without_normalize(model2vec, normalize):
    (model2vec / "modules.json").unlink()
    about = {"model_type": "model2vec"} | ({} if normalize is None else {"normalize": normalize})
    (model2vec / "config.json").write_text(json.dumps(about))
    assert [type(module) for module in load_folder(model2vec).stack] == [StaticEmbedding]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"vectors": torch.ones(2, 2)}, r"have neither embedding\.weight nor, as of model2vec, embeddings"),
        ({"embeddings": torch.ones(2, 2), "mapping": torch.tensor([0, 2])}, "is not as a saved model has it"),
        ({"embeddings": torch.ones(2, 2), "weights": torch.ones(3)}, "is not as a saved model has it"),
        ({"embeddings": torch.ones(2)}, "is not as a saved model has it"),
        ({"embeddings": torch.ones(2, 2)}, r"tokenizer\.json has \d\d tokens, the model 2"),
    ],
)
def test_vectors_that_do_not_fit(folder, state, message):
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_folder(folder)


def test_no_vectors_of_tokens(folder):
    model = SentenceTransformer(folder)
    with pytest.raises(ValueError, match="a StaticEmbedding knows no vector of a token in its text"):
        model.encode_tokens(TEXTS)
    with pytest.raises(ValueError, match="keep_layers needs a model with an encoder"):
        model.keep_layers([0])
