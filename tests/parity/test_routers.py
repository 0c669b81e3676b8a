"""Models with a Router go both ways: what either library saves, the other opens, and gives the same embeddings."""

import json

import numpy as np
import pytest
import torch
from models import DATA
from sentence_transformers import SentenceTransformer as Real
from sentence_transformers.base import modules as base
from sentence_transformers.sentence_transformer import modules as dense
from tokenizers import Tokenizer as Backend

from minist import SentenceTransformer

TEXTS = ["The cat sat.", "a", "", "the cat sat, the cat? sat zebra quiz", "sat the", "🙂 猫", "quiz, " * 9]
ROLES = ("query", "document")


def ours(folder):
    return SentenceTransformer(folder, device="cpu")


def theirs(folder):
    return Real(str(folder), device="cpu")


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5, rtol=0)


def check_same(model, real, roles=ROLES):
    """All ways to encode give the same; and routes differ, else that would say little."""
    for role in roles:
        close(model.encode(TEXTS, role=role, prompt=""), real.encode(TEXTS, task=role, prompt=""))
        close(model.encode(TEXTS, role=role, prompt="the cat "), real.encode(TEXTS, task=role, prompt="the cat "))
    a, b = (model.encode(TEXTS, role=role, prompt="") for role in roles)
    assert np.abs(a - b).max() > 0.01
    if roles == ROLES:
        close(model.encode_query(TEXTS), real.encode_query(TEXTS))
        close(model.encode_document(TEXTS), real.encode_document(TEXTS))
    if model.stack.router.default_route:
        close(model.encode(TEXTS), real.encode(TEXTS))
    else:
        with pytest.raises(ValueError, match="Could not determine route"):
            real.encode(TEXTS)
        with pytest.raises(ValueError, match="no default route"):
            model.encode(TEXTS)


def transformer(name="st6/dense"):
    return base.Transformer(str(DATA / "folders" / name))


def static(width=16):
    tokenizer = Backend.from_file(str(DATA / "folders/st6/dense/tokenizer.json"))
    tokenizer.no_truncation()
    return dense.StaticEmbedding(tokenizer, embedding_dim=width)


def fast_queries():
    router = base.Router.for_query_document(
        [static(), base.Normalize()], [transformer(), dense.Pooling(16), base.Normalize()]
    )
    return [router]


def fast_queries_then_normalize():
    return [base.Router.for_query_document([static()], [transformer(), dense.Pooling(16)]), base.Normalize()]


def two_towers():
    shared = base.Dense(16, 5)
    query = [transformer(), dense.Pooling(16, "cls"), shared]
    document = [base.Transformer(str(DATA / "enc/mpnet")), dense.Pooling(16), shared]
    return [base.Router({"query": query, "document": document}, allow_empty_key=False)]


def one_encoder():
    """The same encoder in both routes."""
    first, pooling = transformer(), dense.Pooling(16)
    return [base.Router({"query": [first, pooling], "document": [first, pooling, base.Dense(16, 16)]}, "document")]


def behind_the_pooling():
    router = base.Router({"query": [base.Dense(16, 16)], "document": []}, "document")
    return [transformer(), dense.Pooling(16, include_prompt=False), router, base.Normalize()]


def before_the_pooling():
    on_tokens = base.Dense(16, 16, module_input_name="token_embeddings")
    first = transformer()
    return [base.Router({"query": [first], "document": [first, on_tokens]}), dense.Pooling(16)]


MODELS = [fast_queries, fast_queries_then_normalize, two_towers, one_encoder, behind_the_pooling, before_the_pooling]


@pytest.mark.parametrize("parts", MODELS, ids=lambda parts: parts.__name__)
def test_both_ways(parts, tmp_path):
    torch.manual_seed(0)
    real = Real(modules=parts(), device="cpu", prompts={"query": "quiz: ", "document": "sat "})
    real.save(str(tmp_path / "theirs"), create_model_card=False)
    model = ours(tmp_path / "theirs")
    check_same(model, real)
    model.save(tmp_path / "ours")
    check_same(ours(tmp_path / "ours"), theirs(tmp_path / "ours"))
    check_same(ours(tmp_path / "ours"), real)
    opened = theirs(tmp_path / "ours")
    opened.save(str(tmp_path / "again"), create_model_card=False)
    check_same(ours(tmp_path / "again"), real)


