"""The order of modules: what is refused, and that a model is its modules called one after the other."""

import pytest
import torch
from routed import asymmetric
from test_encoders import tiny_encoder
from tiny import sentences, tiny_model

from minist.data.packed import Packed
from minist.encoders.bert import BertConfig, BertEncoder
from minist.encoders.weights import initialize
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.stack import Stack, before_pooling
from minist.module import ENDS, Module
from minist.modules import MODULES
from minist.modules.dense import Dense, Dropout, LayerNorm, Normalize, WeightedLayerPooling
from minist.modules.pooling import MODES, Pooling
from minist.modules.static_embedding import StaticEmbedding


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
    torch.testing.assert_close(again, found, atol=1e-5, rtol=0)
    return found


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------- first tokens alone


@pytest.mark.parametrize("lengths", [[3, 1, 6], [0, 4, 0, 6, 0], [0], []])
def test_a_pooling_of_first_tokens(lengths):
    """The last layer makes no others, and what comes of them is the same, also where a text is empty."""
    first, pooling = encoder(), Pooling(8, ("cls",))
    texts = Packed.of(torch.arange(sum(lengths)) % 17 + 3, torch.tensor(lengths, dtype=torch.long))
    seen = []
    pooling.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    (found,) = Stack([first, pooling]).embed(texts)
    assert seen == [sum(length > 0 for length in lengths)]
    torch.testing.assert_close(found, pooling(first(texts), texts), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", [Pooling(8, ("cls",), False), Pooling(8, ("cls", "mean")), Pooling(8)])
def test_other_poolings_see_all_tokens(pooling):
    seen = []
    pooling.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    Stack([encoder(), pooling]).embed(packed())
    assert seen == [10]


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
        (
            "Encoder",
            "the modules are Transformer: they must end in embeddings or sparse or scores or words",
        ),
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
    assert before_pooling(stack.paths[None]) == [first, *before]
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
    assert before_pooling(stack.paths[None]) == [first, layers, *before]


def test_static_embedding():
    first, dense, texts = StaticEmbedding(20, 8), Dense(8, 5), packed()
    stack = Stack([first, dense, Normalize()])
    assert torch.equal(embed(stack, texts), Normalize()(dense(first(texts))))
    assert before_pooling(stack.paths[None]) == []
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


# ---------------------------------------------------------------- texts without a token, and outputs


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model_type", ["bert", "mpnet", "modernbert"])
def test_texts_without_a_token(mode, model_type):
    """A tokenizer that adds none: zeros, whatever stands beside them, and a gradient that is finite."""
    first = tiny_encoder(model_type)
    stack = Stack([first, Pooling(16, (mode,)), Normalize()]).eval()
    ids, lengths = torch.arange(9) + 3, torch.tensor([0, 5, 0, 4])
    ((together,),) = stack([Packed.of(ids, lengths)])
    ((alone,),) = stack([Packed.of(ids[:0], lengths[:1])])
    ((others,),) = stack([Packed.of(ids, lengths[[1, 3]])])
    assert not alone.any() and not together[[0, 2]].any()
    torch.testing.assert_close(together[[1, 3]], others, atol=1e-6, rtol=0)
    for found in (alone, together):
        stack.zero_grad()
        (found * torch.randn_like(found)).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in stack.parameters())
        assert any(p.grad is not None for p in stack.parameters())


