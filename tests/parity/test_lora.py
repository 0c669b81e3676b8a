"""Adapters go both ways between minist, PEFT and sentence-transformers, and give the same embeddings and scores."""

import warnings

import numpy as np
import pytest
import sentence_transformers
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import sentences
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from minist import CrossEncoder, SentenceTransformer, SparseEncoder
from minist.training.config import ModelConfig, TokenizerConfig
from minist.training.start import new_model

TEXTS = sentences(20, seed=3)
PAIRS = list(zip(TEXTS[:10], TEXTS[10:], strict=True))
COMMON = {"max_position_embeddings": 40, "initializer_range": 0.3}
WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES = {
    "bert": WIDTH,
    "mpnet": WIDTH,
    "roberta": WIDTH,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "modernbert": WIDTH | {"local_attention": 8},
}
TARGETS = {  # two, of which one is a part of our qkv, where there are parts
    "bert": ["query", "value", "intermediate.dense"],
    "mpnet": ["q", "o"],
    "roberta": ["key", "output.dense"],
    "distilbert": ["v_lin", "lin2"],
    "modernbert": ["Wqkv", "mlp.Wo"],
}


def base(family, folder):
    """A saved model with random weights."""
    torch.manual_seed(0)
    encoder = {"model_type": family} | FAMILIES[family] | COMMON
    tokenizer = TokenizerConfig(vocab_size=200, max_length=32)
    new_model(ModelConfig(encoder=encoder, tokenizer=tokenizer), sentences(100)).save(folder)
    return folder


def randomize(parameters, seed=0):
    """What is trained, so that it shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in parameters:
        if "lora_" in name or ".lora." in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=0)


def of_peft(model, folder):
    """The mean of the tokens' vectors, as PEFT's model gives them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        x = model.eval()(**read).last_hidden_state
    mask = read["attention_mask"][..., None]
    return (x * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["targets", "all", "rslora"])
def test_ours_in_theirs(family, how, tmp_path):
    model = SentenceTransformer(base(family, tmp_path / "base"))
    before = model.encode(TEXTS)
    model.add_adapter(4, 6, rslora=how == "rslora", targets=TARGETS[family] if how == "targets" else [])
    close(model.encode(TEXTS), before, 0)
    randomize(model.named_parameters())
    ours = model.encode(TEXTS)
    assert np.abs(ours - before).max() > 0.1
    model.save(tmp_path / "adapter")
    close(SentenceTransformer(tmp_path / "adapter").encode(TEXTS), ours, 0)
    close(SentenceTransformer(tmp_path / "base", adapter=tmp_path / "adapter").encode(TEXTS), ours, 0)
    real = sentence_transformers.SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    close(real.encode(TEXTS), ours)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*(missing|unexpected).*")
        wrapped = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter"))
    close(of_peft(wrapped, tmp_path / "base"), ours)
    model.merge_adapter()
    close(model.encode(TEXTS), ours, 1e-6)
    model.save(tmp_path / "merged")
    close(sentence_transformers.SentenceTransformer(str(tmp_path / "merged"), device="cpu").encode(TEXTS), ours)
