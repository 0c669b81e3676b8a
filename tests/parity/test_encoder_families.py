"""The encoders beside transformers: the same hidden states from random weights, and files that go both ways."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from minist import Packed
from minist.encoders.families import ENCODERS

SHAPE = {"vocab_size": 90, "max_position_embeddings": 120, "pad_token_id": 1}
WIDTH = {"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 40}
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True}
LENGTHS = [1, 2, 100, 5, 37, 100, 9]
CASES = {  # name -> (model_type, fields of its config)
    "bert": ("bert", WIDTH),
    "mpnet": ("mpnet", WIDTH),
    "roberta": ("roberta", WIDTH | {"layer_norm_eps": 1e-5, "type_vocab_size": 1}),
    "roberta, another padding id": ("roberta", WIDTH | {"pad_token_id": 7}),
    "xlm-roberta": ("xlm-roberta", WIDTH | {"type_vocab_size": 2}),
    "distilbert": ("distilbert", {"dim": 24, "n_layers": 5, "n_heads": 3, "hidden_dim": 40, "activation": "relu"}),
    "distilbert, sines": ("distilbert", {"dim": 24, "n_layers": 5, "n_heads": 3, "sinusoidal_pos_embds": True}),
    "modernbert": ("modernbert", WIDTH | {"local_attention": 8}),
    "modernbert, biases": ("modernbert", WIDTH | BIASES | {"local_attention": 9}),
    "modernbert, norm biases": ("modernbert", WIDTH | {"norm_bias": True, "local_attention": 8}),
    "modernbert, no neighbours": ("modernbert", WIDTH | {"local_attention": 1}),
    "modernbert, every second": (
        "modernbert",
        WIDTH
        | {"local_attention": 6, "global_attn_every_n_layers": 2, "global_rope_theta": 90.0, "local_rope_theta": 9.0},
    ),
    "modernbert, kinds and bases": (
        "modernbert",
        WIDTH
        | {
            "local_attention": 8,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 3000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
            },
        },
    ),
}


def theirs(case, auto=AutoModel):
    """A model of transformers with large random weights, so that attention is far from uniform."""
    model_type, shape = CASES[case]
    model = auto.from_config(AutoConfig.for_model(model_type, **SHAPE | shape))
    model.set_attn_implementation("eager")
    for parameter in model.parameters():
        drawn = torch.randn_like(parameter)
        parameter.data = 0.2 * drawn if parameter.ndim > 1 else parameter.data + 0.2 * drawn
    return model.eval()


def ours(folder):
    """Read what lies in a folder."""
    content = json.loads((folder / "config.json").read_text("utf-8"))
    return ENCODERS[content["model_type"]].from_folder(content, load_file(folder / "model.safetensors")).eval()


def write(encoder, folder):
    """As a saved model has it; a field that is None is left out."""
    folder.mkdir()
    config, weights = encoder.to_folder()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def draw_texts(padding_id):
    """A padded batch with its mask, and the same texts packed; no padding id stands in a text."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    ids = torch.randint(8, 90, mask.shape).masked_fill(~mask, padding_id)
    return ids, mask, Packed.of(ids[mask], torch.tensor(LENGTHS))


@torch.inference_mode()
def check_same(encoder, model, padding_id):
    """All hidden states."""
    ids, mask, packed = draw_texts(padding_id)
    output = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    states = list(encoder.hidden_states(packed))
    assert len(states) == len(output.hidden_states) == 6
    for given, wanted in zip(states, output.hidden_states, strict=True):
        check_close(given, wanted[mask])
    check_close(encoder(packed), output.last_hidden_state[mask])


def check_close(given, wanted):
    """1e-5 of their size: a ModernBERT is normalized only at its end, and grows to some hundreds on the way."""
    scale = max(1, wanted.abs().max().item())
    torch.testing.assert_close(given / scale, wanted / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_hidden_states(case, tmp_path):
    torch.seed()
    model = theirs(case)
    model.save_pretrained(tmp_path / "theirs")
    encoder = ours(tmp_path / "theirs")
    check_same(encoder, model, model.config.pad_token_id)
    write(encoder, tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert type(again) is type(model)
    check_same(encoder, again.eval(), model.config.pad_token_id)


@pytest.mark.parametrize("case", CASES)
def test_inside_a_masked_language_model(case, tmp_path):
    torch.seed()
    model = theirs(case, AutoModelForMaskedLM)
    model.save_pretrained(tmp_path / "theirs")
    check_same(ours(tmp_path / "theirs"), model.base_model, model.config.pad_token_id)


@pytest.mark.parametrize(
    "case", ["bert", "mpnet", "roberta", "distilbert", "modernbert", "modernbert, kinds and bases"]
)
def test_fewer_layers(case, tmp_path):
    """transformers reads the shortened config, and gives what is left."""
    torch.seed()
    theirs(case).save_pretrained(tmp_path / "theirs")
    encoder = ours(tmp_path / "theirs")
    encoder.keep_layers([0, 2, 3])
    write(encoder, tmp_path / "ours")
    model = AutoModel.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids, mask, packed = draw_texts(model.config.pad_token_id)
    with torch.inference_mode():
        check_close(encoder(packed), model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask])


@pytest.mark.parametrize("model_type", ENCODERS)
def test_a_new_model_of_a_small_vocabulary(model_type, tmp_path):
    """Of our default fields but the sizes: transformers must take all that we write."""
    names = {"dim": 16, "n_layers": 1, "n_heads": 2} if model_type == "distilbert" else {"hidden_size": 16}
    names |= {} if model_type == "distilbert" else {"num_hidden_layers": 1, "num_attention_heads": 2}
    encoder_class = ENCODERS[model_type]
    encoder = encoder_class(encoder_class.config_class(vocab_size=90, **names)).eval()
    write(encoder, tmp_path / "ours")
    model = AutoModel.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids, mask, packed = draw_texts(model.config.pad_token_id)
    with torch.inference_mode():
        check_close(encoder(packed), model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask])
