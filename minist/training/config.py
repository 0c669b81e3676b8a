"""The configuration of a run: what its TOML file may say, with the defaults. `Config` has the tables of that file."""

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from minist.checks import listing, number, pick
from minist.data.samplers import MIXINGS, SAMPLERS
from minist.training.construct import Table, build, read_table
from minist.training.optimizer import SCHEDULES
from minist.training.task import PARTNER

ONE_SIZE = ("truncate_dim", "write_predictions", "teacher_model")  # arguments of an evaluator at one size
RANKING = ("InformationRetrievalEvaluator", "CrossEncoderRerankingEvaluator")  # with which BM25 can be compared
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}  # of autocast, where there is one


def limited(default: Any, least: float = 0, most: float = math.inf, above: float = -math.inf) -> Any:
    check = partial(number, least=least, most=most, above=above)  # of the value, or of each in a table
    return field(default_factory=partial(copy, default), metadata={"check": check})


def one_of(default: str, known: Mapping[str, Any]) -> Any:
    return field(default=default, metadata={"check": partial(pick, table=known)})


@dataclass(frozen=True)
class TokenizerConfig:
    """A WordPiece vocabulary to be trained on the texts of [[data]]."""

    vocab_size: int = limited(16384, 10)
    max_length: int = limited(128, 1)  # tokens at which texts are cut, special ones included
    lower_case: bool = True


@dataclass(frozen=True)
class PoolingConfig:
    """How token vectors become one: mean, cls, max, mean_sqrt_len_tokens, weightedmean, lasttoken; of SPLADE sum."""

    mode: str = ""  # "": mean, of a SparseEncoder max


@dataclass(frozen=True)
class LoraConfig:
    """What is trained of the model in path instead of its encoder's weights: see modules/lora.py."""

    rank: int = limited(0)  # 0: no LoRA
    alpha: float = limited(16.0, above=0)  # the change is scaled by alpha / rank
    dropout: float = limited(0.0, 0, 1)
    targets: list[str] = field(default_factory=list)  # ends of layers' names in a checkpoint: query, value; none: all


@dataclass(frozen=True)
class ModelConfig:
    """A saved model to start from, or the parts of a new one."""

    type: str = ""  # which of MODELS; "": what the folder says, else a SentenceTransformer
    path: str = ""  # a folder, or a name on the Hugging Face hub
    revision: str = ""  # of a model on the hub: branch, tag or commit
    adapter: str = ""  # a folder or name of a LoRA of the model in path, whose training goes on
    keep_layers: list[int] = field(default_factory=list)  # of the encoder in path, the first is 0; none: all
    num_labels: int = limited(0)  # scores that a CrossEncoder gives of a pair; 0: as the cross-encoder in path, else 1
    max_length: int = limited(0)  # tokens at which texts are cut; 0: as the model in path says
    pca: int = limited(0)  # embeddings of so many numbers: their first principal components, by a Dense; 0: none
    static_queries: bool = False  # of a SparseEncoder: a query is its words, by their rarity, and needs no encoder
    prompts: dict[str, str] = field(default_factory=dict)  # query, document: saved with it; [train] has its own
    sparse_start: float = limited(0, 0, 1)  # of SPLADE: the share of the texts that have a word at first; 0: as it is
    twins: bool = False  # train two copies, the routes "first" and "second", and keep the second: contrastive tension
    encoder: Table = field(default_factory=dict)  # model_type (bert .., static), and the fields of its config.json
    autoencoder: Table = field(default_factory=dict)  # hidden_dim, k .. of a new SparseAutoEncoder behind that in path
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class RowsConfig:
    """What entries of [[data]] and [[eval]] have in common: the rows of some files, and a loss of them."""

    kind: ClassVar[str]
    columns: dict[str, str | int] = field(default_factory=dict)  # ours in the loss's order -> the file's name or number
    loss: Table = field(default_factory=dict)  # name, and its arguments
    name: str = ""
    files: list[str] = field(default_factory=list)
    format: str = ""  # of the files, where their ending does not say it: tsv, csv, jsonl, json, parquet
    label: str | int = ""  # a column of the file, or an .npy file with a row for each row
    roles: dict[str, str] = field(default_factory=dict)  # column -> "query" or "document": the route that it takes
    prompts: str | Table = ""  # before every text, or column -> prompt
    delete_words: dict[str, float] = limited({}, 0, 1)  # column -> share, each epoch
    draw_pairs: int = limited(0)  # pair each text of the one column: one in so many with itself

    @property
    def where(self) -> str:
        return f"[[{self.kind}]] {self.name}"

    def paths(self) -> list[Path]:
        return [Path(f) for f in self.files]