def test_outputs_of_layers():
    first, pooling, dense, texts = encoder(3), Pooling(8), Dense(8, 4), packed()
    stack = Stack([first, pooling, dense]).eval()
    found = stack.embed(texts, None, ("layer 1", "layer 3", "layer 0"))
    states = list(first.hidden_states(texts))
    for given, layer in zip(found, (3, 1, 3, 0), strict=True):
        assert torch.equal(given, dense(pooling(states[layer], texts)))
    (again,) = stack([texts], [None], ("layer 1", "layer 3", "layer 0"))
    for given, wanted in zip(again, found, strict=True):
        torch.testing.assert_close(given, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("modules", "name", "message"),
    [
        (lambda: [encoder(), Pooling(8)], "layer 3", "the output is 'layer 3', known are layer 0, layer 1, layer"),
        (lambda: [encoder(), Pooling(8)], "codes", "the output is 'codes'"),
        (lambda: [StaticEmbedding(20, 8)], "layer 0", "a StaticEmbedding has no layers"),
        (
            lambda: [encoder(), WeightedLayerPooling(8, 2, 0), Pooling(8)],
            "layer 1",
            "layer 1: WeightedLayerPooling mixes the layers: no embedding is of one alone",
        ),
    ],
)
def test_outputs_that_there_are_not(modules, name, message):
    """AdaptiveLayerLoss behind a WeightedLayerPooling would have cut tokens, not layers."""
    with pytest.raises(ValueError, match=message):
        Stack(modules())([packed()], (), (name,))


# ---------------------------------------------------------------- several columns, and routes


def test_a_batch_that_uses_one_route_of_two():
    model = asymmetric()
    tokens = model.tokenizer_for("query")(["read write", "zebra"]).packed()
    (a,), (b,) = model.stack([tokens, tokens], ["query", "query"])
    assert torch.equal(a, b)
    (a + b).sum().backward()
    static, document = model.stack[0].routes["query"][0], model.stack[0].routes["document"][0]
    assert static.embedding.weight.grad.any()
    assert all(parameter.grad is None for parameter in document.parameters())


def test_columns_of_two_routes_come_back_in_their_order():
    model = asymmetric()
    texts = {role: model.tokenizer_for(role)(["read", "write it all", "zebra"]).packed() for role in model.routes}
    roles = ["document", "query", "document"]
    found = model.stack([texts[role] for role in roles], roles)
    for role, (x,) in zip(roles, found, strict=True):
        torch.testing.assert_close(x, model.stack.embed(texts[role], role)[0], atol=1e-6, rtol=0)
    assert model.stack.reader("query") is model.stack[0].routes["query"][0]
    assert (model.stack.num_layers, Stack([encoder(3), Pooling(8)]).num_layers) == (0, 3)


# ---------------------------------------------------------------- a module of one's own


class Largest(Module):
    """The k largest numbers of each text's mean: tokens -> embeddings, with its own width and weights."""

    takes, gives = ("tokens",), "embeddings"

    def __init__(self, in_width, k):
        super().__init__()
        self.in_width, self.out_width = in_width, k
        self.scale = torch.nn.Parameter(torch.full((k,), 2.0))

    def forward(self, x, packed):
        return Pooling(self.in_width)(x, packed).topk(self.out_width, dim=1).values * self.scale

    def to_folder(self):
        return {"in_width": self.in_width, "k": self.out_width}, super().to_folder()[1]

    @classmethod
    def from_folder(cls, config, weights):
        return cls(config["in_width"], config["k"]).fill(weights)


def test_a_new_module_needs_a_line_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(MODULES, "Largest", Largest)
    plain = tiny_model()
    model = SentenceTransformer.from_modules([plain.stack[0], Largest(16, 5), Dense(5, 3)], plain.tokenizer).eval()
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    assert loaded.width == 3
    texts = sentences(6)
    assert (loaded.encode(texts) == model.encode(texts)).all()
    with pytest.raises(ValueError, match="Largest takes vectors of width 9, but gets 16"):
        Stack([plain.stack[0], Largest(9, 5)])
    with pytest.raises(ValueError, match="Largest takes tokens, and here it gets embeddings"):
        Stack([*plain.stack, Largest(16, 5)])


@pytest.mark.parametrize("kind", MODULES)
def test_every_module_says_what_it_takes_and_gives(kind):
    known = {"texts", "layers", "tokens", *ENDS}
    assert issubclass(MODULES[kind], Module)
    assert set(MODULES[kind].takes) <= known
    assert MODULES[kind].gives in {"", *known}
