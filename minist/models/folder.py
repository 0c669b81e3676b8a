"""The on-disk format: a sentence-transformers folder, or a plain Hugging Face checkpoint.

    modules.json                       the modules in order, each with its class and its folder
    config_sentence_transformers.json  settings: prompts, similarity, kind of model
    config.json, model.safetensors     the encoder, and the ClassificationHead of a cross-encoder
    tokenizer.json, tokenizer_config.json, sentence_bert_config.json
    1_Pooling/config.json, 2_Dense/{config.json, model.safetensors}, 3_Normalize/
    router_config.json                 the routes of a Router, their modules, and the class of each folder:

{"types":      {"query_0_StaticEmbedding": "<class>", "document_0_Transformer": "<class>", "document_1_Pooling": ..},
 "structure":  {"query": ["query_0_StaticEmbedding"], "document": ["document_0_Transformer", "document_1_Pooling"]},
 "parameters": {"default_route": "document", "allow_empty_key": true}}

A module that several routes share has one folder, which each of them names. Up to version 4 the class was called Asym
and the file config.json; version 6 adds `route_mappings` to the parameters. Both generations of the format are read
(versions 2 to 5, and 6); the older one is written, see saving.py. Nothing in a folder is ever executed."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from minist.checks import listing, number, pick
from minist.data.tokenizer import Tokenizer
from minist.models import adapter
from minist.models.reading import is_file, read_optional, read_table, read_value, read_weights, reading
from minist.models.stack import Stack, check_path
from minist.models.tokenizer_files import load_tokenizer, transformer_settings
from minist.module import Module
from minist.modules import MODULES
from minist.modules.classification_head import ClassificationHead
from minist.modules.dense import Normalize
from minist.modules.pooling import Pooling
from minist.modules.router import Router

SETTINGS = "config_sentence_transformers.json"
VERSION = "5.2.0"  # of sentence-transformers, whose format is written
TEXTS = ("default_prompt_name", "similarity_fn_name", "model_type", "activation_fn")  # settings that are a text


@dataclass
class Content:
    """What a model folder holds."""

    stack: Stack
    tokenizers: dict[str | None, Tokenizer]  # by route, None where there is one path for all texts
    settings: dict[str, Any]  # config_sentence_transformers.json, unknown keys too

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the default route, else of the first."""
        default = self.stack.router.default_route if self.stack.router else None
        return self.tokenizers.get(default) or next(iter(self.tokenizers.values()))


def content_of(stack: Stack, tokenizer: Tokenizer | Mapping[str, Tokenizer]) -> Content:
    """A model of that stack; `tokenizer` is one for all texts, or one for each route."""
    paths = stack.paths
    given: dict[Any, Tokenizer] = dict.fromkeys(paths, tokenizer) if isinstance(tokenizer, Tokenizer) else {**tokenizer}
    readers = {(path[0], given.get(route)) for route, path in paths.items()}
    if given.keys() != paths.keys() or len(readers) > len({reader for reader, _ in readers}):
        known, same = listing(filter(None, paths)), "the same where routes begin with the same module"
        raise ValueError(f"the tokenizers are of {listing(given)}, the routes are {known}: give one for each, {same}")
    return Content(stack, given, {})


def load_folder(folder: Path) -> Content:
    """Read a model folder, see hub.py for what is none. ValueError where it holds something that we cannot run."""
    file = folder / "modules.json"
    has_list = is_file(file)
    if is_file(folder / adapter.CONFIG) and not has_list and (base := base_model(folder)) != folder:
        return with_adapter(load_folder(base), folder)  # PEFT's own: all else is as in the model that it adapts
    parts = [load_part(*part) for part in listed_modules(folder)] if has_list else [_default_modules(folder)]
    modules = [module for part in parts for module in part]
    if has_list and holds_scores(folder):
        modules.append(load_module("ClassificationHead", modules[0].folder))
    with reading(file):
        stack = Stack(modules)
    settings = load_settings(folder / SETTINGS)
    if stack.gives == "scores":
        settings = {"model_type": "CrossEncoder", "activation_fn": old_activation(modules[0].folder)} | settings
    elif has_list:
        settings = {"model_type": "SparseEncoder" if stack.gives == "sparse" else "SentenceTransformer"} | settings
    for path in stack.paths.values() if has_list else ():
        _check_inputs(path)
    loaded = {path[0]: load_tokenizer(path[0].folder, path[0]) for path in stack.paths.values()}
    return Content(stack, {route: loaded[path[0]] for route, path in stack.paths.items()}, settings)


