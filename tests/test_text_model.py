"""Roles: a text goes the way of its role, with its tokenizer and its prompt, and columns keep their order."""

import json

import numpy as np
import pytest
import torch
from routed import KINDS, TEXTS, asymmetric, forked, static_parts, two_towers
from tiny import sentences, tiny_model

from minist.batch import Batch
from minist.data.packed import Packed
from minist.diagnostics import describe_batch
from minist.models import MODELS, open_model, text_model
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
    close(model([packed], ["query"])[0][0].detach(), model.encode(TEXTS))
    close(model.encode(TEXTS, role="query"), model.encode(TEXTS, prompt="find: "), 0)
    close(model.encode(TEXTS, role="topic"), model.encode(TEXTS, prompt="sort: "), 0)
    with pytest.raises(ValueError, match=r"the role is 'quarry', known are query, document, topic"):
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
    for (x,), role, column in zip(found, roles, texts, strict=True):
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
    assert [x.shape for (x,) in found] == [(0, 8), (0, 8)]
    sum(x.sum() for (x,) in found).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_only_the_route_that_was_taken_is_trained():
    model = asymmetric()
    model([model.tokenizer_for("query")(TEXTS).packed()], ["query"])[0][0].square().sum().backward()
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
    with pytest.raises(ValueError, match="the tokenizers are of query, the routes are query, document: give one for"):
        SentenceTransformer.from_modules([router], {"query": fast})
    with pytest.raises(ValueError, match="the tokenizers are of query, the routes are none"):
        SentenceTransformer.from_modules(list(plain.stack), {"query": fast})
    twice = Router({"query": list(plain.stack), "document": [*plain.stack, Normalize()]})
    with pytest.raises(ValueError, match="the same where routes begin with the same module"):
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


@pytest.mark.slow
def test_several_devices():
    model = asymmetric()
    close(model.encode_query(TEXTS, device=["cpu"]), model.encode_query(TEXTS))


def test_a_kind_of_model_needs_no_more_than_a_stack_and_tokenizers():
    model = TextModel(asymmetric().content())
    packed = model.tokenizer_for("query")(TEXTS).packed()
    with model.inference():
        close(model([packed], ["query"])[0][0], asymmetric().encode_query(TEXTS))
    embeddings, cut = model.embed(TEXTS, "", 0, lambda n: None, "query")
    close(embeddings, asymmetric().encode_query(TEXTS))
    assert cut == 0


# ---------------------------------------------------------------- kinds of models


class Halved(SentenceTransformer):
    """A kind of model of a user's own."""

    def forward(self, columns, roles=(), outputs=()):
        return [(x / 2, *more) for x, *more in super().forward(columns, roles, outputs)]


def test_a_model_is_opened_by_its_kind(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "Halved", Halved)
    plain = tiny_model()
    plain.save(tmp_path / "plain")
    assert type(opened := open_model(tmp_path / "plain", device="cpu")) is SentenceTransformer
    assert not opened.training
    Halved(plain.content()).save(tmp_path / "halved")
    for opened in (open_model(tmp_path / "halved"), open_model(tmp_path / "plain", "Halved", keep_layers=[0, 1])):
        assert type(opened) is Halved
        close(opened.encode(TEXTS), plain.encode(TEXTS) / 2)
    assert open_model(tmp_path / "plain", dtype="bfloat16").dtype == torch.bfloat16
    assert len(open_model(tmp_path / "plain", keep_layers=[1]).stack[0].layers) == 1
    (tmp_path / "plain/config_sentence_transformers.json").unlink()
    assert type(open_model(tmp_path / "plain")) is SentenceTransformer
    with pytest.raises(
        ValueError,
        match=r"the type of the model .*plain is 'Other', known are SentenceTransformer, SparseEncoder, .*MaskedLM, H",
    ):
        open_model(tmp_path / "plain", "Other")


def test_a_model_round_an_encoder():
    plain = tiny_model()
    model = SentenceTransformer.from_encoder(plain.stack[0], plain.tokenizer, "cls")
    assert model.stack[1].modes == ("cls",)
    close(model.encode(TEXTS), np.stack([tokens[0] for tokens in plain.encode_tokens(TEXTS)]))


def test_settings_that_mean_nothing_here_are_kept(tmp_path):
    tiny_model().save(tmp_path / "m")
    file = tmp_path / "m/config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"somebody's": [1, 2], "prompts": {"query": "q: "}}))
    SentenceTransformer(tmp_path / "m").save(tmp_path / "again")
    settings = json.loads((tmp_path / "again/config_sentence_transformers.json").read_text())
    assert settings["somebody's"] == [1, 2]
    assert settings["prompts"] == {"query": "q: ", "document": ""}
    assert settings["model_type"] == "SentenceTransformer"


def test_what_is_logged_of_a_batch():
    model = tiny_model()
    embeddings = [torch.from_numpy(model.encode(TEXTS)), torch.from_numpy(model.encode(TEXTS[::-1]))]
    assert model.describe(embeddings, Batch(())) == describe_batch(embeddings)
    assert {"accuracy", "uniformity"} <= model.describe(embeddings, Batch(())).keys()


# ---------------------------------------------------------------- lengths and modes


