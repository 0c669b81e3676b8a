"""Model folders go both ways: what either library saves, the other opens, and gives the same embeddings."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from models import DATA, real_model
from sentence_transformers import SentenceTransformer as Real
from sentence_transformers.base import modules as real_base
from sentence_transformers.sentence_transformer import modules as real_modules
from tokenizers import Tokenizer as Backend
from torch import nn
from transformers import AutoTokenizer

from minist import SentenceTransformer
from minist.data.tokenizer import Tokenizer
from minist.training.config import ModelConfig, PoolingConfig, TokenizerConfig
from minist.training.start import new_model, with_components

FOLDERS = ["st5/dense", "st5/dense2", "st6/dense", "st6/dense2"]
TEXTS = ["The cat sat.", "a", "", "the cat sat, the cat? sat zebra quiz", "sat the", "🙂 猫", "quiz, " * 9]
PAIRS = [("the cat", "sat."), ("a", "the cat sat, the cat? sat zebra quiz"), ("", "b"), ("zebra", "")]


def ours(folder):
    return SentenceTransformer(folder, device="cpu")


def theirs(folder, **options):
    return Real(str(folder), device="cpu", **options)


def check_same(model, real, texts=TEXTS):
    """All ways to encode give the same."""
    a = model.encode(texts)
    check_close(a, real.encode(texts))
    check_close(model.encode_query(texts), real.encode_query(texts))
    check_close(model.encode_document(texts), real.encode_document(texts))
    # its tokens are left out of pooling where the folder says include_prompt = false
    check_close(model.encode(texts, prompt="the cat sat: "), real.encode(texts, prompt="the cat sat: "))
    half = {"truncate_dim": a.shape[1] // 2, "normalize_embeddings": True}
    check_close(model.encode(texts, **half), real.encode(texts, **half))
    check_close(model.similarity(a, a), real.similarity(a, a))
    check_close(model.similarity_pairwise(a, a[::-1].copy()), real.similarity_pairwise(a, a[::-1].copy()))


def check_same_pairs(model, real):
    """Pairs are one sequence; whether its second text has token type 1 is for the tokenizer's config to say."""
    check_close(model.encode(PAIRS), real.encode([list(pair) for pair in PAIRS]))


def check_close(a, b):
    a, b = np.asarray(a), np.asarray(b)
    scale = max(1, np.abs(b).max())  # some of the models have no Normalize
    np.testing.assert_allclose(a / scale, b / scale, atol=1e-6, rtol=0)


# ---------------------------------------------------------------- folders of both generations


@pytest.mark.parametrize("name", [*FOLDERS, "st6/static"])
def test_opens_and_embeds_the_same(name):
    check_same(ours(DATA / "folders" / name), theirs(DATA / "folders" / name))


@pytest.mark.parametrize("name", FOLDERS)
def test_pairs(name):
    check_same_pairs(ours(DATA / "folders" / name), theirs(DATA / "folders" / name))


def test_saved_prompt_changes_queries():
    """Otherwise the comparison of encode_query above would say little."""
    model = ours(DATA / "folders" / "st6" / "dense")
    assert model.prompts["query"] == "q: "
    assert np.abs(model.encode_query(TEXTS) - model.encode(TEXTS)).max() > 0.1


def test_saved_truncate_dim():
    folder = DATA / "folders" / "st6" / "dense2"
    assert ours(folder).encode(TEXTS).shape == theirs(folder).encode(TEXTS).shape == (len(TEXTS), 4)


# ---------------------------------------------------------------- ours, opened by the real library


@pytest.mark.parametrize("name", FOLDERS)
def test_saved_again(name, tmp_path):
    ours(DATA / "folders" / name).save(tmp_path / "model")
    check_same(ours(tmp_path / "model"), theirs(tmp_path / "model"))
    check_same(ours(tmp_path / "model"), theirs(DATA / "folders" / name))
    check_same_pairs(ours(DATA / "folders" / name), theirs(tmp_path / "model"))


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all-mpnet-base-v2"])
def test_real_model_saved_again(name, tmp_path):
    folder = real_model(name)
    model, real = ours(folder), theirs(folder)
    model.save(tmp_path / "model")
    long = "the cat sat on the mat. " * 100  # longer than the model takes
    check_close(theirs(tmp_path / "model").encode([*TEXTS, long]), real.encode([*TEXTS, long]))
    check_same(ours(tmp_path / "model"), real)
    check_same_pairs(model, real)
    check_same_pairs(model, theirs(tmp_path / "model"))


ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,  # so that attention is far from uniform
}