def test_shared_modules_stay_one(tmp_path):
    torch.manual_seed(0)
    real = Real(modules=one_encoder(), device="cpu")
    real.save(str(tmp_path / "theirs"), create_model_card=False)
    model = ours(tmp_path / "theirs")
    model.save(tmp_path / "ours")
    opened = theirs(tmp_path / "ours")
    for routes in (opened[0].sub_modules, model.stack[0].routes, ours(tmp_path / "ours").stack[0].routes):
        assert [routes["query"][i] is routes["document"][i] for i in (0, 1)] == [True, True]


@pytest.mark.parametrize("default", [None, "query", "document"])
@pytest.mark.parametrize("allow_empty_key", [True, False])
def test_default_routes(default, allow_empty_key, tmp_path):
    torch.manual_seed(0)
    routes = {"query": [static()], "document": [static()]}
    real = Real(modules=[base.Router(routes, default, allow_empty_key)], device="cpu")
    real.save(str(tmp_path / "theirs"), create_model_card=False)
    check_same(ours(tmp_path / "theirs"), real)
    ours(tmp_path / "theirs").save(tmp_path / "ours")
    check_same(ours(tmp_path / "ours"), theirs(tmp_path / "ours"))


@pytest.mark.parametrize(
    ("names", "mappings", "roles"),
    [
        ("a b", {("query", "text"): "a", ("document", None): "b"}, ("query", "document")),
        ("a b", {("query", "text"): "a", ("query", None): "b", ("x", None): "b"}, ("query", "x")),
        ("a query", {(None, "text"): "a", ("document", "text"): "query"}, ("query", "document")),
        ("a b", {(None, None): "a", ("x", None): "b"}, ("other", "x")),
        ("text query", {}, ("query", "other")),
        ("b a", {("query", "image"): "b", ("query", None): "a"}, ("query", "b")),
    ],
)
def test_mappings(names, mappings, roles, tmp_path):
    """The rules for which route a role has."""
    torch.manual_seed(0)
    routes = {name: [static()] for name in names.split()}
    real = Real(modules=[base.Router(routes, route_mappings=mappings)], device="cpu")
    real.save(str(tmp_path / "theirs"), create_model_card=False)
    check_same(ours(tmp_path / "theirs"), real, roles)
    ours(tmp_path / "theirs").save(tmp_path / "ours")
    check_same(ours(tmp_path / "ours"), theirs(tmp_path / "ours"), roles)


def test_roles_that_have_no_route(tmp_path):
    real = Real(modules=[base.Router({"a": [static()], "b": [static()]})], device="cpu")
    real.save(str(tmp_path / "m"), create_model_card=False)
    with pytest.raises(ValueError, match="No route found for task type 'query'"):
        real.encode_query(TEXTS)
    with pytest.raises(ValueError, match="the role is 'query': give one of a, b"):
        ours(tmp_path / "m").encode_query(TEXTS)


# ---------------------------------------------------------------- made by hand


def by_hand(folder, file, kind, types, parameters):
    """A shared encoder, and at place 2 a Dense per route, with the names that an older version gives."""
    torch.manual_seed(0)
    parts = [transformer(), dense.Pooling(16), base.Router({"query": [base.Dense(16, 4)], "doc": [base.Dense(16, 4)]})]
    Real(modules=parts, device="cpu").save(str(folder), create_model_card=False)
    place, (query, document) = folder / f"2_{kind}", types
    (folder / "2_Router").rename(place)
    (place / "router_config.json").unlink()
    (place / "query_0_Dense").rename(place / query)
    (place / "doc_0_Dense").rename(place / document)
    content = {"types": types, "structure": {"query": [query], "doc": [document]}, "parameters": parameters}
    (place / file).write_text(json.dumps(content))
    entries = json.loads((folder / "modules.json").read_text())
    entries[2] |= {"path": place.name, "type": f"sentence_transformers.models.{kind}"}
    (folder / "modules.json").write_text(json.dumps(entries))


def test_version_5(tmp_path):
    kind = "sentence_transformers.models.Dense.Dense"
    types = {"query_0_Dense": kind, "doc_0_Dense": kind}
    by_hand(tmp_path, "router_config.json", "Router", types, {"default_route": "doc", "allow_empty_key": True})
    check_same(ours(tmp_path), theirs(tmp_path), ("query", "doc"))


def test_version_4(tmp_path):
    kind = "sentence_transformers.models.Dense.Dense"
    by_hand(tmp_path, "config.json", "Asym", {"140_Dense": kind, "141_Dense": kind}, {"allow_empty_key": True})
    check_same(ours(tmp_path), theirs(tmp_path), ("query", "doc"))
