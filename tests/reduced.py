"""Recipes at reduced size: tiny models and few texts in a folder, and their commands changed to a few steps."""

import shlex
import subprocess
from pathlib import Path

from recipes import training_of
from tiny import run_script, sentences, tiny_model, write_jsonl

from minist.models import MaskedLM
from minist.training.selection import falls

STEPS = 2
CLASSES = ("NEUTRAL", "ENTAILMENT", "CONTRADICTION")


def pairs(n: int, seed: int, *names: str) -> list[dict[str, object]]:
    """n rows with a text in each of the columns."""
    columns = [sentences(n, seed + 100 * i) for i in range(len(names))]
    return [dict(zip(names, texts, strict=True)) for texts in zip(*columns, strict=True)]


def with_values(rows: list[dict[str, object]], name: str, values: list[object]) -> list[dict[str, object]]:
    """Rows with one more column, of these values in turn."""
    return [row | {name: values[i % len(values)]} for i, row in enumerate(rows)]


def write_source(folder: Path, rows: list[dict[str, object]]) -> None:
    """train.jsonl and heldout.jsonl."""
    folder.mkdir(parents=True)
    write_jsonl(folder / "train.jsonl", rows[: len(rows) * 2 // 3])
    write_jsonl(folder / "heldout.jsonl", rows[len(rows) * 2 // 3 :])


def lay_out(folder: Path) -> None:
    """The models "tiny" and "words", and data/ with the columns of the sources, in an empty folder."""
    data = folder / "data"
    write_source(data / "python_docs", pairs(90, 1, "summary", "body"))
    (data / "sick").mkdir()
    for name, seed in (("train", 3), ("trial", 4)):
        rows = with_values(pairs(30, seed, "sentence_A", "sentence_B"), "entailment_judgment", [*CLASSES])
        lines = ["\t".join(map(str, values)) for values in (rows[0].keys(), *(row.values() for row in rows))]
        (data / f"sick/SICK_{name}.txt").write_text("\n".join(lines) + "\n")
    long = {"max_position_embeddings": 256}
    wide = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 6}  # as all-MiniLM-L6-v2
    tiny_model(encoder=long | wide).save(folder / "tiny")
    tiny_model(encoder=long).save(folder / "encoder")
    MaskedLM(folder / "encoder").save(folder / "words")


def reduced(command: str) -> list[str]:
    """The words of a train.py command, changed to a few steps from a tiny model, in one process."""
    training = training_of(command)
    config = training.config
    reached = {name: 1e9 if falls(name) else -1e9 for name in config.expect}  # what no model can miss
    expect = ", ".join(f'"{name}" = {value}' for name, value in reached.items())
    changes = [f"train.max_steps={STEPS}", "train.batch_size=10", "train.log_every=1", f"expect={{ {expect} }}"]
    changes += [f"train.eval_every={STEPS}"] if config.train.eval_every else []
    if config.model.encoder:
        changes += ["model.tokenizer.vocab_size=200"]
    elif not config.model.path.startswith("runs/"):
        words = config.model.type in ("SparseEncoder", "MaskedLM") and not config.model.autoencoder
        changes += [f"model.path={'words' if words else 'tiny'}"]
    for key in ("teacher", "guide"):
        model = vars(config)[key].model
        changes += [f"{key}.model=tiny"] if model and not model.startswith("runs/") else []
    words = shlex.split(command, comments=True)
    return words[words.index("train.py") :] + [word for change in changes for word in ("--set", change)]


def execute_reduced(command: str, log: Path) -> int:
    """Run a command at reduced size, here if it is one of ours: a new process takes longer than all the rest."""
    words = reduced(command) if training_of(command) else shlex.split(command, comments=True)
    if training_of(command):
        words[words.index("--config") + 1] = str(Path(__file__).parents[1] / words[words.index("--config") + 1])
        words.append("--overwrite")
    if words[:2] == ["python", "-m"]:
        words = [words[2].replace(".", "/") + "/__main__.py" * (words[2] == "minist"), *words[3:]]
    elif words[0] in ("python", "torchrun"):
        words = words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]
    if words[0].startswith("minist/data/sources"):
        return 0  # its files are there
    if not words[0].endswith(".py"):
        return subprocess.run(command, shell=True).returncode
    code, out, err = run_script(words[0], *words[1:])
    log.write_text(f"$ {shlex.join(words)}\n{out}{err}")
    if code or (training_of(command) and f"step {STEPS}/{STEPS}" not in out):
        code = code or 1
        print("\n".join((out + err).splitlines()[-10:]))
    return code