DISTILBERT = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


def from_scratch(model_type, mode):
    torch.manual_seed(0)
    config = ModelConfig(
        encoder=(DISTILBERT if model_type == "distilbert" else ENCODER) | {"model_type": model_type},
        tokenizer=TokenizerConfig(vocab_size=100, max_length=24),
        pooling=PoolingConfig(mode),
    )
    return new_model(config, TEXTS * 3).eval()


MODEL_TYPES = ["bert", "mpnet", "roberta", "xlm-roberta", "distilbert", "modernbert"]


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_model_from_scratch(model_type, mode, tmp_path):
    model = from_scratch(model_type, mode)
    model.prompts = {"query": "the quiz: ", "document": "sat "}
    model.save(tmp_path / "model")
    texts = [*TEXTS, "unknown ☃ words ☃"]  # in this vocabulary the unknown token has MPNet's padding id
    check_same(model, theirs(tmp_path / "model"), texts)
    check_same(ours(tmp_path / "model"), theirs(tmp_path / "model"), texts)
    check_same_pairs(model, theirs(tmp_path / "model"))
    check_same_pairs(ours(tmp_path / "model"), theirs(tmp_path / "model"))


@pytest.mark.parametrize("start", ["pca", "static"])
def test_other_starts(start, tmp_path):
    static = ModelConfig(encoder={"model_type": "static"}, tokenizer=TokenizerConfig(vocab_size=100, max_length=24))
    model = new_model(static, TEXTS * 3)
    if start == "pca":
        model = with_components(from_scratch("bert", "mean"), TEXTS, 6)
    model.save(tmp_path / "model")
    for opened in (model, ours(tmp_path / "model")):
        check_same(opened, theirs(tmp_path / "model"), [*TEXTS, "the cat sat on the mat. " * 9])  # and one that is cut


def test_half_precision_model(tmp_path):
    """Its weights are saved as they are, and read as float32."""
    from_scratch("bert", "mean").to(torch.bfloat16).save(tmp_path / "model")
    check_same(ours(tmp_path / "model"), theirs(tmp_path / "model", model_kwargs={"dtype": "float32"}))


# ---------------------------------------------------------------- theirs, opened by us


@pytest.mark.parametrize("name", FOLDERS)
def test_saved_by_the_real_library(name, tmp_path):
    real = theirs(DATA / "folders" / name)
    real.prompts |= {"query": "quiz: ", "other": "zebra "}
    real.default_prompt_name = "other"
    real.save(str(tmp_path / "model"), create_model_card=False)
    check_same(ours(tmp_path / "model"), real)
    check_same(ours(tmp_path / "model"), theirs(tmp_path / "model"))


POOLINGS = [
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
    ("lasttoken", "mean", "cls"),
]
ACTIVATIONS = [nn.Tanh, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.PReLU, nn.Hardtanh, nn.Softplus]


def goes_both_ways(parts, tmp_path):
    """Saved by the real library, by us after it, opened by both: all the same."""
    real = Real(modules=parts, device="cpu")
    real.save(str(tmp_path / "theirs"), create_model_card=False)
    check_same(ours(tmp_path / "theirs"), real)
    ours(tmp_path / "theirs").save(tmp_path / "ours")
    check_same(ours(tmp_path / "ours"), real)
    check_same(ours(tmp_path / "ours"), theirs(tmp_path / "ours"))


def transformer(**options):
    return real_base.Transformer(str(DATA / "folders" / "st6" / "dense"), **options)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling, activation", list(zip(POOLINGS, ACTIVATIONS, strict=True)), ids=str)
def test_poolings_and_activations(pooling, activation, include_prompt, tmp_path):
    torch.manual_seed(0)
    pool = real_modules.Pooling(16, pooling_mode=pooling, include_prompt=include_prompt)
    dense = real_base.Dense(pool.get_embedding_dimension(), 7, bias=False, activation_function=activation())
    goes_both_ways([transformer(), pool, dense, real_base.Normalize()], tmp_path)


