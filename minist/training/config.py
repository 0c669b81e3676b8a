"""The configuration of a run: TOML into frozen dataclasses. An unknown key is an error.

seed = 42
output = "runs/name"
[model]       path, or encoder + tokenizer + pooling to start from random weights
[[data]]      files (or a source that we know how to make), columns, loss, sampler
[train]       batch size, learning rate, ..
[[eval]]      evaluator, files, columns
[expect]      metric = the least value that the run must reach
"""

import difflib
import importlib.util
import inspect
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from minist.data.samplers import SAMPLERS
from minist.training.optimizer import SCHEDULES

Table = dict[str, Any]


@dataclass(frozen=True)
class TokenizerConfig:
    """A WordPiece vocabulary to be trained on the texts of [[data]]."""

    vocab_size: int = 16384
    max_length: int = 128  # tokens at which texts are cut, special ones included
    lower_case: bool = True


@dataclass(frozen=True)
class PoolingConfig:
    """How token vectors become one vector."""

    mode: str = "mean"  # mean, cls, max, mean_sqrt_len_tokens, weightedmean or lasttoken


@dataclass(frozen=True)
class ModelConfig:
    """A saved model to start from, or the parts of a new one."""

    type: str = "SentenceTransformer"
    path: str = ""  # a folder, or a name on the Hugging Face hub
    revision: str = ""  # of a model on the hub: branch, tag or commit
    keep_layers: list[int] = field(default_factory=list)  # of the encoder in path, the first is 0; none: all
    encoder: Table = field(default_factory=dict)  # model_type, and the fields of its config.json
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)


@dataclass(frozen=True)
class DataConfig:
    """One training set."""

    columns: Table  # name of ours -> column of the file, in the order in which the loss takes them
    loss: Table = field(default_factory=lambda: {"name": "MultipleNegativesRankingLoss"})  # name, and its arguments
    name: str = "train"
    files: list[str] = field(default_factory=list)
    source: str = ""  # a collection that is made when it is missing, instead of files: python_docs
    sampler: str = "shuffled"  # or no_duplicates

    def paths(self) -> list[Path]:
        """The files to read; those of a source lie in data/<source>/."""
        return [Path(f) for f in self.files] or [Path("data") / self.source / "train.jsonl"]


@dataclass(frozen=True)
class TrainConfig:
    """The optimization."""

    batch_size: int = 32  # rows per step, over all ranks
    epochs: int = 1
    max_steps: int = 0  # 0: as many as the epochs have
    lr: float = 5e-5
    warmup: float = 0.0  # below 1 a share of all steps, else a number of steps
    schedule: str = "linear"  # linear, cosine or constant
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    dtype: str = "float32"  # or bfloat16: forward and backward in bf16 autocast
    dropout: float = -1.0  # below 0: as the model's config says
    attention_dropout: float = -1.0
    drop_last: bool = False
    log_every: int = 10  # steps
    eval_every: int = 0  # steps; 0: only at the end
    save_every: int = 0
    keep: int = 2  # checkpoints; older ones are deleted


@dataclass(frozen=True)
class EvalConfig:
    """One evaluation."""

    evaluator: str
    columns: Table  # InformationRetrievalEvaluator: query, document; EmbeddingSimilarityEvaluator: text1, text2, score
    name: str = "eval"
    files: list[str] = field(default_factory=list)
    bm25: bool = False  # print BM25's nDCG@10 on the same documents at the end
    searches: list[str] = field(default_factory=list)  # queries whose hits are printed at the end


@dataclass(frozen=True)
class Config:
    """A whole run."""

    output: str
    data: list[DataConfig]
    seed: int = 42
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: list[EvalConfig] = field(default_factory=list)
    expect: Table = field(default_factory=dict)


NESTED: dict[str, type] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "tokenizer": TokenizerConfig,
    "pooling": PoolingConfig,
}
LISTS: dict[str, type] = {"data": DataConfig, "eval": EvalConfig}


def load_config(file: Path, overrides: list[str]) -> Config:
    """Read `file` and apply `--set` overrides such as "train.lr=3e-5". ValueError says what is wrong where."""
    if not file.is_file():
        raise ValueError(f"there is no config file {file}")
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except ValueError as e:
        raise ValueError(f"{file} is not TOML: {e}") from None
    for override in overrides:
        _override(table, override)
    config = _build(Config, table, "the top level")
    _check(config)
    return config


