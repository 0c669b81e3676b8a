"""The on-disk format: a sentence-transformers folder, or a plain Hugging Face checkpoint.

    modules.json                       the modules in order, each with its class and its folder
    config_sentence_transformers.json  prompts, similarity
    config.json, model.safetensors     the encoder
    tokenizer.json, tokenizer_config.json, sentence_bert_config.json
    1_Pooling/config.json, 2_Dense/{config.json, model.safetensors}, 3_Normalize/
    router_config.json                 where routes begin, see router_files.py

Both generations of the format are read (versions 2 to 5, and 6); the older one is written, because
both can open it. Nothing in a folder is ever executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minist.data.tokenizer import NO_LIMIT, Tokenizer
from minist.encoders.bert import BertEncoder
from minist.encoders.families import Encoder
from minist.files import files_into, read_json, write_json
from minist.models.module_files import (
    class_name,
    input_name,
    inside,
    load_encoder,
    load_module,
    reading,
    save_module,
)
from minist.models.router_files import ROUTERS, load_router, module_folders, save_router
from minist.models.tokenizer_files import load_static_tokenizer, load_tokenizer
from minist.models.stack import Stack, before_pooling
from minist.modules.dense import Normalize
from minist.modules.pooling import Pooling
from minist.modules.router import Router
from minist.modules.static_embedding import StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling


@dataclass
class Content:
    """Everything a model folder holds."""

    stack: Stack
    tokenizer: Tokenizer  # of the default route, or the first, where routes have their own
    tokenizers: dict[str, Tokenizer] = field(default_factory=dict)  # by route; empty: the one is for all texts
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None


def content_of(stack: Stack, tokenizer: Tokenizer | Mapping[str, Tokenizer]) -> Content:
    """A model of that stack; `tokenizer` is one for all texts, or one for each route. ValueError for other routes, and
    for two tokenizers of one module."""
    if isinstance(tokenizer, Tokenizer):
        return Content(stack, tokenizer)
    router = stack.router
    if router is None or router.routes.keys() != tokenizer.keys():
        routes = ", ".join(router.routes) if router else "no routes"
        raise ValueError(f"the tokenizers are of {', '.join(tokenizer)}, the model has {routes}: give one for each")
    readers = {(path[0], tokenizer[route or ""]) for route, path in stack.paths.items()}
    if len(readers) > len({module for module, _ in readers}):
        raise ValueError("two routes begin with the same module, so they must have the same tokenizer")
    return Content(stack, tokenizer[router.default_route or next(iter(router.routes))], dict(tokenizer))


# ---------------------------------------------------------------- reading


def load_folder(folder: Path) -> Content:
    """Read a model folder. ValueError if `folder` is none, or holds something that we cannot run."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the path of a saved model")
    if (folder / "modules.json").exists():
        modules, folders = _load_modules(folder)
    elif (folder / "config.json").exists():
        modules = _default_modules(folder)
        folders = {modules[0]: folder}
    else:
        raise ValueError(f"{folder} is not a model: it has neither modules.json nor config.json")
    try:
        stack = Stack(modules)
    except ValueError as e:
        raise ValueError(f"{folder}/modules.json: {e}") from None
    if (folder / "modules.json").exists():
        for path in stack.paths.values():
            _check_inputs(path, folders)
    loaded = {path[0]: _load_tokenizer(folders[path[0]], path[0]) for path in stack.paths.values()}
    tokenizers = {route: loaded[path[0]] for route, path in stack.paths.items() if route is not None}
    content = content_of(stack, tokenizers if len(loaded) > 1 else next(iter(loaded.values())))
    return replace(content, **_load_settings(folder))


Folders = dict[nn.Module, Path]  # where each module was read


def _load_modules(folder: Path) -> tuple[list[nn.Module], Folders]:
    """The modules that modules.json names, and the folder of each, those of a Router's routes among them."""
    file, folders = folder / "modules.json", Folders()

    def load(kind: str, path: Path, file: Path) -> nn.Module:
        module = load_router(path, load) if kind.split(".")[-1] in ROUTERS else load_module(kind, path, file)
        folders[module] = path
        return module

    with reading(file):
        entries = [(str(entry["type"]), inside(folder, entry["path"], file)) for entry in read_json(file)]
    return [load(kind, path, file) for kind, path in entries], folders


def _check_inputs(path: list[nn.Module], folders: Folders) -> None:
    """A module stands on tokens or on texts by its place, and its own config.json must not say otherwise."""
    on_tokens = any(isinstance(module, Pooling) for module in path)
    for module in path[1:]:
        if isinstance(module, Pooling | WeightedLayerPooling):
            on_tokens = on_tokens and not isinstance(module, Pooling)
            continue
        given, fits = input_name(folders[module]), "token_embeddings" if on_tokens else "sentence_embedding"
        if given != fits:
            raise ValueError(
                f"{folders[module]}/config.json: module_input_name is {given}, at its place it must be {fits}"
            )


