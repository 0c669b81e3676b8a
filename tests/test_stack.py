"""The order of modules: what is refused, and that a model is its modules called one after the other."""

import pytest
import torch
from tiny import sentences, tiny_model

from minist.data.packed import Packed
from minist.encoders.bert import BertConfig, BertEncoder
from minist.encoders.weights import initialize
from minist.models.stack import Stack
from minist.modules.dense import Dense, Dropout, LayerNorm, Normalize
from minist.modules.pooling import Pooling
from minist.modules.static_embedding import StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling


def encoder(layers=2):
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=16,
    )
    module = BertEncoder(config).eval()
    initialize(module, 0.5)
    return module


def packed():
    return Packed.of(torch.arange(10) + 3, torch.tensor([3, 1, 6]))


def embed(stack, texts):
    """The embeddings alone, as the stack gives them without sorting the texts."""
    (found,) = stack.embed(texts)
    ((again,),) = stack([texts])
    torch.testing.assert_close(again, found, atol=1e-6, rtol=0)
    return found


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------- what is refused

PARTS = {  # fresh ones each time
    "Encoder": encoder,
    "Static": lambda: StaticEmbedding(20, 8),
    "Weighted": lambda: WeightedLayerPooling(8, 2, 0),
    "Pooling": lambda: Pooling(8),
    "Dense": lambda: Dense(8, 8),
    "Normalize": Normalize,
    "LayerNorm": lambda: LayerNorm(8),
    "Dropout": Dropout,
}


def build(order):
    return [PARTS[name]() for name in order.split()]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("", "the modules are none: they must end in embeddings"),
        ("Pooling", "the modules are Pooling: Pooling takes tokens, and here it gets texts"),
        (
            "Dense Encoder Pooling",
            "Dense -> Transformer -> Pooling: Dense takes tokens or embeddings, and here it gets texts",
        ),
        (
            "Weighted Pooling",
            "WeightedLayerPooling -> Pooling: WeightedLayerPooling takes layers, and here it gets texts",
        ),
        ("Encoder", "the modules are Transformer: they must end in embeddings, one of them must be a Pooling"),
        ("Encoder Dense Normalize", "Transformer -> Dense -> Normalize: they must end in embeddings"),
        ("Encoder Pooling Pooling", "-> Pooling -> Pooling: Pooling takes tokens, and here it gets embeddings"),
        ("Static Pooling", "StaticEmbedding -> Pooling: Pooling takes tokens, and here it gets embeddings"),
        ("Static Dense Pooling", "Dense -> Pooling: Pooling takes tokens, and here it gets embeddings"),
        (
            "Static Weighted",
            "StaticEmbedding -> WeightedLayerPooling: WeightedLayerPooling takes layers, and here it gets embeddings",
        ),
        (
            "Encoder Pooling Weighted",
            "-> Pooling -> WeightedLayerPooling: .* takes layers, and here it gets embeddings",
        ),
        (
            "Encoder Dense Weighted Pooling",
            "Dense -> WeightedLayerPooling -> Pooling: .* takes layers, and here it gets tokens",
        ),
        (
            "Encoder Dense Normalize Weighted Pooling",
            "Normalize -> WeightedLayerPooling -> Pooling: .* takes layers, and here it gets",
        ),
        ("Encoder Weighted Weighted Pooling", "WeightedLayerPooling takes layers, and here it gets tokens"),
        (
            "Encoder Encoder Pooling",
            "Transformer -> Transformer -> Pooling: Transformer takes texts, and here it gets tokens",
        ),
        ("Encoder Pooling Encoder", "Transformer takes texts, and here it gets embeddings"),
        ("Encoder Pooling Static", "StaticEmbedding takes texts, and here it gets embeddings"),
        (
            "Static Static",
            "StaticEmbedding -> StaticEmbedding: StaticEmbedding takes texts, and here it gets embeddings",
        ),
        ("Static Dense Encoder", "Transformer takes texts, and here it gets embeddings"),
        ("Encoder LayerNorm Pooling", "LayerNorm -> Pooling: LayerNorm takes embeddings, and here it gets tokens"),
        ("Encoder Weighted Dropout Pooling", "Dropout takes embeddings, and here it gets tokens"),
    ],
)
def test_orders_that_cannot_be(order, message):
    with pytest.raises(ValueError, match=message):
        Stack(build(order))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (lambda: [encoder(), Pooling(6)], "Pooling takes vectors of width 6, but gets 8"),
        (lambda: [encoder(), Dense(6, 8), Pooling(8)], "Dense takes vectors of width 6, but gets 8"),
        (lambda: [encoder(), Dense(8, 6), Normalize(), Pooling(8)], "Pooling takes vectors of width 8, but gets 6"),
        (lambda: [encoder(), Pooling(8, ("cls", "mean")), Dense(8, 4)], "Dense takes vectors of width 8, but gets 16"),
        (lambda: [encoder(), Pooling(8), LayerNorm(6)], "LayerNorm takes vectors of width 6, but gets 8"),
        (lambda: [encoder(), Pooling(8), Dense(8, 6), Dropout(), Dense(8, 6)], "Dense takes .* width 8, but gets 6"),
        (lambda: [StaticEmbedding(20, 8), Normalize(), Dense(6, 8)], "Dense takes vectors of width 6, but gets 8"),
        (lambda: [encoder(), WeightedLayerPooling(6, 2, 0), Pooling(8)], "WeightedLayerPooling takes .* 6, but gets 8"),
        (lambda: [encoder(3), WeightedLayerPooling(8, 2, 0), Pooling(8)], "is made for 2 layers, not 3"),
        (lambda: [encoder(1), WeightedLayerPooling(8, 2, 0), Pooling(8)], "is made for 2 layers, not 1"),
    ],
)
def test_widths_that_do_not_fit(modules, message):
    with pytest.raises(ValueError, match=message):
        Stack(modules())


