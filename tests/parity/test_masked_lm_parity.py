"""The head that scores words beside transformers, whose AutoModelForMaskedLM opens what we save; BERT's masks."""

import pytest
import torch
from models import DATA
from tiny import sentences
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from minist import Packed
from minist.data.transforms import mask_words, vocabulary_of
from minist.losses.over_tokens import MaskedLMLoss
from minist.models.folder import content_of, load_module
from minist.models.masked_lm import MaskedLM
from minist.models.stack import Stack
from minist.modules.splade import scores

TINY = ["bert", "mpnet", "roberta", "distilbert", "modernbert"]
WIDTH = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
SHAPE = {"vocab_size": 90, "max_position_embeddings": 120, "pad_token_id": 1}
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 40}
CASES = {  # name -> (model_type, fields of its config)
    "bert": ("bert", WIDTH),
    "bert, relu": ("bert", WIDTH | {"hidden_act": "relu"}),
    "bert, untied": ("bert", WIDTH | {"tie_word_embeddings": False}),
    "mpnet": ("mpnet", WIDTH | {"layer_norm_eps": 1e-5}),
    "mpnet, untied": ("mpnet", WIDTH | {"tie_word_embeddings": False}),
    "roberta": ("roberta", WIDTH | {"layer_norm_eps": 1e-5, "type_vocab_size": 1}),
    "roberta, relu": ("roberta", WIDTH | {"layer_norm_eps": 1e-5, "hidden_act": "relu"}),  # its head knows gelu alone
    "roberta, untied": ("roberta", WIDTH | {"tie_word_embeddings": False}),
    "xlm-roberta": ("xlm-roberta", WIDTH | {"type_vocab_size": 1}),
    "distilbert": ("distilbert", DISTIL),
    "distilbert, relu": ("distilbert", DISTIL | {"activation": "relu"}),
    "distilbert, untied": ("distilbert", DISTIL | {"tie_word_embeddings": False}),
    "modernbert": ("modernbert", WIDTH),
    "modernbert, biases": ("modernbert", WIDTH | {"classifier_bias": True, "norm_bias": True, "norm_eps": 1e-3}),
    "modernbert, relu": ("modernbert", WIDTH | {"classifier_activation": "relu"}),
    "modernbert, untied": ("modernbert", WIDTH | {"tie_word_embeddings": False}),
}


def logits(model, packed):
    with torch.inference_mode():
        return scores(model.stack[1](model.stack[0](packed)))


@torch.inference_mode()
def check_same(model, real, ids, mask):
    packed = Packed.of(ids[mask], mask.sum(1))
    wanted = real.eval()(input_ids=ids, attention_mask=mask.long()).logits[mask]
    scale = max(1, wanted.abs().max().item())
    torch.testing.assert_close(logits(model, packed) / scale, wanted / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_logits(case, tmp_path):
    """Of random weights, and once more of what we save."""
    torch.seed()
    model_type, shape = CASES[case]
    real = AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_type, **SHAPE | shape))
    real.set_attn_implementation("eager")
    for parameter in real.parameters():
        drawn = torch.randn_like(parameter)
        parameter.data = 0.2 * drawn if parameter.ndim > 1 else parameter.data + 0.2 * drawn
    real.save_pretrained(tmp_path / "theirs")
    tokenizer = MaskedLM(DATA / "enc/bert_mlm").tokenizer  # any that has fewer words
    parts = [load_module(name, tmp_path / "theirs") for name in ("Transformer", "MaskedLMHead")]
    model = MaskedLM(content_of(Stack(parts), tokenizer))
    mask = torch.arange(50) < torch.tensor([1, 50, 7, 50])[:, None]
    ids = torch.randint(8, 90, mask.shape).masked_fill(~mask, 1)
    check_same(model, real, ids, mask)
    model.save(tmp_path / "ours")
    again, about = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert type(again) is type(real)
    unused = {"cls.predictions.bias", "lm_head.bias"} if "untied" in case else set()  # an untied decoder has its own
    assert set(about["missing_keys"]) <= unused
    assert not about["unexpected_keys"]
    check_same(model, again, ids, mask)


@pytest.mark.parametrize("name", TINY)
def test_checkpoints(name, tmp_path):
    """With their tokenizers, and the loss that transformers computes of labels."""
    folder = DATA / "enc" / f"{name}_mlm"
    MaskedLM(folder).save(tmp_path / "ours")
    texts = [text.replace("file", "unusual") for text in sentences(8)]
    model = MaskedLM(tmp_path / "ours")
    for place in (folder, tmp_path / "ours"):
        tokenizer = AutoTokenizer.from_pretrained(place)
        real = AutoModelForMaskedLM.from_pretrained(place, attn_implementation="eager").eval()
        batch = tokenizer(texts, padding=True, truncation=True, max_length=model.max_length, return_tensors="pt")
        mask = batch["attention_mask"].bool()
        packed = model.tokenizer(texts).packed()
        assert torch.equal(batch["input_ids"][mask], packed.input_ids)
        check_same(model, real, batch["input_ids"], mask)
        vocabulary = vocabulary_of(model.tokenizer)
        assert vocabulary.mask == tokenizer.mask_token_id
        columns = mask_words(packed, torch.arange(packed.n), vocabulary, 0.4, True, 0, 0)
        ids, labels = batch["input_ids"].clone(), torch.full_like(batch["input_ids"], -100)
        ids[mask], labels[mask] = columns[0].input_ids, columns[1].input_ids.masked_fill(columns[1].input_ids < 0, -100)
        with torch.inference_mode():
            wanted = real(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
            loss = MaskedLMLoss()
            found = loss(model, columns, (None,)) / loss.count(columns)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
