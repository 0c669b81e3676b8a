"""Routers: which route a role picks, and what cannot be; encode.py takes the role it is given."""

import numpy as np
import pytest
from routed import TEXTS, asymmetric, static_parts
from tiny import run_script, tiny_model
from torch import nn

from minist.data.tokenizer import Tokenizer
from minist.models.stack import Stack
from minist.modules.dense import Dense, Dropout
from minist.modules.router import Router


def close(a, b, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=0)


# ---------------------------------------------------------------- which route


def identities(*names):
    return {name: [nn.Identity()] for name in names}


@pytest.mark.parametrize(
    ("names", "default", "mappings", "expected"),
    [
        ("query document", "document", {}, {"query": "query", "document": "document", None: "document"}),
        ("query document", "query", {}, {None: "query"}),
        ("q d", "d", {"query": "q", "document": "d"}, {"query": "q", "document": "d", "q": "q", None: "d"}),
        # a role that is mapped goes before a route of that name, and None stands for every role
        ("query document", None, {"query": "document"}, {"query": "document", "document": "document"}),
        ("query document", "document", {None: "query"}, {"document": "query", "other": "query", None: "query"}),
        ("query other", "other", {None: "query", "document": "other"}, {"document": "other", None: "query"}),
        # all that we have is text
        ("query text", "query", {}, {"query": "query", "document": "text", None: "text"}),
        ("query text", None, {"a": "query"}, {"a": "query", "b": "text", None: "text"}),
    ],
)
def test_the_route_of_a_role(names, default, mappings, expected):
    router = Router(identities(*names.split()), default, mappings)
    assert {role: router.route(role) for role in expected} == expected


def test_roles_without_a_route():
    router = Router(identities("query", "document"), None, {"question": "query"})
    with pytest.raises(ValueError, match="the role is 'passage': give one of question, query, document"):
        router.route("passage")
    with pytest.raises(ValueError, match="no role is given, and the model has no default route: give one of question"):
        router.route(None)


@pytest.mark.parametrize(
    ("routes", "default", "mappings", "message"),
    [
        ({}, None, {}, "Router: a route cannot be called ''"),
        (identities("a", "b"), "c", {}, "there is no route 'c', the routes are a, b"),
        (identities("a", "b"), "a", {"query": "c"}, "there is no route 'c'"),
        (identities("../a"), None, {}, r"a route cannot be called '\.\./a': use letters"),
        (identities("a.b"), None, {}, "cannot be called"),
        (identities(""), None, {}, "cannot be called ''"),
        (identities("keys"), None, {}, "cannot be called 'keys'"),
        (identities("training"), None, {}, "cannot be called 'training'"),
    ],
)
def test_routers_that_cannot_be(routes, default, mappings, message):
    with pytest.raises(ValueError, match=message):
        Router(routes, default, mappings)


# ---------------------------------------------------------------- the stack


def test_each_route_is_checked():
    encoder, pooling = tiny_model().stack
    static, _ = static_parts()
    for modules, message in [
        (
            [Router({"q": [static], "d": [encoder]})],
            "the route 'd': the modules are Transformer: they must end in embeddings",
        ),
        ([Router({"q": [static], "d": []})], "the route 'd': the modules are none: they must end in embeddings"),
        ([Router({"q": [static], "d": [encoder]}), pooling], "the route 'q': .* StaticEmbedding -> Pooling"),
        ([encoder, pooling, Router({"q": [Dense(8, 8)], "d": []})], "the route 'q': Dense takes vectors of width 8"),
        (
            [encoder, pooling, Router({"q": [static], "d": []})],
            "the route 'q': .* StaticEmbedding takes texts, and here",
        ),
        (
            [encoder, Router({"q": [Dropout()], "d": []}), pooling],
            "the route 'q': .* Dropout takes embeddings, and here",
        ),
        (
            [encoder, pooling, Router({"q": [Dense(16, 8)], "d": []})],
            r"different widths \(q 8, d 16\): make them equal by a Dense",
        ),
        ([Router({"q": [static]}), Router({"q": []})], "the modules hold 2 Routers: only one is possible"),
    ]:
        with pytest.raises(ValueError, match=message):
            Stack(modules)


def test_a_route_that_leads_to_a_router():
    with pytest.raises(ValueError, match="a route leads to another Router: only one is possible"):
        Router({"q": [static_parts()[0], Router({"q": []})]})


def test_tokens_have_vectors_in_one_route_only():
    model = asymmetric("query")
    found = model.encode_tokens(TEXTS[1:3], role="document")
    packed = model.tokenizer_for("document")(TEXTS[1:3]).packed()
    expected = model.stack[0].routes["document"][0](packed).split(packed.lengths.tolist())
    for a, b in zip(found, expected, strict=True):
        close(a, b.detach())
    with pytest.raises(ValueError, match="a StaticEmbedding knows no vector of a token in its text"):
        model.encode_tokens(TEXTS)


# ---------------------------------------------------------------- encode.py


def encode(tmp_path, *options):
    code, printed, errors = run_script("encode.py", "t.txt", "--model", "m", "--output", "o.npy", *options)
    return (np.load(tmp_path / "o.npy"), printed) if code == 0 else (None, errors)


def test_the_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = asymmetric()
    model.prompts["query"] = "find: "
    model.tokenizers["query"] = Tokenizer(model.tokenizers["query"].backend, 9, special_tokens=False)
    model.save(tmp_path / "m")
    (tmp_path / "t.txt").write_text("".join(text + "\n" for text in TEXTS))
    rows, printed = encode(tmp_path, "--role", "query")
    close(rows, model.encode_query(TEXTS))
    assert "cut at 9 tokens" in printed
    close(encode(tmp_path, "--role", "document")[0], model.encode_document(TEXTS))
    close(encode(tmp_path, "--role", "query", "--prompt", "read ")[0], model.encode_query(TEXTS, prompt="read "))
    close(encode(tmp_path)[0], model.encode(TEXTS))
    (tmp_path / "o.npy").unlink()
    (tmp_path / ".o.npy.finished.json").unlink()
    before = set(tmp_path.iterdir())
    assert "the role is 'passage': give one of query, document" in encode(tmp_path, "--role", "passage")[1]
    assert set(tmp_path.iterdir()) == before
