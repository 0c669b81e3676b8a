"""The decoder against a definition that goes token by token, and where its weights come from."""

import pytest
import torch
import torch.nn.functional as F
from models import DATA
from safetensors.torch import load_file

from minist import Packed
from minist.encoders.families import ENCODERS
from minist.encoders.weights import initialize
from minist.models.folder import load_module
from minist.modules.decoder import DECODABLE, Decoder

WIDTH, LENGTHS = 10, [5, 1, 9, 3]  # of the embeddings; of the texts
IDS = torch.randint(2, 50, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))


def tiny_encoder(model_type, dropout=0.0):
    """Random weights in float64, training."""
    own = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "dropout": dropout, "attention_dropout": dropout}
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    common |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    encoder_class = ENCODERS[model_type]
    shape = own if model_type == "distilbert" else common
    encoder = encoder_class(
        encoder_class.config_class(vocab_size=50, max_position_embeddings=20, initializer_range=0.3, **shape)
    )
    initialize(encoder, 0.3)
    return encoder.double()


def tiny_decoder(encoder, tied=True):
    """No weight is 0 or 1, so that each counts."""
    torch.manual_seed(1)
    decoder = Decoder(encoder, WIDTH, tied).double()
    for part in (decoder.layers, decoder.head.dense, decoder.head.norm):
        for p in part.parameters():
            p.data += torch.randn_like(p) / 4
    decoder.head.bias.data += torch.randn_like(decoder.head.bias)
    return decoder


def inputs():
    packed = Packed.of(IDS, torch.tensor(LENGTHS))
    return packed, torch.randn(len(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(2)).double()


def slow_scores(decoder, body, packed, embeddings):
    """One text, layer, token and head after the other; cross-attention is a softmax over its single key."""
    found, head = [], decoder.head
    starts = packed.cu_seqlens.tolist()
    for a, b, e in zip(starts, starts[1:], embeddings, strict=False):
        x = list(body.embeddings(Packed.of(packed.input_ids[a:b], torch.tensor([b - a]))))
        for look, layer in zip(decoder.layers, body.layers, strict=True):
            states = [layer.qkv(token).view(3, layer.heads, -1) for token in x]
            new = []
            for t, token in enumerate(x):
                mixed = []
                for h in range(layer.heads):
                    scores = torch.stack([states[t][0, h] @ states[s][1, h] / 8**0.5 for s in range(t + 1)])
                    shares = scores.softmax(0)
                    mixed.append(sum(share * states[s][2, h] for s, share in enumerate(shares)))
                y = layer.attention_norm(token + layer.attention_out(torch.cat(mixed)))
                share = (y.sum() * e.sum())[None].softmax(0)  # whatever the score is
                y = look.attention_norm(y + look.attention_out(share * look.value(e)))
                new.append(layer.output_norm(y + layer.down(F.gelu(layer.up(y)))))
            x = new
        found += [body.embeddings.word.weight @ head.norm(F.gelu(head.dense(token))) + head.bias for token in x]
    return torch.stack(found)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", DECODABLE)
def test_equals_the_slow_definition(model_type, tied):
    encoder = tiny_encoder(model_type)
    decoder = tiny_decoder(encoder, tied)
    packed, embeddings = inputs()
    found = decoder(encoder, packed, embeddings)
    assert found.shape == (len(IDS), 50)
    torch.testing.assert_close(found, slow_scores(decoder, encoder, packed, embeddings), atol=1e-12, rtol=0)


def test_a_token_knows_its_embedding_and_what_is_before_it():
    encoder = tiny_encoder("bert")
    decoder, (packed, embeddings) = tiny_decoder(encoder), inputs()
    embeddings.requires_grad_()
    scores = decoder(encoder, packed, embeddings)
    (gradient,) = torch.autograd.grad(scores[7].sum(), embeddings)  # the second token of the third text
    assert gradient.any(1).tolist() == [False, False, True, False]
    changed = packed._replace(input_ids=packed.input_ids.index_fill(0, torch.tensor([8]), 3))
    same = (decoder(encoder, changed, embeddings) == scores).all(1).tolist()
    assert same == [t < 8 or t >= 15 for t in range(len(IDS))]  # the third text ends at 15


def test_tied_weights_are_the_encoders():
    encoder = tiny_encoder("bert")
    decoder = tiny_decoder(encoder)
    decoder(encoder, *inputs())[:, 3].sum().backward()
    names = {name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert names == set()
    assert all(p.grad.any() for p in decoder.parameters())
    assert not {id(p) for p in decoder.parameters()} & {id(p) for p in encoder.parameters()}


def test_a_copy_is_its_own():
    encoder = tiny_encoder("bert").eval()
    decoder = tiny_decoder(encoder, tied=False)
    assert decoder.own.training
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), decoder.own.parameters(), strict=True))
    decoder(encoder, *inputs())[:, 3].sum().backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert all(p.grad.any() for p in decoder.parameters())


