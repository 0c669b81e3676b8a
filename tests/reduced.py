"""Recipes at reduced size: tiny models and few texts in a folder, and their commands changed to a few steps."""

import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from recipes import ROOT, training_of
from tiny import run_script, sentences, tiny_model, write_jsonl
from torch import nn

from minist.models import MaskedLM
from minist.training.config import Config, load_config
from minist.training.selection import falls

STEPS = 2
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CLASSES = ["NEUTRAL", "ENTAILMENT", "CONTRADICTION"]
TEXT = "text"
PAIR, TRIPLET = {"text1": TEXT, "text2": TEXT}, {"anchor": TEXT, "positive": TEXT, "negative": TEXT}
INFERENCE = {"premise": TEXT, "hypothesis": TEXT, "label": ["entailment", "neutral", "contradiction"]}
SOURCES = {  # the columns of minist/data/sources
    "python_docs": {"summary": TEXT, "body": TEXT},
    "packages": {"title": TEXT, "body": TEXT},
    "wordnet/definitions": {"words": TEXT, "definition": TEXT},
    "wordnet/examples": {"example": TEXT, "definition": TEXT},
    "wordnet/similarity": PAIR | {"score": [0.1, 0.9, 0.4]},
    "wordnet/inference": INFERENCE,
    "wordnet/triplets": TRIPLET,
    "wordnet/classes": {"text": TEXT, "label": ["noun.animal", "verb.motion", "noun.food"]},
    "wordnet/class_triplets": TRIPLET,
    **{f"freedict/{language}": {"english": TEXT, "translation": TEXT} for language in ("deu", "fra", "spa")},
}
MADE: set[str] = set()  # names of our classes of which a command made an object

Row = dict[str, object]


@contextmanager
def noting_what_is_made():
    plain = nn.Module.__init__

    def noting(self, *args, **options):
        MADE.update(kind.__name__ for kind in type(self).__mro__ if kind.__module__.startswith("minist."))
        plain(self, *args, **options)

    with mock.patch.object(nn.Module, "__init__", noting):
        yield


# ------------------------------------------------------------ data and models


def rows_of(n: int, seed: int, **columns: object) -> list[Row]:
    """n rows: a column of TEXT has one, of a list its values in turn, of a number so many texts in each cell."""
    rows: list[Row] = [{} for _ in range(n)]
    for i, (name, kind) in enumerate(columns.items()):
        size = kind if isinstance(kind, int) else 1
        texts = sentences(n * size, seed + 100 * i)
        for place, row in enumerate(rows):
            many = texts[place * size : (place + 1) * size]
            row[name] = (
                kind[place % len(kind)] if isinstance(kind, list) else many if isinstance(kind, int) else many[0]
            )
    return rows


def write_source(folder: Path, **columns: object) -> None:
    """train.jsonl and heldout.jsonl."""
    folder.mkdir(parents=True)
    for name, n, seed in (("train", 60, 1), ("heldout", 30, 2)):
        write_jsonl(folder / f"{name}.jsonl", rows_of(n, seed, **columns))


def lay_out(folder: Path) -> None:
    """The models "tiny" and "words", and data/ with the columns of the sources, in an empty folder."""
    data = folder / "data"
    for source, columns in SOURCES.items():
        write_source(data / source, **columns)
    (data / "sick").mkdir()
    for name, seed in (("train", 3), ("trial", 4)):
        rows = rows_of(
            30, seed, sentence_A=TEXT, sentence_B=TEXT, entailment_judgment=[*CLASSES], relatedness_score=[1, 4]
        )
        lines = ["\t".join(map(str, values)) for values in (rows[0].keys(), *(row.values() for row in rows))]
        (data / f"sick/SICK_{name}.txt").write_text("\n".join(lines) + "\n")
    lay_out_examples(folder)
    long = {"max_position_embeddings": 256}
    wide = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 6}  # as all-MiniLM-L6-v2
    tiny_model(encoder=long | wide).save(folder / "tiny")
    tiny_model(encoder=long).save(folder / "encoder")
    MaskedLM(folder / "encoder").save(folder / "words")