def _default_modules(folder: Path) -> list[nn.Module]:
    """What a folder without modules.json is: an encoder whose tokens are averaged, or a model2vec model."""
    with reading(folder / "config.json"):
        content = read_json(folder / "config.json")
        if content.get("model_type") != "model2vec":
            encoder = load_encoder(folder)
            return [encoder, Pooling(encoder.width)]
        return [
            load_module("StaticEmbedding", folder, folder / "config.json"),
            *([Normalize()] if content.get("normalize") else []),
        ]


def _load_tokenizer(folder: Path, first: nn.Module) -> Tokenizer:
    if isinstance(first, StaticEmbedding):
        tokenizer, rows = load_static_tokenizer(folder / "tokenizer.json"), first.embedding.num_embeddings
    else:
        assert isinstance(first, Encoder)
        tokenizer, rows = _load_encoder_tokenizer(folder, first.config.max_length), first.config.vocab_size
    if tokenizer.vocab_size > rows:
        raise ValueError(f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, the model {rows}")
    return tokenizer


def _load_encoder_tokenizer(folder: Path, longest: int) -> Tokenizer:
    own = _read_optional(folder / "sentence_bert_config.json")
    config = _read_optional(folder / "tokenizer_config.json")
    wanted = own.get("max_seq_length") or config.get("model_max_length") or NO_LIMIT
    tokenizer = load_tokenizer(folder / "tokenizer.json", int(min(wanted, longest)), own.get("do_lower_case", False))
    tokenizer.config = config
    # as transformers decides whether the second text of a pair has token type 1
    generic = config.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    default = ("input_ids", "attention_mask") if generic else ("input_ids", "attention_mask", "token_type_ids")
    tokenizer.has_types = "token_type_ids" in config.get("model_input_names", default)
    return tokenizer


def _load_settings(folder: Path) -> dict[str, Any]:
    content = _read_optional(folder / "config_sentence_transformers.json")
    return {
        "prompts": {name: text or "" for name, text in (content.get("prompts") or {}).items()},
        "default_prompt_name": content.get("default_prompt_name"),
        "similarity": content.get("similarity_fn_name") or "cosine",
        "truncate_dim": content.get("truncate_dim"),
    }


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


# ---------------------------------------------------------------- writing


def save_folder(content: Content, folder: Path) -> None:
    """Write a model folder; it appears under its name when all of it is there."""
    with files_into(folder) as partial:
        write_folder(content, partial)


def write_folder(content: Content, folder: Path) -> None:
    """Write the files of a model into a folder that exists."""
    stack = content.stack
    names = [class_name(module) for module in stack]
    paths = [""] + [f"{i}_{name}" for i, name in enumerate(names) if i > 0]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    for module, path in zip(stack, paths, strict=True):
        (folder / path).mkdir(exist_ok=True)
        if isinstance(module, Router):
            save_router(module, folder / path)
            for part, below in module_folders(module).items():
                (folder / path / below).mkdir()
                _save_part(part, folder / path / below, content)
        else:
            _save_part(module, folder / path, content)
    _save_settings(content, folder)
    write_json(folder / "modules.json", entries)


def _save_part(module: nn.Module, folder: Path, content: Content) -> None:
    """Write a module, and the tokenizer of one that reads texts."""
    paths = {route: path for route, path in content.stack.paths.items() if module in path}
    all_layers = any(isinstance(other, WeightedLayerPooling) for path in paths.values() for other in path)
    on_tokens = any(module in before_pooling(path) for path in paths.values())
    save_module(module, folder, on_tokens=on_tokens, all_layers=all_layers)
    for route, path in paths.items():
        if module is path[0]:
            _save_tokenizer(content.tokenizers.get(route or "", content.tokenizer), folder, module)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, first: nn.Module) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    if isinstance(first, StaticEmbedding):
        return
    # PreTrainedTokenizerFast reads any tokenizer.json, in all versions of transformers
    types = ["token_type_ids"] if isinstance(first, BertEncoder) and tokenizer.has_types else []
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.max_length,
        "model_input_names": ["input_ids", *types, "attention_mask"],
    }
    write_json(folder / "tokenizer_config.json", tokenizer.config | about)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": tokenizer.max_length, "do_lower_case": False})


def _save_settings(content: Content, folder: Path) -> None:
    settings: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "__version__": {"sentence_transformers": "5.2.0", "pytorch": torch.__version__},
        "prompts": {"query": "", "document": ""} | content.prompts,
        "default_prompt_name": content.default_prompt_name,
        "similarity_fn_name": content.similarity,
    }
    if content.truncate_dim is not None:
        settings["truncate_dim"] = content.truncate_dim
    write_json(folder / "config_sentence_transformers.json", settings)