def _override(table: Table, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"--set {override}: write key=value, for instance train.lr=3e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a string without quotes
    *parents, last = key.split(".")
    place: Any = table
    for parent in parents:  # a number picks an entry of [[data]] or [[eval]]: eval.0.name
        try:
            place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
        except (ValueError, IndexError):
            raise ValueError(f"--set {override}: {parent!r} is no entry, there are 0 to {len(place) - 1}") from None
        if not isinstance(place, dict | list):
            raise ValueError(f"--set {override}: {parent!r} is a value, it has no keys")
    if not isinstance(place, dict):
        raise ValueError(
            f"--set {override}: {'.'.join(parents)} has no keys; for a list name the entry: {parents[0]}.0.{last}"
        )
    place[last] = value


def _build(kind: type, table: Any, where: str) -> Any:
    if not isinstance(table, dict):
        raise ValueError(f"config: {where} must be a table of keys and values, it is {json.dumps(table)}")
    known = {f.name: f for f in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise ValueError(
                f"config: {where} has no key {key!r}, the nearest is {near[0]!r}; known are {', '.join(known)}"
            )
    values = {key: _value(known[key], value, where) for key, value in table.items()}
    required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"config: {where} lacks the key {missing[0]!r}")
    return kind(**values)


def _value(known: Field[Any], value: Any, where: str) -> Any:
    name = known.name
    if name in NESTED:
        return _build(NESTED[name], value, f"[{name}]")
    if name in LISTS:
        if not isinstance(value, list):
            raise ValueError(f"config: {name} is a list of tables: write [[{name}]]")
        return [_build(LISTS[name], entry, f"[[{name}]]") for entry in value]
    if name == "loss" and isinstance(value, str):
        value = {"name": value}
    wanted = getattr(known.type, "__origin__", known.type)  # dict of dict[str, Any]
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        kind = getattr(wanted, "__name__", wanted)
        raise ValueError(f"config: {name} in {where} must be of type {kind}, it is {value!r}")
    return value


def _check(config: Config) -> None:
    train, tokenizer = config.train, config.model.tokenizer
    ranges: dict[str, tuple[float, float, float]] = {  # value, least, most
        "batch_size in [train]": (train.batch_size, 1, math.inf),
        "epochs in [train]": (train.epochs, 1, math.inf),
        "max_steps in [train]": (train.max_steps, 0, math.inf),
        "lr in [train]": (train.lr, 0, math.inf),
        "warmup in [train]": (train.warmup, 0, math.inf),
        "max_grad_norm in [train]": (train.max_grad_norm, 0, math.inf),
        "dropout in [train]": (train.dropout, -1, 1),
        "attention_dropout in [train]": (train.attention_dropout, -1, 1),
        "log_every in [train]": (train.log_every, 1, math.inf),
        "eval_every in [train]": (train.eval_every, 0, math.inf),
        "save_every in [train]": (train.save_every, 0, math.inf),
        "keep in [train]": (train.keep, 1, math.inf),
        "vocab_size in [model.tokenizer]": (tokenizer.vocab_size, 10, math.inf),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise ValueError(f"config: {name} is {value}, it must be at least {least} and at most {most}")
    choices = {"schedule": (train.schedule, SCHEDULES), "dtype": (train.dtype, ("float32", "bfloat16"))}
    for name, (choice, allowed) in choices.items():
        if choice not in allowed:
            raise ValueError(f"config: {name} in [train] is {choice!r}, known are {', '.join(allowed)}")
    if config.model.type != "SentenceTransformer":
        raise ValueError(f"config: type in [model] is {config.model.type!r}, known is SentenceTransformer")
    if bool(config.model.path) == bool(config.model.encoder):
        raise ValueError(
            "config: [model] takes path, or [model.encoder] to start from random weights: give one of them"
        )
    if (config.model.revision or config.model.keep_layers) and not config.model.path:
        raise ValueError("config: revision and keep_layers in [model] belong to a model with a path")
    if not all(type(number) is int for number in config.model.keep_layers):
        raise ValueError(f"config: keep_layers in [model] is {config.model.keep_layers}, it must be a list of numbers")
    for name, number in config.expect.items():
        if type(number) not in (int, float):
            raise ValueError(f"config: {name} in [expect] is {number!r}, it must be a number")
    for entry in config.data:
        if not entry.columns:
            raise ValueError('config: columns in [[data]] is empty: write { anchor = "its name in the file", .. }')
        if bool(entry.files) == bool(entry.source):
            raise ValueError("config: [[data]] takes files or source: give one of them")
        if entry.sampler not in SAMPLERS:
            raise ValueError(f"config: sampler in [[data]] is {entry.sampler!r}, known are {', '.join(SAMPLERS)}")
    if len(config.data) != 1:
        raise ValueError(f"config: there are {len(config.data)} [[data]] entries, one is supported")


def make(what: str, table: Mapping[str, Any], package: Any) -> Any:
    """An object from {"name": class name, **arguments}, found in `package`, or in a file as "path/to/file.py:Name".

    ValueError lists the classes there are, or the arguments that the class takes.
    """
    arguments = dict(table)
    name = arguments.pop("name", "")
    if not isinstance(name, str):
        raise ValueError(f"config: {what} is {name!r}, it must be a name")
    found = _from_file(name) if ".py:" in name else getattr(package, name, None) if name in package.__all__ else None
    if found is None:
        raise ValueError(f"config: {what} is {name!r}, known are {', '.join(package.__all__)}, or path/to/file.py:Name")
    known = list(inspect.signature(found).parameters)
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"config: {name} has no argument {argument!r}, it takes {', '.join(known)}")
    try:
        return found(**arguments)
    except TypeError as e:  # an argument of another type than it takes, or one that it lacks
        raise ValueError(f"config: {name} with {arguments}: {e}") from e


def _from_file(reference: str) -> Callable[..., Any]:
    path, _, name = reference.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"config: there is no file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name not in vars(module):
        raise ValueError(f"config: {path} has no {name}")
    return vars(module)[name]


def to_toml(config: Config) -> str:
    """The whole configuration, defaults written out, so that a run says all of what it was."""
    return "\n".join(_toml_lines(asdict(config), "")) + "\n"


def _toml_lines(table: Table, prefix: str) -> list[str]:
    lines, tables = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            tables += ["", f"[{prefix}{key}]", *_toml_lines(value, f"{prefix}{key}.")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for entry in value:
                tables += ["", f"[[{prefix}{key}]]", *_toml_lines(entry, f"{prefix}{key}.")]
        else:
            name = key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return lines + tables