@pytest.mark.parametrize("width", [16, 6])
def test_layer_norm_dropout_and_residual(width, tmp_path):
    torch.manual_seed(0)
    norm = real_modules.LayerNorm(width)
    torch.nn.init.normal_(norm.norm.weight)
    dense = real_base.Dense(16, width, use_residual=True)
    goes_both_ways([transformer(), real_modules.Pooling(16), dense, real_modules.Dropout(0.3), norm], tmp_path)


def test_dense_and_normalize_before_the_pooling(tmp_path):
    torch.manual_seed(0)
    dense = real_base.Dense(16, 6, module_input_name="token_embeddings")
    normalize = real_base.Normalize(module_input_name="token_embeddings")
    goes_both_ways([transformer(), dense, normalize, real_modules.Pooling(6), real_base.Normalize()], tmp_path)


@pytest.mark.parametrize("first_layer", [0, 1, 2])
def test_weighted_layer_pooling(first_layer, tmp_path):
    torch.manual_seed(0)
    layers = real_modules.WeightedLayerPooling(16, num_hidden_layers=2, layer_start=first_layer)
    torch.nn.init.uniform_(layers.layer_weights)
    first = transformer(config_kwargs={"output_hidden_states": True})
    goes_both_ways([first, layers, real_modules.Pooling(16)], tmp_path)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_hidden_states_of_every_family(model_type, tmp_path):
    torch.manual_seed(0)
    from_scratch(model_type, "mean").save(tmp_path / "plain")
    first = real_base.Transformer(str(tmp_path / "plain"), config_kwargs={"output_hidden_states": True})
    layers = real_modules.WeightedLayerPooling(16, num_hidden_layers=2, layer_start=0)
    torch.nn.init.uniform_(layers.layer_weights)
    goes_both_ways([first, layers, real_modules.Pooling(16)], tmp_path)


def test_static_embedding(tmp_path):
    torch.manual_seed(0)
    tokenizer = Backend.from_file(str(DATA / "folders" / "st6" / "dense" / "tokenizer.json"))
    tokenizer.no_truncation()
    static = real_modules.StaticEmbedding(tokenizer, embedding_dim=12)
    goes_both_ways([static, real_base.Dense(12, 8), real_base.Normalize()], tmp_path)


