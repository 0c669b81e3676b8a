"""The folder of one module: its config.json and its weights, read in both generations, written in the older one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from minist.encoders.families import ENCODERS, Encoder
from minist.encoders.weights import WithoutInitialization, load_weights, modernize, save_weights
from minist.files import read_json, write_json
from minist.models.weight_files import fill_module, read_weights, write_module, write_weights
from minist.modules.dense import Dense, Dropout, LayerNorm, Normalize
from minist.modules.pooling import MODES, Pooling
from minist.modules.static_embedding import StaticEmbedding, fold_model2vec
from minist.modules.weighted_layer_pooling import WeightedLayerPooling

# mode -> its flag in the older generation, in the order in which flags are read
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """The file is somebody's: whatever shape its content has, say so, and do not fail on it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as e:
        raise ValueError(f"{file} is not as a saved model has it ({type(e).__name__}: {e})") from e


# ---------------------------------------------------------------- reading


def inside(folder: Path, relative: str, file: Path) -> Path:
    """`folder / relative`; ValueError if `file`, which names that path, would lead out of the folder."""
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file} names the path {relative!r}, which leaves the model folder")
    return folder / path


def load_module(kind: str, folder: Path, file: Path) -> nn.Module:
    """Read the module of class `kind`, of which the last part counts, as `file` names it. ValueError for a class that
    we do not have."""
    name = kind.split(".")[-1]  # both generations end in the class name
    if name not in LOADERS:
        raise ValueError(f"{file} names {kind}, known are {', '.join(LOADERS)}")
    with reading(folder / "config.json"):
        return LOADERS[name](folder)


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
    state = read_weights(folder)
    try:
        load_weights(encoder, modernize(state, encoder.prefix), encoder.weights)
    except ValueError as e:
        raise ValueError(f"{folder}: {e}") from None
    return encoder


def _load_static(folder: Path) -> StaticEmbedding:
    state = read_weights(folder)
    if "embeddings" in state:
        vectors = fold_model2vec(state)
    elif "embedding.weight" in state:
        vectors = state["embedding.weight"].float()
    else:
        raise ValueError(f"{folder}: the weights have neither embedding.weight nor, as of model2vec, embeddings")
    module = StaticEmbedding(*vectors.shape)
    module.embedding.weight.data = vectors
    return module


def _load_pooling(folder: Path) -> Pooling:
    content = read_json(folder / "config.json")
    include_prompt = content.get("include_prompt", True)
    if "pooling_mode" in content:  # version 6
        modes = content["pooling_mode"]
        modes = (modes,) if isinstance(modes, str) else tuple(modes)
        return Pooling(content["embedding_dimension"], modes, include_prompt)
    known = {"word_embedding_dimension", "include_prompt", *FLAGS.values()}
    other = [key for key, value in content.items() if key not in known and value]
    if other:
        raise ValueError(f"{folder}/config.json asks for {other[0]}, known are {', '.join(FLAGS.values())}")
    modes = tuple(mode for mode in MODES if content.get(FLAGS[mode])) or ("mean",)
    return Pooling(content["word_embedding_dimension"], modes, include_prompt)


def _load_dense(folder: Path) -> Dense:
    content = read_json(folder / "config.json")
    shape = content["in_features"], content["out_features"], content["bias"]
    dense = Dense(*shape, content["activation_function"], content.get("use_residual", False))
    fill_module(dense, folder)
    return dense


def _load_normalize(folder: Path) -> Normalize:
    return Normalize()


def _load_layer_norm(folder: Path) -> LayerNorm:
    norm = LayerNorm(read_json(folder / "config.json")["dimension"])
    fill_module(norm, folder)
    return norm


def _load_dropout(folder: Path) -> Dropout:
    return Dropout(read_json(folder / "config.json")["dropout"])


def _load_weighted_layer_pooling(folder: Path) -> WeightedLayerPooling:
    content = read_json(folder / "config.json")
    width = content.get("embedding_dimension") or content["word_embedding_dimension"]
    module = WeightedLayerPooling(width, content["num_hidden_layers"], content["layer_start"])
    fill_module(module, folder)
    return module


LOADERS: dict[str, Callable[[Path], nn.Module]] = {
    "Transformer": load_encoder,
    "StaticEmbedding": _load_static,
    "WeightedLayerPooling": _load_weighted_layer_pooling,
    "Pooling": _load_pooling,
    "Dense": _load_dense,
    "Normalize": _load_normalize,
    "LayerNorm": _load_layer_norm,
    "Dropout": _load_dropout,
}


def input_name(folder: Path) -> str:
    """What the module in `folder` is said to act on: "sentence_embedding", or "token_embeddings" before the pooling."""
    file = folder / "config.json"
    with reading(file):
        content = read_json(file) if file.exists() else {}
        given = content.get("module_input_name") or "sentence_embedding"
        if (content.get("module_output_name") or given) != given:
            raise ValueError(f"{file}: module_output_name is not module_input_name, which we do not have")
        return given


# ---------------------------------------------------------------- writing


def class_name(module: nn.Module) -> str:
    """What the class is called in files."""
    return "Transformer" if isinstance(module, Encoder) else type(module).__name__


def save_module(module: nn.Module, folder: Path, *, on_tokens: bool, all_layers: bool) -> None:
    """Write one module. `on_tokens`: it stands before the pooling; `all_layers`: the encoder's layers are all used."""
    if isinstance(module, Encoder):
        about: dict[str, Any] = {"architectures": [module.architecture], "model_type": module.model_type}
        about |= {"output_hidden_states": True} if all_layers else {}  # without it, WeightedLayerPooling is left out
        shape = {key: value for key, value in asdict(module.config).items() if value is not None}
        write_json(folder / "config.json", about | shape)
        write_weights(save_weights(module, module.weights), folder)
        return
    content = _config_of(module)
    if on_tokens and isinstance(module, Dense | Normalize):  # only the newer generation can say so
        content |= {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    if content:
        write_json(folder / "config.json", content)
    if list(module.parameters()):
        write_module(module, folder)


def _config_of(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, Pooling):
        return _pooling_config(module)
    if isinstance(module, Dense):
        shape = {"in_features": module.linear.in_features, "out_features": module.linear.out_features}
        about = {"bias": module.linear.bias is not None, "activation_function": module.activation_name}
        return shape | about | ({"use_residual": True} if module.has_residual else {})
    if isinstance(module, LayerNorm):
        return {"dimension": module.norm.normalized_shape[0]}
    if isinstance(module, Dropout):
        return {"dropout": module.dropout.p}
    if isinstance(module, WeightedLayerPooling):
        layers = {"num_hidden_layers": module.num_layers, "layer_start": module.first_layer}
        return {"word_embedding_dimension": module.width} | layers
    assert isinstance(module, Normalize | StaticEmbedding), f"no file format for {type(module).__name__}"
    return {}


def _pooling_config(module: Pooling) -> dict[str, Any]:
    content: dict[str, Any] = {"word_embedding_dimension": module.width}
    content |= {flag: mode in module.modes for mode, flag in FLAGS.items()}
    if list(module.modes) != sorted(module.modes, key=MODES.index):
        # flags have no order: only the spelling of version 6 can keep another one
        content = {"embedding_dimension": module.width, "pooling_mode": list(module.modes)}
    return content | {"include_prompt": module.include_prompt}