def load_part(name: str, folder: Path) -> list[Module]:
    """The module of class `name` in a folder, and the head that is in its files, if that scores words."""
    module, words = load_module(name, folder), name == "MLMTransformer"  # as version 5 calls such an encoder
    if module.gives == "layers" and not words:
        words = transformer_settings(folder).get("transformer_task") == "fill-mask"  # as version 6 says it
    return [module, load_module("MaskedLMHead", folder)] if words else [module]


def load_module(name: str, folder: Path) -> Module:
    kind = MODULES[name]
    if kind is Router:
        return _load_router(folder)
    model, is_adapted = base_model(folder), is_file(folder / adapter.CONFIG)
    base = folder if model == folder else listed_modules(model)[0][1]  # where the encoder's own weights are
    file = base / "config.json"
    config = read_table(file) if kind.has_config else read_optional(file)
    weights = read_weights(base) if kind.has_weights else {}
    with reading(file):
        if is_adapted and kind is ClassificationHead:
            labels = read_optional(folder / SETTINGS).get("id2label")
            config, weights = adapter.Adapter(folder, config["model_type"]).head(config, weights, labels)
        module: Any = kind.from_folder(config, weights)
    module.folder = folder
    if is_adapted and module.gives == "layers":
        adapter.Adapter(folder, module.model_type).put_on(module, base, has_head(folder))
    return module


def base_model(folder: Path) -> Path:
    """The model that an adapter in `folder` was made for; the folder itself where it has all that a model needs."""
    from minist.models.hub import find_model  # which imports this file, to know what to fetch of a model

    file = folder / adapter.CONFIG
    if not is_file(file) or is_file(folder / "config.json"):  # transformers decides alike
        return folder
    config = read_table(file)
    with reading(file):
        base = find_model(str(config.get("base_model_name_or_path") or ""), config.get("revision"))
        if is_file(base / adapter.CONFIG) and not is_file(base / "config.json"):  # it might lead back, for ever
            raise ValueError(f"base_model_name_or_path is {base}, an adapter: name the model that is adapted")
    return base


def with_adapter(content: Content, folder: Path) -> Content:
    """The model with the adapter in `folder`; with a ClassificationHead, if the adapter has one."""
    encoder: Any = content.stack.reader()
    if encoder.adapter or not encoder.num_layers:
        what = "has an adapter already: call merge_adapter() first" if encoder.adapter else "begins with no encoder"
        raise ValueError(f"{folder} is an adapter, but the model in {encoder.folder} {what}")
    given, is_scored = adapter.Adapter(folder, encoder.model_type), content.stack.gives == "scores"
    given.put_on(encoder, encoder.folder, is_scored or given.has_head)
    if not is_scored and not given.has_head:
        return content
    config, weights = read_table(encoder.folder / "config.json"), read_weights(encoder.folder)
    with reading(folder):
        stack = Stack([encoder, ClassificationHead.from_folder(*given.head(config, weights, None))])
    return replace(content, stack=stack, settings=content.settings if is_scored else {"model_type": "CrossEncoder"})


def listed_modules(folder: Path) -> list[tuple[str, Path]]:
    """Class and folder of each module in modules.json, checked before any weights are read; without it an encoder."""
    file = folder / "modules.json"
    entries = read_value(file) if is_file(file) else [{"path": "", "type": "Transformer"}]
    with reading(file):
        return [_place(file, entry["path"], entry["type"]) for entry in entries]


def routed_modules(file: Path) -> dict[str, tuple[str, Path]]:
    """The same of the modules of routes in router_config.json, by the names that they have there."""
    types = read_optional(file).get("types", {})
    with reading(file):
        return {name: _place(file, name, kind) for name, kind in types.items()}


def _place(file: Path, path: str, kind: Any) -> tuple[str, Path]:
    name = str(kind).split(".")[-1]  # both generations end in the class name
    pick("the class of a module", name, MODULES)
    path.encode()  # half of a pair of surrogates names no file
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"it names the path {path!r}, which leaves the model folder")
    return name, file.parent / path


def router_file(folder: Path) -> Path:
    """Where the routes are named: router_config.json, or the config.json of an older one."""
    new, old = folder / "router_config.json", folder / "config.json"
    return old if old.exists() and not new.exists() else new