@pytest.mark.parametrize("place", ["dropout", "attention_dropout"])
def test_dropout_is_the_encoders(place):
    """Of attention to the embedding too: all layers are left out but for that."""
    encoder = tiny_encoder("bert")
    look, layer, (packed, embeddings) = tiny_decoder(encoder).layers[0], encoder.layers[0], inputs()
    layer.self_attention = lambda x, packed, causal: x
    layer.perceptron = lambda x: x
    x = torch.zeros(len(IDS), 16).double()
    without = look(x, packed, layer, embeddings)
    encoder.layers[0].get_submodule(place).p = 0.5
    assert not torch.equal(look(x, packed, layer, embeddings), without)
    layer.eval()
    assert torch.equal(look(x, packed, layer, embeddings), without)


def test_layers_are_computed_again_with_the_same_dropout():
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = tiny_encoder("bert", dropout=0.3)
        decoder = tiny_decoder(encoder)
        encoder.checkpoint_layers, runs = recompute, []
        encoder.layers[0].up.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        torch.manual_seed(5)
        scores = decoder(encoder, *inputs())
        scores[:, 3].sum().backward()
        assert len(runs) == 1 + recompute
        found.append([scores, *(p.grad for p in [*encoder.parameters(), *decoder.parameters()])])
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)


HEADS = {  # model_type -> the modules of a checkpoint that score words: transform, norm, bias
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head"),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_of_a_checkpoint(name):
    folder = DATA / "enc" / f"{name}_mlm"
    encoder, state = load_module("Transformer", folder), load_file(folder / "model.safetensors")
    decoder = Decoder(encoder, WIDTH, True, state)
    transform, norm, bias = HEADS[name]
    assert torch.equal(decoder.head.dense.weight, state[f"{transform}.weight"])
    assert torch.equal(decoder.head.dense.bias, state[f"{transform}.bias"])
    assert torch.equal(decoder.head.norm.weight, state[f"{norm}.weight"])
    assert torch.equal(decoder.head.norm.bias, state[f"{norm}.bias"])
    assert torch.equal(decoder.head.bias, state[f"{bias}.bias"])
    assert decoder.head.bias.requires_grad
    new = Decoder(encoder, WIDTH, True, {name: x for name, x in state.items() if transform not in name})
    assert not new.head.bias.any()


def test_head_of_another_shape():
    encoder, state = tiny_encoder("bert"), load_file(DATA / "enc/bert_mlm/model.safetensors")
    del state["cls.predictions.transform.LayerNorm.bias"]
    with pytest.raises(
        ValueError, match=r"the weight cls\.predictions\.bias is \[63\], by its config.json it has shape \[50\]"
    ):
        Decoder(encoder, WIDTH, True, state)
    state["cls.predictions.bias"] = torch.zeros(50)
    with pytest.raises(ValueError, match=r"the weight cls\.predictions\.transform\.LayerNorm\.bias is missing"):
        Decoder(encoder, WIDTH, True, state)