@dataclass(frozen=True)
class DataConfig(RowsConfig):
    """One training set. A batch holds rows of one set only."""

    kind = "data"
    loss: Table = field(default_factory=lambda: {"name": "MultipleNegativesRankingLoss"})
    name: str = "train"
    source: str = ""  # a collection that is made when it is missing, see data/sources/, instead of files
    sampler: str = one_of("shuffled", SAMPLERS)  # or no_duplicates or group_by_label
    weight: float = limited(1.0, -math.inf, above=0)  # of its loss, beside the other sets

    def paths(self) -> list[Path]:
        return [Path("data") / self.source / "train.jsonl"] if self.source else super().paths()


@dataclass(frozen=True)
class TrainConfig:
    """How the model is trained, measured and saved."""

    batch_size: int = limited(32, 1)  # rows per step, over all ranks
    mini_batch_tokens: int = limited(0)  # that a rank holds in memory at once, see gradcache.py; 0: all
    mixing: str = one_of("proportional", MIXINGS)  # whose batch comes next; or round_robin, till one set is used up
    drop_last: bool = False
    epochs: int = limited(1, 1)
    max_steps: int = limited(0)  # 0: as many as the epochs have
    lr: float = limited(5e-5)
    lr_for: dict[str, float] = limited({})  # pattern of names -> their own rate
    freeze: list[str] = field(default_factory=list)  # patterns of parameter names that stay as they are
    warmup: float = limited(0.0)  # below 1 a share of all steps, else a number of steps
    schedule: str = one_of("linear", SCHEDULES)  # linear, cosine or constant
    weight_decay: float = limited(0.0)
    max_grad_norm: float = limited(1.0)  # 0: no clipping
    dtype: str = one_of("float32", DTYPES)  # or bfloat16, float16: of forward and backward; weights stay float32
    dropout: float = limited(-1.0, -1, 1)  # below 0: as the model's config says
    attention_dropout: float = limited(-1.0, -1, 1)
    fsdp: bool = False  # of weights, gradients and optimizer state each process holds a share, see sharding.py
    checkpoint_layers: bool = False  # keep no activations inside a layer, compute them again in backward
    prompts: str | Table = ""  # for all sets; column -> prompt, set -> prompt, or set -> {column -> prompt}
    log_every: int = limited(10, 1)  # steps
    eval_every: int = limited(0)  # steps; 0: only at the end
    save_every: int = limited(0)
    keep: int = limited(2, 1)  # checkpoints; older ones are deleted
    best: str = ""  # the metric by which the final model is chosen among the evaluated ones; "": the last one is
    patience: int = limited(0)  # stop after so many evaluations without a better `best`; 0: never


@dataclass(frozen=True)
class GuideConfig:
    """A second model that embeds the same texts, with its own tokenizer, and is not trained."""

    model: str = ""  # a folder, or a name on the hub
    revision: str = ""
    cache: bool = False  # embed every training text once, before the first step, and keep that on disk


@dataclass(frozen=True)
class EvalConfig(RowsConfig):
    """One evaluation: an evaluator, or the mean of a loss. One that a [[data]] entry writes alike is the same one."""

    kind = "eval"
    name: str = "eval"
    evaluator: Table = field(default_factory=dict)  # its name, alone or in a table with arguments
    queries: str = ""  # with corpus and qrels, instead of files: a collection as BEIR lays it out
    corpus: str = ""
    qrels: str = ""
    dimensions: list[int] = field(default_factory=list)  # measure the first so many of an embedding too, see sizes.py
    layers: list[int] = field(default_factory=list)  # and a model that ends behind its layer of that number, from 1
    bm25: bool = False  # print BM25's nDCG@10 on the same documents at the end
    searches: list[str] = field(default_factory=list)  # queries whose hits are printed at the end


@dataclass(frozen=True)
class Config:
    """The whole file: single values and the tables [model], [train], ..; of [[data]] and [[eval]] any number."""

    output: str = ""  # the run directory, see checkpoint.py
    data: list[DataConfig] = field(default_factory=list)
    seed: int = limited(42, 0, 2**32 - 1)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    guide: GuideConfig = field(default_factory=GuideConfig)  # whose embeddings a loss may look at
    teacher: GuideConfig = field(default_factory=GuideConfig)  # whose embeddings are learned
    eval: list[EvalConfig] = field(default_factory=list)
    expect: dict[str, float] = limited({}, -math.inf)  # metric -> its least value, of a .._loss its largest

    @property
    def cache(self) -> Path:
        return Path(self.output).parent / "cache"  # of token streams, for all runs beside this one