def _load_router(folder: Path) -> Router:
    file = router_file(folder)
    content, parts = read_table(file), routed_modules(file)
    with reading(file):
        structure = {route: list(names) for route, names in content["structure"].items()}
        used = {name: parts[name] for names in structure.values() for name in names}
        parameters = content.get("parameters") or {}
        default = parameters.get("default_route")
        if default is None and parameters.get("allow_empty_key", True):
            default = next(iter(structure), None)
        mappings = read_mappings(parameters.get("route_mappings") or {})
        if Router in (MODULES[kind] for kind, _ in used.values()):  # it might lead back to this one, for ever
            raise ValueError("a route leads to another Router: only one is possible, with longer routes")
    modules = {name: load_part(*place) for name, place in used.items()}  # a shared one once
    with reading(file):
        routes = {route: [part for name in names for part in modules[name]] for route, names in structure.items()}
        return Router(routes, default, mappings)


def read_mappings(entries: dict[str, str]) -> dict[str | None, str]:
    """Role -> route, of keys such as "('query', 'text')" and "(None, None)"; those of images are left out."""
    try:
        pairs = {ast.literal_eval(key): route for key, route in entries.items()}
        anything = {role: route for (role, modality), route in pairs.items() if modality is None}
        texts = {role: route for (role, modality), route in pairs.items() if modality == "text"}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"route_mappings has the keys {listing(entries)}, not all like ('query', 'text')") from None
    return anything | texts  # what is said of texts goes first


def _check_inputs(path: list[Module]) -> None:
    """What a module is given follows from its place, and its own config.json must not say otherwise."""
    for module, kind in zip(path, check_path(path)[0], strict=True):
        if module.gives:  # its class says what it takes
            continue
        file, fits = module.folder / "config.json", "token_embeddings" if kind == "tokens" else "sentence_embedding"
        config = read_optional(file)
        given = config.get("module_input_name") or "sentence_embedding"
        if given != fits or (config.get("module_output_name") or given) != given:
            raise ValueError(f"{file}: module_input_name is {given}, at its place it and the output's must be {fits}")


def _default_modules(folder: Path) -> list[Module]:
    """What a folder without modules.json is: an encoder whose tokens are averaged, or a model2vec model."""
    if not is_file(folder / "config.json"):
        raise ValueError(f"{folder} is not a model: it has neither modules.json nor config.json")
    left = [path.name for path in [folder / SETTINGS, *folder.glob("*_Pooling")] if path.exists()]
    if left:  # how its tokens were pooled would be a guess
        raise ValueError(f"{folder} has no modules.json, but {left[0]}: it is a saved model of which a file is missing")
    config = read_table(folder / "config.json")
    if config.get("model_type") == "model2vec":
        return [load_module("StaticEmbedding", folder), *([Normalize()] if config.get("normalize") else [])]
    encoder: Any = load_module("Transformer", folder)
    return [encoder, load_module("ClassificationHead", folder) if has_head(folder) else Pooling(encoder.out_width)]


def holds_scores(folder: Path) -> bool:
    """Whether a model folder is one of a cross-encoder, without reading its weights."""
    if (base := base_model(folder)) != folder and not is_file(folder / "modules.json"):  # PEFT's own
        return holds_scores(base) or read_table(folder / adapter.CONFIG).get("task_type") == "SEQ_CLS"
    modules = listed_modules(folder)
    return [name for name, _ in modules] == ["Transformer"] and has_head(modules[0][1])


def load_settings(file: Path) -> dict[str, Any]:
    settings = read_optional(file)
    with reading(file):
        texts = {name: settings.get(name) for name in TEXTS}
        texts |= {f"prompts.{name}": text for name, text in (settings.get("prompts") or {}).items()}
        for name, text in texts.items():
            if type(text) not in (str, type(None)):
                raise ValueError(f"{name} is {repr(text)[:60]}: it must be a text or null")
        if settings.get("truncate_dim") is not None:
            number("truncate_dim", settings["truncate_dim"], 1)
    return settings


def has_head(folder: Path) -> bool:
    """Whether an encoder's folder holds a ClassificationHead that is used: as version 6 says it, or a checkpoint."""
    task = transformer_settings(folder).get("transformer_task")
    names = read_optional(folder / "config.json").get("architectures") or [] if task is None else [f"{task}"]
    with reading(folder / "config.json"):
        return str(names[0]).endswith((ClassificationHead.within, "sequence-classification")) if names else False


def old_activation(folder: Path) -> Any:
    """What a CrossEncoder's config.json says of its activation: version 4 and 5, or before."""
    config = read_optional(folder / "config.json")
    with reading(folder / "config.json"):
        new = (config.get("sentence_transformers") or {}).get("activation_fn")
        return new or config.get("sbert_ce_default_activation_function")
