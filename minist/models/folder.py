"""The on-disk format: a sentence-transformers folder, or a plain Hugging Face checkpoint.

    modules.json                       the modules in order, each with its class and its folder
    config_sentence_transformers.json  prompts, similarity
    config.json, model.safetensors     the encoder
    tokenizer.json, tokenizer_config.json, sentence_bert_config.json
    1_Pooling/config.json, 2_Dense/{config.json, model.safetensors}, 3_Normalize/

Both generations of the format are read (versions 2 to 5, and 6); the older one is written, because
both can open it. Nothing in a folder is ever executed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minist.data.tokenizer import Tokenizer, load_tokenizer
from minist.encoders.bert import BertConfig, BertEncoder
from minist.encoders.mpnet import MPNetConfig, MPNetEncoder
from minist.encoders.weights import WithoutInitialization, load_weights, modernize, save_weights
from minist.files import complete_folder, read_json, write_json
from minist.modules.dense import Dense, Normalize
from minist.modules.pooling import MODES, Pooling

Encoder = BertEncoder | MPNetEncoder
ENCODERS: dict[str, tuple[Any, Any]] = {"bert": (BertConfig, BertEncoder), "mpnet": (MPNetConfig, MPNetEncoder)}
NO_LIMIT = 10**9  # tokenizer_config.json writes 1e30 where a tokenizer knows no maximum length


@dataclass
class Content:
    """Everything a model folder holds."""

    modules: list[Any]  # encoder, pooling, then text modules
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
    modules: list[Any]
    if (folder / "modules.json").exists():
        with _reading(folder / "modules.json"):
            entries = read_json(folder / "modules.json")
            places = [(entry["type"], _inside(folder, entry["path"])) for entry in entries]
            encoder_folder = places[0][1]
        modules = [_load_module(kind, path) for kind, path in places]
    elif (folder / "config.json").exists():
        encoder = load_encoder(folder)
        modules, encoder_folder = [encoder, Pooling(encoder.config.hidden_size)], folder
    else:
        raise ValueError(f"{folder} is not a model: it has neither modules.json nor config.json")
    if not isinstance(modules[0], Encoder):
        raise ValueError(f"{folder}/modules.json: the first module must be a Transformer")
    config, tokenizer = modules[0].config, _load_tokenizer(encoder_folder, modules[0].config.max_length)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{folder}: tokenizer.json has {tokenizer.vocab_size} tokens, the encoder {config.vocab_size}")
    return Content(modules, tokenizer, **_load_settings(folder))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """The file is somebody's: whatever shape its content has, say so, and do not fail on it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as e:
        raise ValueError(f"{file} is not as a saved model has it ({type(e).__name__}: {e})") from e


def _load_module(kind: str, path: Path) -> nn.Module:
    loaders = {"Transformer": load_encoder, "Pooling": _load_pooling, "Dense": _load_dense, "Normalize": _normalize}
    name = kind.split(".")[-1]  # both generations end in the class name
    if name not in loaders:
        raise ValueError(f"modules.json in {path.parent} names {kind}, known are {', '.join(loaders)}")
    with _reading(path / "config.json"):
        return loaders[name](path)


def _inside(folder: Path, relative: str) -> Path:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{folder}/modules.json names the path {relative!r}, which leaves the model folder")
    return folder / path


def load_encoder(folder: Path) -> Encoder:
    """Read config.json and the weights beside it, as float32."""
    content = read_json(folder / "config.json")
    model_type = content.get("model_type")
    if model_type not in ENCODERS:
        raise ValueError(f"{folder}/config.json: model_type is {model_type!r}, known are {', '.join(ENCODERS)}")
    config_class, encoder_class = ENCODERS[model_type]
    try:
        config = config_class(**{f.name: content[f.name] for f in fields(config_class) if f.name in content})
    except ValueError as e:
        raise ValueError(f"{folder}/config.json: {e}") from None
    with torch.device("meta"), WithoutInitialization():  # no memory for weights that are about to be read
        encoder = encoder_class(config)
    state = _read_weights(folder)
    try:
        load_weights(encoder, modernize(state, encoder.prefix), encoder.weights)
    except ValueError as e:
        raise ValueError(f"{folder}: {e}") from None
    return encoder


def _read_weights(folder: Path) -> dict[str, Tensor]:
    state: Any = None
    try:
        if (folder / "model.safetensors").exists():
            state = load_file(folder / "model.safetensors")
        elif (folder / "pytorch_model.bin").exists():
            state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        else:
            raise ValueError(f"{folder}: no weights: neither model.safetensors nor pytorch_model.bin is there")
    except (SafetensorError, RuntimeError, EOFError, UnpicklingError) as e:
        raise ValueError(f"{folder}: the weights are damaged: {str(e).partition(chr(10))[0]}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{folder}: the weights are no table of names and tensors")
    return state