def test_static_embedding_cuts_where_its_tokenizer_says(tmp_path):
    tokenizer = Backend.from_file(str(DATA / "folders" / "st6" / "dense" / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    goes_both_ways([real_modules.StaticEmbedding(tokenizer, embedding_dim=12)], tmp_path)


@pytest.mark.parametrize("numbers", [[0], [1], [0, 1]])
def test_layers_that_are_kept(numbers, tmp_path):
    model = SentenceTransformer(DATA / "folders" / "st6" / "dense", device="cpu", keep_layers=numbers)
    real = theirs(DATA / "folders" / "st6" / "dense")
    layers = real[0].model.encoder.layer
    real[0].model.encoder.layer = nn.ModuleList(layers[i] for i in numbers)
    check_same(model, real)
    model.save(tmp_path / "ours")
    check_same(ours(tmp_path / "ours"), theirs(tmp_path / "ours"))


@pytest.mark.parametrize(
    "prompts", [{"passage": "cat "}, {"corpus": "cat "}, {"document": "zebra ", "passage": "cat "}]
)
def test_prompt_of_documents(prompts, tmp_path):
    """The first of document, passage and corpus. The real library always has a "document", empty if need be, and so
    never gets to the others when it has opened a folder; here the others count where "document" is empty."""
    model = ours(DATA / "folders" / "st6" / "dense")
    model.prompts = {"query": "quiz: "} | prompts
    real = theirs(DATA / "folders" / "st6" / "dense")
    real.prompts = dict(model.prompts)
    check_close(model.encode_document(TEXTS), real.encode_document(TEXTS))


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precision(precision):
    """A last bit of a float may cross a step; on 7 x 16 numbers of the same machine none does."""
    folder = DATA / "folders" / "st6" / "dense"
    a, b = ours(folder).encode(TEXTS, precision=precision), theirs(folder).encode(TEXTS, precision=precision)
    assert a.dtype == b.dtype
    assert np.abs(a.astype(int) - b.astype(int)).max() <= (1 if "int8" in precision else 0)


def test_token_embeddings():
    folder = DATA / "folders" / "st6" / "dense"
    found = ours(folder).encode_tokens(TEXTS, prompt="the cat: ")
    wanted = theirs(folder).encode(TEXTS, output_value="token_embeddings", prompt="the cat: ")
    for a, b in zip(found, wanted, strict=True):
        check_close(a, b)


# ---------------------------------------------------------------- tokenizers


def random_text(draw):
    words = ["the", "cat", "sat", ",", "quiz?", "zebra", "xyz", "🙂", "猫", "É", "[SEP]", "[MASK]", "  ", "\t", "\n"]
    return " ".join(draw.choices(words, k=draw.choice([0, 1, 2, 5, 10, 40])))


@pytest.mark.parametrize("max_length", [4, 5, 12, 30, 60])
@pytest.mark.parametrize("name", ["folders/st5/dense", "folders/st6/dense2", "enc/bert_cls", "enc/mpnet"])
def test_tokens(name, max_length):
    draw = random.Random(max_length)
    texts = [random_text(draw) for _ in range(60)]
    pairs = [(random_text(draw), random_text(draw)) for _ in range(60)]
    check_tokens(DATA / name, max_length, texts, pairs)


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all-mpnet-base-v2", "splade-tiny"])
def test_tokens_of_real_models(name):
    draw = random.Random(0)
    texts = [random_text(draw) + " ".join(draw.choices(TEXTS, k=3)) for _ in range(100)]
    check_tokens(real_model(name), 16, texts, list(zip(texts[:50], texts[50:], strict=True)))


def check_tokens(folder, max_length, texts, pairs):
    real = AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer(Backend.from_file(str(folder / "tokenizer.json")), max_length)
    options = {"truncation": "longest_first", "max_length": max_length, "return_token_type_ids": True}
    for batch, wanted in (
        (texts, real(texts, **options)),
        (pairs, real([a for a, _ in pairs], [b for _, b in pairs], **options)),
    ):
        tokens = tokenizer(batch)
        assert tokens.lengths.tolist() == [len(ids) for ids in wanted["input_ids"]]
        assert tokens.input_ids.tolist() == [i for ids in wanted["input_ids"] for i in ids]
        assert tokens.token_type_ids.tolist() == [i for ids in wanted["token_type_ids"] for i in ids]


# ---------------------------------------------------------------- plain checkpoints and older folders


@pytest.fixture
def checkpoint(tmp_path):
    """A BERT as others publish it: no module list, and a tokenizer whose class knows its special tokens."""
    folder = tmp_path / "checkpoint"
    from_scratch("bert", "mean").save(folder)
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def test_a_plain_checkpoint_saved_can_be_encoded(checkpoint, tmp_path):
    """The real library pads, and asks the tokenizer's config with which token."""
    model = ours(checkpoint)
    model.save(tmp_path / "model")
    check_close(theirs(tmp_path / "model").encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("lower", [True, False, None])
def test_vocab_txt_alone(checkpoint, lower):
    vocabulary = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    (checkpoint / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", "utf-8")
    (checkpoint / "tokenizer.json").unlink()
    about = {"tokenizer_class": "BertTokenizer"} | ({} if lower is None else {"do_lower_case": lower})
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(about))
    model, real = ours(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    for text in [*TEXTS, "Ünïcode É, THE CAT", "[SEP] the [MASK]"]:
        assert model.tokenizer([text]).input_ids.tolist() == real(text)["input_ids"]
    for a, b in PAIRS:
        wanted = real([a], [b], return_token_type_ids=True)  # of a single pair it takes an empty text for none
        tokens = model.tokenizer([(a, b)])
        assert [tokens.input_ids.tolist()] == wanted["input_ids"]
        assert [tokens.token_type_ids.tolist()] == wanted["token_type_ids"]


@pytest.mark.parametrize("kind", ["BertTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("in_json", [True, False])
def test_do_lower_case_in_tokenizer_config(checkpoint, kind, lower, in_json):
    content = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))
    content["normalizer"]["lowercase"] = in_json
    (checkpoint / "tokenizer.json").write_text(json.dumps(content))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "do_lower_case": lower}))
    model, real = ours(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    for text in ("The CAT sat", "the cat"):
        assert model.tokenizer([text]).input_ids.tolist() == real(text)["input_ids"]