def load_config(file: Path, overrides: list[str]) -> Config:
    config: Config = build(Config, read_table(file, overrides), "the top level")
    for wrong in _contradictions(config):
        raise ValueError(f"config: {wrong}")
    return config


def _contradictions(config: Config) -> Iterator[str]:
    """What single values do not show, each in words."""
    model, train = config.model, config.train
    if not config.output:
        yield "the top level lacks the key 'output'"
    if bool(model.path) == bool(model.encoder):
        yield "[model] takes path, or [model.encoder] to start from random weights: give one of them"
    of_a_path = model.revision, model.adapter, model.keep_layers, model.max_length, model.pca, model.twins
    if any(of_a_path) and not model.path:
        yield "revision, adapter, keep_layers, max_length, pca and twins in [model] belong to a model with a path"
    if model.lora.rank and (not model.path or model.adapter or model.keep_layers or model.twins or model.sparse_start):
        yield "[model.lora] is of a model with a path, without adapter, keep_layers, twins and sparse_start"
    if not model.lora.rank and model.lora != LoraConfig():
        yield "[model.lora] needs a rank, such as 16"
    if not config.data:
        yield "there is no [[data]] entry"
    for entry in config.data:
        yield from _of_rows(entry)
        if bool(entry.files) == bool(entry.source):
            yield "[[data]] takes files or source: give one of them"
    for evaluation in config.eval:
        yield from _of_evaluation(evaluation)
    names = [entry.where for entry in (*config.data, *config.eval)]
    for where in names:
        if names.count(where) > 1:
            yield f"two entries are {where}: give each a name of its own"
    if train.fsdp and train.dtype == "float16":
        yield "fsdp in [train] goes with dtype float32 or bfloat16: torch scales no mixture of shares and whole weights"
    if train.patience and not (train.best and train.eval_every):
        yield "patience in [train] needs best, the metric to watch, and eval_every"
    if (train.best or config.expect) and not config.eval:
        yield "best in [train] and [expect] name metrics, but there is no [[eval]] entry that would measure any"


def _of_rows(entry: RowsConfig) -> Iterator[str]:
    where, columns = entry.where, list(entry.columns)
    if not columns:
        yield f'columns in {where} is empty: write {{ anchor = "its name in the file", .. }}'
    with_partner = [*columns, PARTNER] if entry.draw_pairs else columns
    for key, table, known in (("roles", entry.roles, with_partner), ("delete_words", entry.delete_words, columns)):
        for column in table.keys() - known:
            yield f"{key} in {where} names {column!r}, the columns are {listing(known)}"
    if entry.draw_pairs and (entry.draw_pairs < 2 or len(columns) != 1 or entry.label != ""):  # it makes the label
        yield f"draw_pairs in {where} is {entry.draw_pairs}: it takes 2 or more, one column, and no label"


def _of_evaluation(entry: EvalConfig) -> Iterator[str]:
    where, collection = entry.where, (entry.queries, entry.corpus, entry.qrels)
    if bool(entry.evaluator) == bool(entry.loss):
        yield f"{where} takes evaluator or loss: give one of them"
    of_a_loss = (entry.label != "", entry.roles, entry.prompts, entry.delete_words, entry.draw_pairs)  # 0 is a label
    if entry.evaluator and any(of_a_loss):
        yield f"label, roles, prompts, delete_words and draw_pairs in {where} belong to a loss, not to an evaluator"
    if (entry.dimensions or entry.layers) and (entry.loss or entry.evaluator.keys() & set(ONE_SIZE)):
        yield f"dimensions and layers in {where} are of an evaluator without {', '.join(ONE_SIZE)}"
    name = entry.evaluator.get("name")
    if (entry.bm25 and name not in RANKING) or (entry.searches and name != RANKING[0]):
        yield f"bm25 in {where} belongs to {' or '.join(RANKING)}, searches to the first of them"
    if "folder" in entry.evaluator:  # it reads files of its own
        if any(collection) or entry.files or entry.columns:
            yield f"folder in {where} says where its files are: it takes no files, columns, queries, corpus and qrels"
    elif not any(collection):
        if not entry.files:
            yield f"{where} has no files"
        yield from _of_rows(entry)
    elif not all(collection) or entry.files or entry.columns or entry.loss:
        yield f"{where} takes files and columns, or for an evaluator queries, corpus and qrels, all three"
