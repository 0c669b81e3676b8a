"""A vocabulary of the texts at hand, and random weights."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import ENCODER, ROOT, WORDS, sentences

from minist.training.config import ModelConfig, PoolingConfig, TokenizerConfig
from minist.training.start import new_encoder, new_model, train_wordpiece

CODE = """
from minist.training.config import TokenizerConfig
from minist.training.start import train_wordpiece
texts = [a + b + " " + b for a in ("ab", "ba", "aab", "zé") for b in ("cd", "dc", "xyz", "q")]  # many ties
print(train_wordpiece(texts, TokenizerConfig(vocab_size=30, max_length=16)).to_json())
"""


@pytest.mark.slow
def test_training_is_deterministic():
    outputs = []
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-c", CODE]
        outputs.append(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])["model"]["vocab"]) == 30  # fewer than there are pieces, so ties decide


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(sentences(200), TokenizerConfig(vocab_size=60, max_length=32))


def test_vocabulary(tokenizer):
    vocabulary = tokenizer.backend.get_vocab()
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3, 4]
    assert sorted(vocabulary.values()) == list(range(60))
    first = {word[0] for word in WORDS}
    inside = {f"##{letter}" for word in WORDS for letter in word[1:]}
    assert first | inside <= vocabulary.keys()  # so no word of the texts is unknown
    assert not any(ord(letter) > 0xFFFF for piece in vocabulary for letter in piece)  # no mark of the training is left


def test_pieces_put_together_give_the_words(tokenizer):
    for text in sentences(30, seed=9):
        pieces = tokenizer.backend.encode(text).tokens[1:-1]
        assert " ".join(pieces).replace(" ##", "") == text


def test_frequent_words_are_one_piece():
    tokenizer = train_wordpiece(["banana ananas"] * 5 + ["xy"], TokenizerConfig(vocab_size=100, max_length=16))
    assert tokenizer.backend.encode("banana ananas").tokens[1:-1] == ["banana", "ananas"]
    assert tokenizer.backend.encode("xy").tokens[1:-1] == ["x", "##y"]  # seen once


ODD = [
    "é ñ\x00a\u200bb \x1cc\x85d\u00a0e\u3000f",
    "中文字符 mixed中a  double  space \u2028para\u2029g",
    "a\u0301 \u0301b co\u0301mbine \ufb01 \u1e9e \u0130i",
    "tab\tnew\nline\r\nend ##a ##b don't-stop… \ufffd \ue000",
    "x" * 300,
    "",
]


@pytest.mark.parametrize("lower_case", [True, False])
def test_words_are_those_that_a_text_is_cut_into(lower_case):
    """Also where a text has other spaces than " ", or none: it is taken apart at these first."""
    texts, config = ODD * 2 + sentences(30), TokenizerConfig(vocab_size=150, max_length=16, lower_case=lower_case)
    backend = train_wordpiece(texts, config).backend
    words = [backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)) for text in texts]
    same = train_wordpiece([word for text in words for word, _ in text], config).backend
    assert backend.to_str() == same.to_str()
    assert {"é" if not lower_case else "e", "中", "##b"} <= backend.get_vocab().keys()


@pytest.mark.parametrize(("lower_case", "same"), [(True, True), (False, False)])
def test_case(lower_case, same):
    config = TokenizerConfig(vocab_size=100, max_length=16, lower_case=lower_case)
    tokenizer = train_wordpiece(["Read read"] * 3, config)
    assert (tokenizer.backend.encode("READ").ids == tokenizer.backend.encode("read").ids) == same


def test_more_of_a_word_than_are_counted_at_once():
    """The more frequent of two pieces is learned, by a few."""
    for first, second in (("abab", "cdcd"), ("cdcd", "abab")):
        texts = [f"{first} " * 2101, *[second] * 2099]
        pieces = train_wordpiece(texts, TokenizerConfig(vocab_size=14, max_length=16)).backend.get_vocab()
        assert first in pieces and second[:2] not in pieces


def test_weights_depend_on_the_seed_alone():
    def weights(seed):
        torch.manual_seed(seed)
        config = ModelConfig(encoder=ENCODER, tokenizer=TokenizerConfig(vocab_size=100, max_length=32))
        return torch.cat([p.flatten() for p in new_model(config, sentences(20)).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_initial_weights():
    encoder = new_encoder(ENCODER | {"hidden_size": 64, "vocab_size": 500, "initializer_range": 0.02}, 32)
    for name, parameter in encoder.named_parameters():
        if name == "embeddings.position.weight":
            assert not parameter.any()
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name  # the smallest has 128 values
            assert abs(parameter.mean().item()) < 0.01, name
        else:
            assert (parameter == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all(), name


def test_pooling_and_length_are_as_asked():
    tokenizer = TokenizerConfig(vocab_size=100, max_length=20)
    model = new_model(ModelConfig(encoder=ENCODER, tokenizer=tokenizer, pooling=PoolingConfig("cls")), sentences(20))
    assert model.stack[1].modes == ("cls",)
    assert model.tokenizer.max_length == 20
    assert model.stack[0].config.vocab_size == model.tokenizer.vocab_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt"}, "model_type in .* is 'gpt', known are bert, mpnet"),
        ({"width": 3}, "has no key 'width', the nearest is .*; known are vocab_size, hidden_size"),
        ({"hidden_size": 15}, "hidden_size 15 is no multiple of"),
        ({"max_position_embeddings": 8}, "max_length in \\[model.tokenizer\\] is 32: use a number at most 8"),
        ({"model_type": "mpnet", "max_position_embeddings": 33}, "is 32: use a number at most 31"),
        ({"hidden_act": "sine"}, "hidden_act is 'sine', known are gelu"),
    ],
)
def test_impossible_encoders(changes, message):
    with pytest.raises(ValueError, match=message):
        new_encoder(ENCODER | {"vocab_size": 100} | changes, 32)