def lay_out_examples(folder: Path) -> None:
    """The files that the EXAMPLES.md name."""
    scores = [[0.9, 0.3, 0.1], [0.8, 0.5, 0.4]]
    negatives = {"negative_1": TEXT, "negative_2": TEXT}
    files = {
        "pairs": {"question": TEXT, "answer": TEXT},
        "lists": {"query": TEXT, "documents": 4, "labels": [[1, 0, 0, 0], [0, 2, 1, 0]]},
        "scored": {"query": TEXT, "positive": TEXT, **negatives, "scores": scores},
        "sts": {"sentence1": TEXT, "sentence2": TEXT, "score": [0.1, 0.9, 0.4]},
        "nli": INFERENCE,
        "candidates": {"query": TEXT, "positive": 1, "documents": 5},
        "questions": PAIR | {"label": [1, 0, 0]},
        "duplicates": PAIR | {"label": [1, 0, 0]},
    }
    for seed, (name, columns) in enumerate(files.items()):
        write_jsonl(folder / f"{name}.jsonl", rows_of(30, seed, **columns))
    nano = folder / "nano/NanoMSMARCO"
    (nano / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        write_jsonl(
            nano / f"{name}.jsonl", [{"_id": str(i), "text": x} for i, x in enumerate(sentences(20, len(name)))]
        )
    lines = ["query-id\tcorpus-id\tscore", *(f"{i}\t{i}\t1" for i in range(20))]
    (nano / "qrels/test.tsv").write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------ commands


def changes(config: Config) -> list[str]:
    """What makes of a config a few steps of a tiny model, for --set."""
    reached = {name: 1e9 if falls(name) else -1e9 for name in config.expect}  # what no model can miss
    expect = ", ".join(f'"{name}" = {value}' for name, value in reached.items())
    found = [f"train.max_steps={max(STEPS, len(config.data))}", "train.batch_size=10", "train.log_every=1"]
    found += [f"expect={{ {expect} }}"] + ["train.eval_every=1"] * bool(config.train.eval_every)
    found += ["model.pca=16"] * bool(config.model.pca)
    if config.model.encoder:
        found += ["model.tokenizer.vocab_size=200"]
    elif config.model.path == MINILM:
        words = config.model.type in ("SparseEncoder", "MaskedLM") and not config.model.autoencoder
        found += [f"model.path={'words' if words else 'tiny'}"]
    for key in ("teacher", "guide"):
        model = vars(config)[key].model
        found += [f"{key}.model=tiny"] if model == MINILM else []
    teachers = [i for i, entry in enumerate(config.eval) if "teacher_model" in entry.evaluator]
    return found + [f"eval.{i}.evaluator.teacher_model=tiny" for i in teachers]


def train(config: Config, *arguments: str) -> tuple[int, str]:
    """Run train.py here: a new process takes longer than all the rest. Its exit code, and what it said."""
    more = [word for change in changes(config) for word in ("--set", change)]
    with noting_what_is_made():
        code, out, err = run_script("train.py", *arguments, *more, "--overwrite")
    steps = f"step {max(STEPS, len(config.data))}/"
    return code or int(steps not in out), out + err


def execute_reduced(command: str, log: Path) -> int:
    """Run a command of a recipe at reduced size, here if it is one of ours."""
    words = shlex.split(command.replace(MINILM, "tiny"), comments=True)
    if training := training_of(command):
        file = ROOT / words[words.index("--config") + 1]
        overrides = [word for change in training.overrides for word in ("--set", change)]
        code, said = train(training.config, "--config", str(file), *overrides)
    elif words[:2] == ["python", "-m"]:
        module = words[2].replace(".", "/")
        if module == "minist/data/sources":
            return 0  # its files are there
        code, out, err = run_script(f"{module}/__main__.py", *words[3:])
        said = out + err
    elif words[0] == "python":
        code, out, err = run_script(*words[1:])
        said = out + err
    else:
        return subprocess.run(command, shell=True).returncode
    log.write_text(f"$ {command}\n{said}")
    if code:
        print("\n".join(said.splitlines()[-10:]))
    return code


def run_example(language: str, code: str, name: str) -> None:
    """A config, trained, or a program, run. AssertionError where it fails."""
    if language == "toml":
        file = Path("example.toml")
        file.write_text(code.replace("runs/mlm/model", "words"), "utf-8")
        failed, said = train(load_config(file, []), "--config", str(file))
        assert not failed, said
    else:
        with noting_what_is_made():
            exec(compile(code.replace(MINILM, "tiny").replace("runs/mlm/model", "words"), name, "exec"), {})
