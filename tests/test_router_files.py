"""Models with routes on disk: round trips, the files of others, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from routed import KINDS, TEXTS, asymmetric, forked, two_towers
from test_folder import edit
from tiny import tiny_model

from minist.models.folder import load_folder, read_mappings, router_file
from minist.models.hub import missing_files, module_folders
from minist.models.sentence_transformer import SentenceTransformer
from minist.modules.dense import Dense, Normalize
from minist.modules.router import Router


def same(a, b):
    for role in ("query", "document"):
        assert np.array_equal(a.encode(TEXTS, role=role), b.encode(TEXTS, role=role))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read_again(kind, tmp_path):
    model = KINDS[kind]()
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    same(model, loaded)
    assert loaded.routes == model.routes
    assert loaded.stack.router.default_route == model.stack.router.default_route
    assert loaded.tokenizer_for("query").special_tokens == model.tokenizer_for("query").special_tokens
    loaded.save(tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "m")
    assert missing_files(tmp_path / "m") == []  # as hub.py counts them


def test_the_files_are_those_of_version_5(tmp_path):
    asymmetric().save(tmp_path / "m")
    entries = json.loads((tmp_path / "m/modules.json").read_text())
    assert [(entry["path"], entry["type"]) for entry in entries] == [
        ("", "sentence_transformers.models.Router"),
        ("1_Dense", "sentence_transformers.models.Dense"),
    ]
    prefix = "sentence_transformers.models."
    assert json.loads((tmp_path / "m/router_config.json").read_text()) == {
        "types": {
            "query_0_StaticEmbedding": prefix + "StaticEmbedding.StaticEmbedding",
            "query_1_Normalize": prefix + "Normalize.Normalize",
            "document_0_Transformer": prefix + "Transformer.Transformer",
            "document_1_Pooling": prefix + "Pooling.Pooling",
        },
        "structure": {
            "query": ["query_0_StaticEmbedding", "query_1_Normalize"],
            "document": ["document_0_Transformer", "document_1_Pooling"],
        },
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
    names = set(files(tmp_path / "m"))
    assert {"query_0_StaticEmbedding/tokenizer.json", "document_0_Transformer/tokenizer_config.json"} <= names
    assert "tokenizer.json" not in names


def test_a_shared_module_is_saved_once(tmp_path):
    two_towers().save(tmp_path / "m")
    structure = json.loads((tmp_path / "m/router_config.json").read_text())["structure"]
    assert structure["document"] == ["document_0_Transformer", "document_1_Pooling", "query_2_Dense"]
    assert not (tmp_path / "m/document_2_Dense").exists()
    routes = load_folder(tmp_path / "m").stack.router.routes
    assert routes["query"][2] is routes["document"][2]


def test_a_shared_encoder_has_one_tokenizer(tmp_path):
    plain = tiny_model()
    router = Router({"query": list(plain.stack), "document": [*plain.stack, Normalize()]})
    model = SentenceTransformer.from_modules([router], plain.tokenizer)
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    same(model, loaded)
    assert loaded.tokenizer_for("query") is loaded.tokenizer_for("document")


def test_modules_before_the_pooling_inside_a_route(tmp_path):
    """The pooling stands behind the Router; what is before it says so in its own file."""
    plain = tiny_model()
    encoder, pooling = plain.stack
    torch.manual_seed(0)
    router = Router({"query": [encoder], "document": [encoder, Dense(16, 16)]}, "query")
    model = SentenceTransformer.from_modules([router, pooling, Normalize()], plain.tokenizer)
    model.save(tmp_path / "m")
    assert json.loads((tmp_path / "m/document_1_Dense/config.json").read_text())["module_input_name"] == (
        "token_embeddings"
    )
    same(model, SentenceTransformer(tmp_path / "m"))
    edit(tmp_path / "m/document_1_Dense/config.json", module_input_name="sentence_embedding", module_output_name=None)
    with pytest.raises(ValueError, match=r"document_1_Dense/config\.json: module_input_name is sentence_embedding"):
        load_folder(tmp_path / "m")


def test_a_model_without_a_default_route(tmp_path):
    two_towers().save(tmp_path / "m")
    parameters = json.loads((tmp_path / "m/router_config.json").read_text())["parameters"]
    assert parameters == {"default_route": None, "allow_empty_key": False}
    with pytest.raises(ValueError, match="no role is given, and the model has no default route"):
        SentenceTransformer(tmp_path / "m").encode(TEXTS)


def test_settings_are_kept(tmp_path):
    model = forked()
    model.prompts["query"], model.truncate_dim, model.similarity_name = "find: ", 5, "dot"
    model.save(tmp_path / "m")
    loaded = SentenceTransformer(tmp_path / "m")
    assert (loaded.prompts["query"], loaded.truncate_dim, loaded.similarity_name) == ("find: ", 5, "dot")


# ---------------------------------------------------------------- what others wrote


def test_default_routes_of_others(tmp_path):
    two_towers().save(tmp_path / "m")
    file = tmp_path / "m/router_config.json"
    for parameters, expected in [
        ({"default_route": "document", "allow_empty_key": False}, "document"),
        ({"default_route": None, "allow_empty_key": True}, "query"),  # the first
        ({}, "query"),
        ({"allow_empty_key": False}, None),
    ]:
        edit(file, parameters=parameters)
        assert load_folder(tmp_path / "m").stack.router.default_route == expected


def test_mappings(tmp_path):
    model = asymmetric(mappings={"question": "query", None: "document"})
    model.save(tmp_path / "m")
    parameters = json.loads((tmp_path / "m/router_config.json").read_text())["parameters"]
    assert parameters["route_mappings"] == {"('question', 'text')": "query", "(None, 'text')": "document"}
    loaded = SentenceTransformer(tmp_path / "m")
    assert loaded.stack.router.mappings == {"question": "query", None: "document"}
    assert np.array_equal(loaded.encode(TEXTS, role="question"), asymmetric().encode_query(TEXTS))
    assert np.array_equal(loaded.encode_query(TEXTS), asymmetric().encode_document(TEXTS))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({}, {}),
        ({"('query', None)": "a"}, {"query": "a"}),
        ({"('query', 'text')": "b", "('query', None)": "a"}, {"query": "b"}),
        ({"(None, None)": "a", "(None, 'text')": "b"}, {None: "b"}),
        ({"('query', 'image')": "a", "(None, ('image', 'text'))": "b", "(None, None)": "c"}, {None: "c"}),
    ],
)
def test_read_mappings(entries, expected):
    assert read_mappings(entries) == expected


def old_router(folder):
    """As up to version 4: the class is Asym, the file config.json, and folders are called by numbers."""
    forked().save(folder)
    place = folder / "2_Router"
    content = json.loads((place / "router_config.json").read_text())
    kind = content["types"].pop("query_0_Dense").replace("models.Dense.Dense", "models.Dense")
    content["types"]["140242_Dense"] = kind
    content["structure"] = {"query": ["140242_Dense"], "document": []}
    content["parameters"] = {"allow_empty_key": True}
    (place / "config.json").write_text(json.dumps(content))
    (place / "router_config.json").unlink()
    (place / "query_0_Dense").rename(place / "140242_Dense")
    place.rename(folder / "2_Asym")
    entries = json.loads((folder / "modules.json").read_text())
    entries[2] |= {"path": "2_Asym", "type": "sentence_transformers.models.Asym"}
    (folder / "modules.json").write_text(json.dumps(entries))
    return folder


def test_a_router_of_version_4(tmp_path):
    folder = old_router(tmp_path / "m")
    loaded = SentenceTransformer(folder)
    same(loaded, forked())
    assert loaded.stack.router.default_route == "query"
    assert router_file(folder / "2_Asym").name == "config.json"
    assert ("Dense", folder / "2_Asym/140242_Dense") in module_folders(folder)
    assert missing_files(folder) == []
    (folder / "2_Asym/140242_Dense/model.safetensors").unlink()
    assert missing_files(folder) == ["2_Asym/140242_Dense/model.safetensors"]


# ---------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router") / "m"
    asymmetric().save(folder)
    return folder


OTHER = "sentence_transformers.models.CLIPModel.CLIPModel"


def renamed(content, name, other):
    """The folder `name` of a Router called otherwise."""
    return json.loads(json.dumps(content).replace(json.dumps(name), json.dumps(other)))


def drop(table, key):
    del table[key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: renamed(c, "query_1_Normalize", "../x"), r"router_config\.json: it names the path '\.\./x', which"),
        (lambda c: renamed(c, "query_1_Normalize", "/etc"), r"router_config\.json: it names the path '/etc', which l"),
        (
            lambda c: c["types"].update(query_0_StaticEmbedding=OTHER),
            "router_config.json: the class of a module is 'CLIPModel'",
        ),
        (
            lambda c: c["types"].update(query_0_StaticEmbedding="os.system"),
            "the class of a module is 'system', known are Transformer",
        ),
        (
            lambda c: drop(c["types"], "query_1_Normalize"),
            "not as a saved model has it: 'query_1_Normalize' is missing",
        ),
        (lambda c: drop(c, "structure"), "not as a saved model has it: 'structure' is missing"),
        (lambda c: c.update(structure=["query"]), r"router_config\.json is not as a saved model has it"),
        (lambda c: c.update(structure={}), r"router_config\.json: Router: a route cannot be called ''"),
        (lambda c: renamed(c, "query", "../x"), r"router_config\.json: Router: a route cannot be called '\.\./x'"),
        (lambda c: c["parameters"].update(default_route="x"), r"router_config\.json: Router: there is no route 'x'"),
        (lambda c: c["parameters"].update(route_mappings={"('a', None)": "x"}), "there is no route 'x'"),
        (lambda c: c["parameters"].update(route_mappings={"query": "query"}), "route_mappings has the keys query, not"),
        (lambda c: c["parameters"].update(route_mappings={"f()": "query"}), "route_mappings has the keys f"),
        (lambda c: c["parameters"].update(route_mappings={"(": "query"}), "route_mappings has the keys"),
        (lambda c: c["parameters"].update(route_mappings=3), r"router_config\.json is not as a saved model has it"),
        (lambda c: c["structure"].update(document=[]), r"modules\.json: the route 'document': the modules are Dense"),
        (
            lambda c: c["structure"].update(document=["document_0_Transformer"]),
            "the route 'document': .* embeddings, and here it gets|they must end in",
        ),
    ],
)
def test_broken_files(saved, tmp_path, change, message):
    shutil.copytree(saved, tmp_path / "m")
    file = tmp_path / "m/router_config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path / "m")


def test_a_missing_file(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    (tmp_path / "m/query_0_StaticEmbedding/tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"query_0_StaticEmbedding has no tokenizer\.json"):
        load_folder(tmp_path / "m")
    (tmp_path / "m/router_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"router_config\.json"):
        load_folder(tmp_path / "m")
