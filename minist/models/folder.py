"""The on-disk format: a sentence-transformers folder, or a plain Hugging Face checkpoint.

    modules.json                       the modules in order, each with its class and its folder
    config_sentence_transformers.json  prompts, similarity
    config.json, model.safetensors     the encoder
    tokenizer.json, tokenizer_config.json, sentence_bert_config.json
    1_Pooling/config.json, 2_Dense/{config.json, model.safetensors}, 3_Normalize/

Both generations of the format are read (versions 2 to 5, and 6); the older one is written, because
both can open it. Nothing in a folder is ever executed.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from minist.data.tokenizer import NO_LIMIT, Tokenizer, load_static_tokenizer, load_tokenizer
from minist.encoders.bert import BertEncoder
from minist.encoders.families import Encoder
from minist.files import complete_folder, read_json, write_json
from minist.models.module_files import input_name, load_encoder, load_module, reading, save_module
from minist.models.stack import Stack
from minist.modules.dense import Normalize
from minist.modules.pooling import Pooling
from minist.modules.static_embedding import StaticEmbedding
from minist.modules.weighted_layer_pooling import WeightedLayerPooling


@dataclass
class Content:
    """Everything a model folder holds."""

    stack: Stack
    tokenizer: Tokenizer
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None


# ---------------------------------------------------------------- reading


def load_folder(folder: Path) -> Content:
    """Read a model folder. ValueError if `folder` is none, or holds something that we cannot run."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the path of a saved model")
    if (folder / "modules.json").exists():
        places = _places(folder)
        modules = [load_module(kind, path) for kind, path in places]
        _check_inputs(modules, [path for _, path in places])
    elif (folder / "config.json").exists():
        places, modules = [("", folder)], _default_modules(folder)
    else:
        raise ValueError(f"{folder} is not a model: it has neither modules.json nor config.json")
    try:
        stack = Stack(modules)
    except ValueError as e:
        raise ValueError(f"{folder}/modules.json: {e}") from None
    return Content(stack, _load_tokenizer(places[0][1], stack[0]), **_load_settings(folder))


def _places(folder: Path) -> list[tuple[str, Path]]:
    """The class and the folder of each module."""
    with reading(folder / "modules.json"):
        entries = read_json(folder / "modules.json")
        return [(str(entry["type"]), _inside(folder, entry["path"])) for entry in entries]


def _inside(folder: Path, relative: str) -> Path:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{folder}/modules.json names the path {relative!r}, which leaves the model folder")
    return folder / path


def _check_inputs(modules: list[nn.Module], paths: list[Path]) -> None:
    """A module stands on tokens or on texts by its place, and its own config.json must not say otherwise."""
    on_tokens = any(isinstance(module, Pooling) for module in modules)
    for module, path in zip(modules[1:], paths[1:], strict=True):
        if isinstance(module, Pooling | WeightedLayerPooling):
            on_tokens = on_tokens and not isinstance(module, Pooling)
            continue
        given, fits = input_name(path), "token_embeddings" if on_tokens else "sentence_embedding"
        if given != fits:
            raise ValueError(f"{path}/config.json: module_input_name is {given}, at its place it must be {fits}")


def _default_modules(folder: Path) -> list[nn.Module]:
    """What a folder without modules.json is: an encoder whose tokens are averaged, or a model2vec model."""
    with reading(folder / "config.json"):
        content = read_json(folder / "config.json")
        if content.get("model_type") != "model2vec":
            encoder = load_encoder(folder)
            return [encoder, Pooling(encoder.width)]
        return [load_module("StaticEmbedding", folder), *([Normalize()] if content.get("normalize") else [])]


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
    with complete_folder(folder, marker="modules.json") as partial:
        write_folder(content, partial)


def write_folder(content: Content, folder: Path) -> None:
    """Write the files of a model into a folder that exists."""
    stack = content.stack
    names = ["Transformer" if isinstance(module, Encoder) else type(module).__name__ for module in stack]
    paths = [""] + [f"{i}_{name}" for i, name in enumerate(names) if i > 0]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    for i, (module, path) in enumerate(zip(stack, paths, strict=True)):
        (folder / path).mkdir(exist_ok=True)
        all_layers = any(isinstance(other, WeightedLayerPooling) for other in stack)
        save_module(module, folder / path, on_tokens=i < len(stack.token_modules), all_layers=all_layers)
    _save_tokenizer(content.tokenizer, folder, stack[0])
    _save_settings(content, folder)
    write_json(folder / "modules.json", entries)


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
