"""Roles: a text goes the way of its role, with its tokenizer and its prompt, and columns keep their order."""

import numpy as np
import pytest
import torch
from routed import KINDS, TEXTS, asymmetric, forked, static_parts, two_towers
from tiny import tiny_model

from minist.data.packed import Packed
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.text_model import TextModel
from minist.modules.dense import Normalize
from minist.modules.pooling import Pooling
from minist.modules.router import Router


def close(a, b, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=0)


def by_hand(model, role, texts=TEXTS, prompt=""):
    """Module after module, as a reader of the docstrings of routed.py would call them."""
    tokenizer = model.tokenizer_for(role)
    packed = tokenizer(texts, prompt).packed(tokenizer.prompt_length(prompt))
    router = next(module for module in model.stack if isinstance(module, Router))
    place = list(model.stack).index(router)
    encoder = router.routes[role][0] if place == 0 else model.stack[0]
    rest = list(router.routes[role])[1:] if place == 0 else [*list(model.stack)[1:place], *router.routes[role]]
    x = encoder(packed)
    for module in [*rest, *list(model.stack)[place + 1 :]]:
        x = module(x, packed) if isinstance(module, Pooling) else module(x)
    return x.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_goes_the_way_of_its_role(kind):
    model = KINDS[kind]()
    assert model.routes == ("query", "document")
    for role, encoded in [("query", model.encode_query(TEXTS)), ("document", model.encode_document(TEXTS))]:
        close(encoded, by_hand(model, role))
        close(model.encode(TEXTS, role=role), encoded, 0)
    assert np.abs(model.encode_query(TEXTS) - model.encode_document(TEXTS)).max() > 0.1


def test_the_default_route():
    close(asymmetric("query").encode(TEXTS), asymmetric().encode_query(TEXTS), 0)
    close(asymmetric("document").encode(TEXTS), asymmetric().encode_document(TEXTS), 0)
    with pytest.raises(ValueError, match="no role is given, and the model has no default route: give one of query, d"):
        two_towers().encode([])
    with pytest.raises(ValueError, match="the role is 'passage': give one of query, document"):
        asymmetric().encode("read", role="passage")


def test_roles_of_a_model_without_routes():
    model = tiny_model()
    model.prompts |= {"query": "find: ", "topic": "sort: "}
    assert model.routes == ()
    packed = model.tokenizer(TEXTS).packed()
    close(model([packed], ["query"])[0].detach(), model.encode(TEXTS))
    close(model.encode(TEXTS, role="query"), model.encode(TEXTS, prompt="find: "), 0)
    close(model.encode(TEXTS, role="topic"), model.encode(TEXTS, prompt="sort: "), 0)
    with pytest.raises(ValueError, match=r"the role is 'quarry', this model knows .*query"):
        model.encode(TEXTS, role="quarry")


def test_the_prompt_of_a_role():
    model = asymmetric()
    model.prompts |= {"query": "find: ", "passage": "text: ", "topic": "sort: "}
    model.default_prompt_name = "topic"
    close(model.encode_query(TEXTS), by_hand(model, "query", prompt="find: "))
    close(model.encode_document(TEXTS), by_hand(model, "document", prompt="text: "))
    close(model.encode_query(TEXTS, prompt="read "), by_hand(model, "query", prompt="read "))
    close(model.encode_query(TEXTS, prompt_name="topic"), by_hand(model, "query", prompt="sort: "))
    close(model.encode(TEXTS), by_hand(model, "document", prompt="sort: "))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_come_back_in_their_order(kind):
    model = KINDS[kind]()
    roles = ["document", "query", "document", "query"]
    texts = [TEXTS[:3], TEXTS[3:4], [], TEXTS[4:]]
    columns = [model.tokenizer_for(r)(t).packed() for r, t in zip(roles, texts, strict=True)]
    found = model(columns, roles)
    for x, role, column in zip(found, roles, texts, strict=True):
        close(x.detach(), by_hand(model, role, column))