# ---------------------------------------------------------------- what is computed


@pytest.mark.parametrize("tail", ["", "Dense", "Normalize Dense", "LayerNorm Dropout Normalize", "Dense Dense"])
@pytest.mark.parametrize("head", ["", "Dense", "Normalize", "Dense Normalize"])
def test_encoder_and_pooling(head, tail):
    before, after = build(head), build(tail)
    first, pooling, texts = encoder(), Pooling(8, ("max",)), packed()
    stack = Stack([first, *before, pooling, *after]).eval()
    x = first(texts)
    for module in before:
        x = module(x)
    assert torch.equal(stack.token_vectors(texts), x)
    assert stack.token_modules() == [first, *before]
    x = pooling(x, texts)
    for module in after:
        x = module(x)
    assert torch.equal(embed(stack, texts), x)
    assert stack.out_width == x.shape[1] == 8


@pytest.mark.parametrize("head", ["", "Dense", "Normalize"])
def test_weighted_layer_pooling(head):
    before, first, texts = build(head), encoder(), packed()
    layers = WeightedLayerPooling(8, 2, 0)
    layers.layer_weights.data = torch.tensor([0.3, -0.2, 1.1])
    stack = Stack([first, layers, *before, Pooling(8), Normalize()]).eval()
    x = layers(first.hidden_states(texts))
    assert not torch.allclose(x, first(texts), atol=0.1)
    for module in before:
        x = module(x)
    assert torch.equal(stack.token_vectors(texts), x)
    assert torch.equal(embed(stack, texts), Normalize()(Pooling(8)(x, texts)))
    assert stack.token_modules() == [first, layers, *before]


def test_static_embedding():
    first, dense, texts = StaticEmbedding(20, 8), Dense(8, 5), packed()
    stack = Stack([first, dense, Normalize()])
    assert torch.equal(embed(stack, texts), Normalize()(dense(first(texts))))
    assert stack.token_modules() == []
    assert stack.out_width == 5
    assert Stack([first]).out_width == 8
    assert torch.equal(embed(Stack([first]), texts), first(texts))


@pytest.mark.parametrize(
    ("modules", "width"),
    [
        (lambda: [encoder(), Pooling(8)], 8),
        (lambda: [encoder(), Pooling(8, ("cls", "max", "mean")), Normalize()], 24),
        (lambda: [encoder(), Dense(8, 6), Pooling(6, ("cls", "max")), LayerNorm(12)], 12),
        (lambda: [encoder(), Pooling(8), Dense(8, 3), Dropout(), Dense(3, 7), Normalize()], 7),
    ],
)
def test_width(modules, width):
    stack = Stack(modules()).eval()
    assert stack.out_width == width
    assert embed(stack, packed()).shape == (3, width)


def test_a_model_of_these_modules():
    model = tiny_model()
    texts = sentences(5)
    tokens = model.tokenizer(texts).packed()
    expected = model.stack[1](model.stack[0](tokens), tokens)
    torch.testing.assert_close(model.encode(texts, convert_to_tensor=True), expected, atol=1e-5, rtol=0)
    found = model.encode_tokens(texts)
    for row, x in zip(found, model.stack.token_vectors(tokens).split(tokens.lengths.tolist()), strict=True):
        torch.testing.assert_close(torch.from_numpy(row), x, atol=1e-5, rtol=0)