def test_max_length_cuts_and_is_saved(tmp_path):
    model, texts = tiny_model(), sentences(20, longest=60)
    assert model.max_length == 32
    assert [len(x) for x in model.encode_tokens(texts)] == model.tokenizer(texts).lengths.tolist()
    model.max_length = 9
    assert max(len(x) for x in model.encode_tokens(texts)) == model.max_length == model.tokenizer.max_length == 9
    assert model.embed(texts, "", 0, lambda n: None, None)[1] == sum(len(text.split()) > 7 for text in texts)
    model.save(tmp_path / "m")
    saved = SentenceTransformer(tmp_path / "m")
    assert saved.max_length == 9
    close(saved.encode(texts), model.encode(texts), 0)
    saved.max_length = 34  # as many positions as its encoder has
    with pytest.raises(ValueError, match=r"max_length, .*, is 35: use a number at least 4 and at most 34"):
        saved.max_length = 35
    with pytest.raises(ValueError, match=r"is 35: use a number"):
        saved.tokenizer.max_length = 35


def test_max_length_of_all_routes():
    model = asymmetric()
    model.max_length = 5
    assert [model.tokenizer_for(role).max_length for role in ("query", "document")] == [5, 5]


@pytest.mark.parametrize("name", ["max_seq_length", "similarity_fn_name"])
def test_what_is_set_on_a_model_of_sentence_transformers(name):
    with pytest.raises(ValueError, match=f"a model has no {name} here: it is called (max_length|similarity_name)"):
        setattr(tiny_model(), name, 128)


@pytest.mark.parametrize(("name", "ours"), [("max_seq_length", "max_length"), ("save_pretrained", "save")])
def test_what_is_asked_of_a_model_of_sentence_transformers(name, ours):
    with pytest.raises(AttributeError, match=f"a model has no {name} here: it is called {ours}$"):
        getattr(tiny_model(), name)
    assert not hasattr(tiny_model(), "anything_else")


def test_a_loaded_model_is_in_eval_mode(tmp_path):
    model = tiny_model(encoder={"hidden_dropout_prob": 0.5})
    model.train().save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    assert not any(module.training for module in loaded.modules())
    packed = loaded.tokenizer(TEXTS).packed()
    assert torch.equal(loaded([packed])[0][0], loaded([packed])[0][0])


def test_an_error_in_encode_leaves_the_mode_as_it_was(monkeypatch):
    model = tiny_model().train()
    model.stack[1].eval()
    before = [module.training for module in model.modules()]

    def full(*arguments):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(model.stack[0], "forward", full)
    for call in (model.encode, model.encode_tokens):
        with pytest.raises(torch.OutOfMemoryError):
            call(TEXTS)
        assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_the_callers_mode_is_its_own_between_chunks(monkeypatch):
    monkeypatch.setattr(text_model, "CHUNK", 2)
    model, seen = tiny_model().train(), []
    for _, parts, _ in model.rows(TEXTS, "", None, 0, lambda batch: batch.n, lambda n: None):
        seen += parts
        assert model.training and not torch.is_inference_mode_enabled()
    assert sum(seen) == len(TEXTS)


# ---------------------------------------------------------------- texts and prompts


@pytest.mark.parametrize("call", ["encode", "encode_tokens"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "is None: give a text, or a tuple of two"),
        (float("nan"), "is nan: give a text"),
        (b"read", "is b'read': give a text"),
        (["read", "write"], r"is \['read', 'write'\]: give a text, or a tuple of two for a pair"),
        (("read", "write", "sort"), r"is \('read', 'write', 'sort'\): give a text, or a tuple of two"),
        (("read", None), "is None: give a text"),
        ({"text": "read"}, "is {'text': 'read'}: give a text"),
        ("read \ud800", r"is 'read \\ud800', whose character 5 is half of a surrogate pair"),
        (np.array([["read"]]), r"is array\("),
        ([0] * 1000, r"is \[0, [0, ]+\.\.: give a text"),
    ],
)
def test_what_is_no_text(call, wrong, message):
    with pytest.raises(ValueError, match=rf"^texts\[3\] {message}") as caught:
        getattr(tiny_model(), call)(["read", ("a", "b"), np.str_("sort"), wrong])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("wrong", [None, float("nan"), b"read", {"text": "read"}, {"read"}, 5], ids=repr)
def test_what_are_no_texts(wrong):
    with pytest.raises(ValueError, match=r"^texts is [^\n]*: give a text or a list of texts$"):
        tiny_model().encode(wrong)


def test_texts_of_other_containers():
    model = tiny_model()
    expected = model.encode(TEXTS)
    for texts in (np.array(TEXTS), np.array(TEXTS, dtype=object), tuple(TEXTS), (text for text in TEXTS)):
        close(model.encode(texts), expected, 0)
    close(model.encode(np.str_(TEXTS[0])), model.encode(TEXTS[0]), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": {"query": "\ud800"}}, r"the prompt is '\\ud800', whose character 0 is half"),
        ({"prompts": {"query": 5}}, "prompts.query is 5: it must be a text"),
        ({"default_prompt_name": 5}, "default_prompt_name is 5: it must be a text"),
        ({"default_prompt_name": "other"}, "the prompt name is 'other', known are query, document"),
        ({"similarity_fn_name": "nearness"}, "nearness"),
        ({"truncate_dim": 17}, "truncate_dim is 17: use a number at least 1 and at most 16"),
    ],
)
def test_settings_of_a_folder_that_are_not_possible(tmp_path, settings, message):
    tiny_model().save(tmp_path / "m")
    file = tmp_path / "m/config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    with pytest.raises(ValueError, match=message) as caught:
        SentenceTransformer(tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [5, b"find: ", ("a", "b"), "\udfff"])
def test_a_prompt_that_is_no_text(wrong):
    with pytest.raises(ValueError, match=r"^the prompt is "):
        tiny_model().encode(TEXTS, prompt=wrong)
