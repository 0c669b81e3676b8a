"""The configuration of a run: what its TOML file may say, with the defaults. An unknown key is an error.

seed = 42
output = "runs/name"
[model]       path, or encoder + tokenizer + pooling to start from random weights
[[data]]      files (or a source that we know how to make), columns, label, loss, sampler, roles, prompts; any number
[train]       batch size, learning rate, ..
[guide]       a model whose embeddings a loss may look at; [teacher]: one whose embeddings are learned
[[eval]]      an evaluator, or a loss, and its files; any number
[expect]      metric = the least value that the run must reach
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from minist.data.batches import MIXINGS
from minist.data.samplers import SAMPLERS
from minist.training.optimizer import SCHEDULES
from minist.training.tables import Table, build, read_table

PARTNER = "partner"  # what the column is called that draw_pairs adds
DTYPES = ("float32", "bfloat16", "float16")


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
    twins: bool = False  # train two copies, the routes "first" and "second", and keep the second: contrastive tension
    encoder: Table = field(default_factory=dict)  # model_type, and the fields of its config.json
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)


@dataclass(frozen=True)
class RowsConfig:
    """What entries of [[data]] and [[eval]] have in common: the rows of some files, and a loss of them."""

    kind: ClassVar[str]
    columns: Table  # name of ours -> column of the file, in the order in which the loss takes them
    loss: Table = field(default_factory=dict)  # name, and its arguments
    name: str = ""
    files: list[str] = field(default_factory=list)
    label: str = ""  # a column of the file, or an .npy file with a row for each row
    roles: Table = field(default_factory=dict)  # column -> "query" or "document": the route of the model it takes
    prompts: str | Table = ""  # before every text, or column -> prompt
    delete_words: Table = field(default_factory=dict)  # column -> share of its words that are deleted, drawn each epoch
    draw_pairs: int = 0  # pair each text of the one column: one in so many with itself

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"[[{self.kind}]] {self.name}"

    def paths(self) -> list[Path]:
        """The files to read."""
        return [Path(f) for f in self.files]


@dataclass(frozen=True)
class DataConfig(RowsConfig):
    """One training set. A batch holds rows of one set only."""

    kind = "data"
    loss: Table = field(default_factory=lambda: {"name": "MultipleNegativesRankingLoss"})
    name: str = "train"
    source: str = ""  # a collection that is made when it is missing, instead of files: python_docs
    sampler: str = "shuffled"  # no_duplicates or group_by_label
    weight: float = 1.0  # of its loss, beside the other sets

    def paths(self) -> list[Path]:
        """The files to read; those of a source lie in data/<source>/."""
        return [Path("data") / self.source / "train.jsonl"] if self.source else super().paths()


@dataclass(frozen=True)
class TrainConfig:
    """The optimization."""

    batch_size: int = 32  # rows per step, over all ranks
    mini_batch_tokens: int = 0  # tokens that a rank holds in memory at once, see gradcache.py; 0: the whole batch
    mixing: str = "proportional"  # which set's batch comes next; or round_robin, until the shortest is used up
    drop_last: bool = False
    epochs: int = 1
    max_steps: int = 0  # 0: as many as the epochs have
    lr: float = 5e-5
    lr_for: Table = field(default_factory=dict)  # pattern of parameter names -> their own rate
    freeze: list[str] = field(default_factory=list)  # patterns of parameter names that stay as they are
    warmup: float = 0.0  # below 1 a share of all steps, else a number of steps
    schedule: str = "linear"  # linear, cosine or constant
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # 0: no clipping
    dtype: str = "float32"  # or bfloat16, float16: forward and backward in that autocast, weights in float32
    dropout: float = -1.0  # below 0: as the model's config says
    attention_dropout: float = -1.0
    checkpoint_layers: bool = False  # keep no activations inside a layer, compute them again in backward
    compile: bool = False  # torch.compile of the encoder's layers
    prompts: str | Table = ""  # for all sets; column -> prompt, set -> prompt, or set -> {column -> prompt}
    log_every: int = 10  # steps
    eval_every: int = 0  # steps; 0: only at the end
    save_every: int = 0
    keep: int = 2  # checkpoints; older ones are deleted
    best: str = ""  # the metric by which the final model is chosen among the evaluated ones; "": the last one is
    patience: int = 0  # stop after so many evaluations without a better `best`; 0: never


@dataclass(frozen=True)
class GuideConfig:
    """A second model that embeds the same texts, with its own tokenizer, and is not trained."""

    model: str = ""  # a folder, or a name on the hub
    revision: str = ""
    cache: bool = False  # embed every training text once, before the first step, and keep that on disk


@dataclass(frozen=True)
class EvalConfig(RowsConfig):
    """One evaluation: an evaluator, or the mean of a loss, which is called eval_<name>_loss.

    The columns of an InformationRetrievalEvaluator are query and document, those of an EmbeddingSimilarityEvaluator
    text1, text2 and score. A loss that is written like that of a [[data]] entry is the same one, with what it learned.
    """

    kind = "eval"
    name: str = "eval"
    evaluator: str = ""
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
    guide: GuideConfig = field(default_factory=GuideConfig)
    teacher: GuideConfig = field(default_factory=GuideConfig)
    eval: list[EvalConfig] = field(default_factory=list)
    expect: Table = field(default_factory=dict)

    def guides(self) -> dict[str, GuideConfig]:
        """[guide] and [teacher], as losses call them."""
        return {"guide": self.guide, "teacher": self.teacher}


def load_config(file: Path, overrides: list[str]) -> Config:
    """Read `file` and apply `--set` overrides such as "train.lr=3e-5". ValueError says what is wrong where."""
    config: Config = build(Config, read_table(file, overrides), "the top level")
    _check_numbers(config)
    _check_model(config.model)
    for entry in config.data:
        _check_data(entry)
    for evaluation in config.eval:
        _check_eval(evaluation)
    for kind, entries in (("data", config.data), ("eval", config.eval)):
        names = [entry.name for entry in entries]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"config: two [[{kind}]] entries have the name {twice[0]!r}: give each its own")
    if not config.data:
        raise ValueError("config: there is no [[data]] entry")
    if config.train.patience and not (config.train.best and config.train.eval_every):
        raise ValueError("config: patience in [train] needs best, the metric to watch, and eval_every")
    return config


def _check_numbers(config: Config) -> None:
    train, tokenizer = config.train, config.model.tokenizer
    ranges: dict[str, tuple[float, float, float]] = {  # value, least, most
        "seed": (config.seed, 0, 2**32 - 1),
        "batch_size in [train]": (train.batch_size, 1, math.inf),
        "mini_batch_tokens in [train]": (train.mini_batch_tokens, 0, math.inf),
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
        "patience in [train]": (train.patience, 0, math.inf),
        "vocab_size in [model.tokenizer]": (tokenizer.vocab_size, 10, math.inf),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise ValueError(f"config: {name} is {value}, it must be at least {least} and at most {most}")
    choices = {"schedule": SCHEDULES, "dtype": DTYPES, "mixing": tuple(MIXINGS)}
    for name, allowed in choices.items():
        choice = vars(train)[name]
        if choice not in allowed:
            raise ValueError(f"config: {name} in [train] is {choice!r}, known are {', '.join(allowed)}")
    _check_values(config.expect, "[expect]", 0, None)
    _check_values(train.lr_for, "lr_for in [train]", 0, math.inf)


def _check_values(table: Table, where: str, least: float, most: float | None) -> None:
    """Of a table of numbers; `most` None: any number."""
    for name, number in table.items():
        if type(number) not in (int, float) or (most is not None and not least <= number <= most):
            limits = "" if most is None else f" from {least} to {most}"
            raise ValueError(f"config: {name} in {where} is {number!r}, it must be a number{limits}")


def _check_model(model: ModelConfig) -> None:
    if model.type != "SentenceTransformer":
        raise ValueError(f"config: type in [model] is {model.type!r}, known is SentenceTransformer")
    if bool(model.path) == bool(model.encoder):
        raise ValueError(
            "config: [model] takes path, or [model.encoder] to start from random weights: give one of them"
        )
    if (model.revision or model.keep_layers or model.twins) and not model.path:
        raise ValueError("config: revision, keep_layers and twins in [model] belong to a model with a path")
    if not all(type(number) is int for number in model.keep_layers):
        raise ValueError(f"config: keep_layers in [model] is {model.keep_layers}, it must be a list of numbers")


def _check_data(entry: DataConfig) -> None:
    _check_rows(entry)
    if bool(entry.files) == bool(entry.source):
        raise ValueError("config: [[data]] takes files or source: give one of them")
    if entry.sampler not in SAMPLERS:
        raise ValueError(f"config: sampler in [[data]] is {entry.sampler!r}, known are {', '.join(SAMPLERS)}")
    if entry.weight <= 0:
        raise ValueError(f"config: weight in {entry.where} is {entry.weight}, it must be more than 0")


def _check_rows(entry: RowsConfig) -> None:
    where, columns = entry.where, list(entry.columns)
    if not columns:
        raise ValueError(f'config: columns in {where} is empty: write {{ anchor = "its name in the file", .. }}')
    drawn = [PARTNER] if entry.draw_pairs else []  # its texts are those of the one column, deleted words and all
    for key, table, known in (("roles", entry.roles, columns + drawn), ("delete_words", entry.delete_words, columns)):
        for column in table:
            if column not in known:
                raise ValueError(f"config: {key} in {where} names {column!r}, the columns are {', '.join(known)}")
    _check_values(entry.delete_words, f"delete_words in {where}", 0, 1)
    if entry.draw_pairs and (entry.draw_pairs < 2 or len(entry.columns) != 1 or entry.label):
        raise ValueError(
            f"config: draw_pairs in {where} is {entry.draw_pairs}: it takes 2 or more, one column, and no label, "
            "since it gives each text its partner and the pair its label"
        )


def _check_eval(entry: EvalConfig) -> None:
    _check_rows(entry)
    if bool(entry.evaluator) == bool(entry.loss):
        raise ValueError(f"config: {entry.where} takes evaluator or loss: give one of them")
    if not entry.files:
        raise ValueError(f"config: {entry.where} has no files")
    if entry.evaluator and (entry.label or entry.roles or entry.prompts or entry.delete_words or entry.draw_pairs):
        raise ValueError(
            f"config: label, roles, prompts, delete_words and draw_pairs in {entry.where} belong to a loss, "
            "not to an evaluator"
        )