def test_columns_of_one_route_go_together():
    model = asymmetric()
    seen = []
    for name in ("query", "document"):
        first = model.stack[0].routes[name][0]
        first.register_forward_hook(lambda module, given, _, name=name: seen.append((name, given[0].n)))
    columns = [model.tokenizer_for(r)(TEXTS[:n]).packed() for n, r in ((2, "query"), (3, "document"), (4, "document"))]
    model(columns, ["query", "document", None])
    assert seen == [("query", 2), ("document", 7)]


def test_a_column_without_texts_gives_a_zero_gradient():
    """A rank may hold no row of a batch."""
    model = asymmetric()
    nothing = torch.zeros(0, dtype=torch.long)
    columns = [Packed.of(nothing, nothing)] * 2
    found = model(columns, ["query", "document"])
    assert [x.shape for x in found] == [(0, 8), (0, 8)]
    sum(x.sum() for x in found).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_only_the_route_that_was_taken_is_trained():
    model = asymmetric()
    model([model.tokenizer_for("query")(TEXTS).packed()], ["query"])[0].square().sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"stack.0.routes.query.0.embedding.weight", "stack.1.linear.weight", "stack.1.linear.bias"}


def test_a_shared_module_is_one():
    model = two_towers()
    router = model.stack[0]
    assert router.routes["query"][2] is router.routes["document"][2]
    assert len(list(model.parameters())) == len({id(p) for p in model.parameters()})
    before = model.encode_document(TEXTS)
    with torch.no_grad():
        router.routes["query"][2].linear.bias += 1
    assert np.abs(model.encode_document(TEXTS) - before).max() > 0.01


def test_tokenizers():
    model = asymmetric()
    assert model.tokenizer_for("query") is not model.tokenizer_for("document")
    assert model.tokenizer_for("query").special_tokens is False
    assert model.tokenizer is model.tokenizer_for(None) is model.tokenizer_for("document")
    assert asymmetric("query").tokenizer.special_tokens is False
    shared = forked()
    assert shared.tokenizer_for("query") is shared.tokenizer_for("document") is shared.tokenizer
    with pytest.raises(ValueError, match="the role is 'passage'"):
        shared.tokenizer_for("passage")


def test_tokenizers_that_do_not_fit():
    static, fast = static_parts()
    plain = tiny_model()
    router = Router({"query": [static], "document": list(plain.stack)})
    with pytest.raises(ValueError, match="the tokenizers are of query, the model has query, document: give one for"):
        SentenceTransformer.from_modules([router], {"query": fast})
    with pytest.raises(ValueError, match="the tokenizers are of query, the model has no routes"):
        SentenceTransformer.from_modules(list(plain.stack), {"query": fast})
    twice = Router({"query": list(plain.stack), "document": [*plain.stack, Normalize()]})
    with pytest.raises(ValueError, match="two routes begin with the same module, so they must have the same tokenizer"):
        SentenceTransformer.from_modules([twice], {"query": fast, "document": plain.tokenizer})


def test_keep_layers_of_every_encoder():
    model = two_towers()
    with pytest.raises(ValueError, match=r"keep_layers: given are .*, allowed are rising numbers from 0 to 1"):
        model.keep_layers([0, 2])  # which the queries' encoder has, and the documents' has not
    layers = [model.stack[0].routes[name][0].layers for name in ("query", "document")]
    kept = [numbers[1] for numbers in layers]
    assert [len(numbers) for numbers in layers] == [3, 2]  # nothing has changed
    model.keep_layers([1])
    assert [list(model.stack[0].routes[name][0].layers) for name in ("query", "document")] == [[kept[0]], [kept[1]]]
    asymmetric().keep_layers([0])
    static, fast = static_parts()
    with pytest.raises(ValueError, match="keep_layers needs a model with an encoder"):
        SentenceTransformer.from_modules([Router({"query": [static]})], fast).keep_layers([0])


def test_several_devices():
    model = asymmetric()
    close(model.encode_query(TEXTS, device=["cpu"]), model.encode_query(TEXTS))


def test_a_kind_of_model_needs_no_more_than_a_stack_and_tokenizers():
    model = TextModel()
    model.assemble(asymmetric().content())
    model.eval()
    packed = model.tokenizer_for("query")(TEXTS).packed()
    with model.inference():
        close(model([packed], ["query"])[0], asymmetric().encode_query(TEXTS))
