"""DenoisingAutoEncoderLoss beside the real one: the same weights, the same texts."""

import json

import pytest
import torch
from models import DATA
from sentence_transformers import SentenceTransformer as RealModel
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss as RealLoss

from minist.encoders.weights import checkpoint_names
from minist.losses import DenoisingAutoEncoderLoss
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.config import ModelConfig
from minist.training.start import plain_weights

ORIGINALS = [row["anchor"] for row in json.loads((DATA / "train_runs.json").read_text("utf-8"))["rows"][:9]]
DAMAGED = [" ".join(text.split()[::2]) for text in ORIGINALS]
# modules of a decoder layer of ours -> theirs
CROSS = {"value": "self.value", "attention_out": "output.dense", "attention_norm": "output.LayerNorm"}


def tokens(model, texts):
    """The real model's input; the original of a text that is longer than the encoder is cut by both."""
    return {key: value for key, value in model.tokenize(texts).items() if torch.is_tensor(value)}


def counterparts(decoder, real):
    """Our parameters of the decoder, with theirs: those that are new, and the copied ones where it has some."""
    base = real.get_submodule(real.base_model_prefix)
    for i, look in enumerate(decoder.layers):
        for ours, theirs in CROSS.items():
            for kind in ("weight", "bias"):
                other = base.get_parameter(f"encoder.layer.{i}.crossattention.{theirs}.{kind}")
                yield look.get_parameter(f"{ours}.{kind}"), [other]
    for ours, parameter in decoder.head.named_parameters():
        yield parameter, [real.get_parameter(name) for name in checkpoint_names(ours, decoder.head.names())]
    if decoder.own is not None:
        yield from of_encoder(decoder.own, base)


def of_encoder(encoder, real):
    for name, parameter in encoder.named_parameters():
        yield parameter, [real.get_parameter(theirs) for theirs in checkpoint_names(name, encoder.weights)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["bert", "bert_mlm", "roberta", "roberta_mlm", "xlmr"])
def test_value_and_gradients(name, tied):
    folder = DATA / "enc" / name
    real_model = RealModel(str(folder), device="cpu")
    torch.manual_seed(0)
    real = RealLoss(real_model, None if tied else str(folder), tie_encoder_decoder=tied).eval()
    model, loss = SentenceTransformer(folder, device="cpu"), DenoisingAutoEncoderLoss(tied)
    loss.attach(model, (None, None), plain_weights(ModelConfig(path=str(folder))))
    model.eval()
    loss.eval()
    encoder = model.stack[0]
    head, name_of_dense = loss.decoder.head.dense.weight.clone(), loss.decoder.head.names()["dense"] + ".weight"
    pairs = list(counterparts(loss.decoder, real.decoder))
    if name.endswith("_mlm"):
        assert torch.equal(head, real.decoder.get_parameter(name_of_dense))
    for ours, theirs in pairs:
        if ours.ndim == 1:  # new norms and biases are ones and zeros: others tell more
            for p in theirs:
                p.data += torch.randn_like(p) / 10
        ours.data.copy_(torch.cat([p.data for p in theirs]))

    damaged, originals = (model.tokenizer(texts).packed() for texts in (DAMAGED, ORIGINALS))
    found = loss(model, [damaged, originals], (None, None)) / loss.count([damaged, originals])
    expected = real([tokens(real_model, DAMAGED), tokens(real_model, ORIGINALS)], None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.backward()
    expected.backward()
    pairs += of_encoder(encoder, real_model[0].auto_model)
    compared = 0
    for ours, theirs in pairs:
        zeros = [torch.zeros_like(p) if p.grad is None else p.grad for p in theirs]
        torch.testing.assert_close(ours.grad, torch.cat(zeros), atol=1e-5, rtol=1e-4)
        compared += ours.grad.abs().max() > 1e-5
    assert compared > len(pairs) * 0.9


def test_queries_and_keys_of_cross_attention_have_no_gradient():
    """Which is why our decoder has none."""
    real_model = RealModel(str(DATA / "enc/bert"), device="cpu")
    real = RealLoss(real_model).eval()
    real([tokens(real_model, DAMAGED), tokens(real_model, ORIGINALS)], None).backward()
    names = ("crossattention.self.query", "crossattention.self.key")
    crossed = [p for name, p in real.decoder.named_parameters() if any(part in name for part in names)]
    assert len(crossed) == 2 * 2 * 2
    assert all(p.grad.abs().max() < 1e-9 for p in crossed)