def _load_pooling(folder: Path) -> Pooling:
    content = read_json(folder / "config.json")
    include_prompt = content.get("include_prompt", True)
    if "pooling_mode" in content:  # version 6
        modes = content["pooling_mode"]
        modes = (modes,) if isinstance(modes, str) else tuple(modes)
        return Pooling(content["embedding_dimension"], modes, include_prompt)
    flags = {"cls": "pooling_mode_cls_token"} | {mode: f"pooling_mode_{mode}_tokens" for mode in ("max", "mean")}
    known = {"word_embedding_dimension", "include_prompt", *flags.values()}
    other = [key for key, value in content.items() if key not in known and value]
    if other:
        raise ValueError(f"{folder}/config.json asks for {other[0]}, known are {', '.join(flags.values())}")
    modes = tuple(mode for mode in MODES if content.get(flags[mode])) or ("mean",)
    return Pooling(content["word_embedding_dimension"], modes, include_prompt)


def _load_dense(folder: Path) -> Dense:
    content = read_json(folder / "config.json")
    dense = Dense(content["in_features"], content["out_features"], content["bias"], content["activation_function"])
    state = _read_weights(folder)
    known = dict(dense.named_parameters())
    for name in state.keys() - known.keys():
        raise ValueError(f"{folder}: the weight {name} belongs to no Dense layer, which has {', '.join(known)}")
    for name, parameter in known.items():
        if name not in state or state[name].shape != parameter.shape:
            given = list(state[name].shape) if name in state else "missing"
            raise ValueError(f"{folder}: {name} is {given}, by its config.json it has shape {list(parameter.shape)}")
    dense.load_state_dict({name: t.float() for name, t in state.items()})
    return dense


def _normalize(folder: Path) -> Normalize:
    return Normalize()


def _load_tokenizer(folder: Path, longest: int) -> Tokenizer:
    if not (folder / "tokenizer.json").exists():
        raise ValueError(f"{folder} has no tokenizer.json: save the model once with a fast tokenizer")
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
    names = ["Transformer"] + [type(module).__name__ for module in content.modules[1:]]
    paths = [""] + [f"{i}_{name}" for i, name in enumerate(names) if i > 0]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    for module, path in zip(content.modules, paths, strict=True):
        (folder / path).mkdir(exist_ok=True)
        _save_module(module, folder / path)
    _save_tokenizer(content.tokenizer, folder, isinstance(content.modules[0], BertEncoder))
    _save_settings(content, folder)
    write_json(folder / "modules.json", entries)


def _save_module(module: nn.Module, folder: Path) -> None:
    if isinstance(module, BertEncoder | MPNetEncoder):
        about: dict[str, Any] = {"architectures": [module.architecture], "model_type": module.model_type}
        write_json(folder / "config.json", about | asdict(module.config))
        _write_weights(save_weights(module, module.weights), folder)
    elif isinstance(module, Pooling):
        other = ("mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")  # the old format lists every mode
        flags = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
        modes = {f"pooling_mode_{flag}": mode in module.modes for flag, mode in flags.items()}
        content: dict[str, Any] = {"word_embedding_dimension": module.width} | modes
        content |= {f"pooling_mode_{o}": False for o in other}
        if list(module.modes) != sorted(module.modes, key=MODES.index):
            # flags have no order: only the spelling of version 6 can keep another one
            content = {"embedding_dimension": module.width, "pooling_mode": list(module.modes)}
        write_json(folder / "config.json", content | {"include_prompt": module.include_prompt})
    elif isinstance(module, Dense):
        linear = module.linear
        shape = {"in_features": linear.in_features, "out_features": linear.out_features}
        bias, activation = linear.bias is not None, module.activation_name
        write_json(folder / "config.json", shape | {"bias": bias, "activation_function": activation})
        weights = {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}
        _write_weights(weights, folder)
    else:
        assert isinstance(module, Normalize), f"no file format for {type(module).__name__}"


def _write_weights(state: dict[str, Tensor], folder: Path) -> None:
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})  # transformers 4 asks for the format
    except SafetensorError as e:  # a full disk, for instance
        raise OSError(f"{folder}/model.safetensors could not be written: {e}") from None


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, encoder_has_types: bool) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    # PreTrainedTokenizerFast reads any tokenizer.json, in all versions of transformers
    types = ["token_type_ids"] if encoder_has_types and tokenizer.has_types else []
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
