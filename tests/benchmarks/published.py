"""Recipes on data sets that others have published figures of: the commands of configs/ with other files, run whole.

python tests/benchmarks/published.py --data data                   # all four, half an hour on two cores
python tests/benchmarks/published.py --data data sick cranfield    # these

In the folder of --data lie the files as they are published: sts/ (SemEval's score, text, text), sick/ (SICK_train.txt,
SICK_trial.txt), cranfield/ (as in BEIR), tatoeba/ (tatoeba.deu-eng.deu and .eng). Trained on train parts alone,
measured on the others, before the first step and after the last. cranfield needs runs/quickstart and runs/rerank,
tatoeba the files that the header of configs/multilingual.toml makes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minist.data.rows import read_rows

STS = {"score": 0, "text1": 1, "text2": 2}
SICK = {"text1": "sentence_A", "text2": "sentence_B"}
TRAIN = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node=2 train.py --overwrite".split()
Run = tuple[str, str, dict[str, Any]]  # output, recipe, keys of its config and their values


def correlation(name: str, files: list[Path], columns: dict[str, Any]) -> dict[str, Any]:
    evaluator = "EmbeddingSimilarityEvaluator"
    return {"name": name, "evaluator": evaluator, "files": files, "format": "tsv", "columns": columns}


def sts(folder: Path) -> Iterator[Run]:
    """The two parts of 2012 that have train files; the tasks of 2013 to 2015 have none."""
    data = {"files": sorted(folder.glob("2012.*.train.tsv")), "format": "tsv", "columns": {"text1": 1, "text2": 2}}
    years = [2013, 2014, 2015]
    eval_ = [correlation(f"sts{year}", sorted(folder.glob(f"{year}.*.test.tsv")), STS) for year in years]
    expect = {f"sts{year}_spearman_cosine": -1 for year in years}
    rest = {"train.max_steps": 0, "train.lr": 2e-5, "model.max_length": 128, "eval": eval_, "expect": expect}
    yield "sts", "similarity", {"data": [data | {"label": 0, "loss": "CoSENTLoss"}], **rest}


def sick(folder: Path) -> Iterator[Run]:
    """Relatedness, and the three classes; configs/pair_classification.toml is the cross-encoder for these."""
    train, trial = folder / "SICK_train.txt", folder / "SICK_trial.txt"
    data = {"files": [train], "format": "tsv", "columns": SICK}
    eval_ = correlation("trial", [trial], {**SICK, "score": "relatedness_score"})
    rows = {**data, "label": "relatedness_score", "loss": "CoSENTLoss"}
    epochs = {"train.max_steps": 0, "train.epochs": 4}
    expect = {"trial_spearman_cosine": -1}
    yield "sick_relatedness", "similarity", {
        "data": [rows], **epochs, "train.lr": 5e-5, "eval": [eval_], "expect": expect
    }  # fmt: skip
    loss = {"name": "SoftmaxLoss", "embedding_dimension": 384, "num_labels": 3}
    eval_ = {
        "name": "trial", "evaluator": {"name": "LabelAccuracyEvaluator", "softmax_model": "train"}, "files": [trial],
        "format": "tsv", "columns": {**SICK, "label": "entailment_judgment"},
    }  # fmt: skip
    rows = {**data, "label": "entailment_judgment", "loss": loss}
    yield "sick_inference", "inference", {"data": [rows], **epochs, "eval": [eval_], "expect": {"trial_accuracy": -1}}


def cranfield(folder: Path) -> Iterator[Run]:
    """No query is trained on: the title of an abstract is the query for which negatives are mined and scored."""
    pairs, mined = Path("runs/published/pairs.jsonl"), Path("runs/published/mined.jsonl")
    rows = [(row["title"], row["text"]) for row in read_rows(folder / "corpus.jsonl", ["title", "text"])]
    rows = [(title, text.removeprefix(title).strip()) for title, text in rows]  # which begins with it
    pairs.write_text("".join(json.dumps({"title": a, "body": b}) + "\n" for a, b in rows if a and b), "utf-8")
    options = "--format n-tuple --num-negatives 4 --range-max 20 --output-scores"
    models = "--model runs/quickstart/model --cross-encoder runs/rerank/model"
    mined.unlink(missing_ok=True)
    command = f"{sys.executable} -m minist mine {models} --pairs {pairs} --output {mined} {options}"
    subprocess.run(command.split(), check=True)
    files = {"queries": folder / "queries.jsonl", "corpus": folder / "corpus.jsonl", "qrels": folder / "qrels/dev.tsv"}
    eval_ = {"name": "dev", "evaluator": "InformationRetrievalEvaluator", **files, "bm25": True}
    overrides = {"data.0.files": [mined], "eval": [eval_], "expect": {"dev_cosine_ndcg@10": -1}}
    yield "cranfield_gpl", "gpl", overrides
    yield "cranfield", "hard_negatives", overrides | {"train.epochs": 4}


def tatoeba(folder: Path) -> Iterator[Run]:
    """A dictionary is trained on, sentences are measured."""
    german, english = (folder / f"tatoeba.deu-eng.{language}" for language in ("deu", "eng"))
    both = zip(*(file.read_text("utf-8").splitlines() for file in (english, german)), strict=True)
    table = Path("runs/published/tatoeba.tsv")
    table.write_text("source\ttarget\n" + "".join(f"{source}\t{target}\n" for source, target in both), "utf-8")
    columns = {"source": "source", "target": "target"}
    eval_ = {"name": "tatoeba", "evaluator": "TranslationEvaluator", "files": [table], "columns": columns}
    yield "tatoeba", "multilingual", {"eval": [eval_], "expect": {"tatoeba_mean_accuracy": -1}}


def toml(value: Any) -> str:
    """As an inline value of TOML, which is JSON but for its tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def main() -> None:
    Path("runs/published").mkdir(parents=True, exist_ok=True)
    known = {"sts": sts, "sick": sick, "cranfield": cranfield, "tatoeba": tatoeba}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("names", nargs="*", choices=[*known, []], help="which (default: all)")
    args = parser.parse_args()
    rows = []
    for name in args.names or known:
        for output, recipe, overrides in known[name](args.data / name):
            folder, started = Path("runs/published") / output, time.perf_counter()
            keys = [f"{key}={toml(value)}" for key, value in {"output": folder, **overrides}.items()]
            sets = [part for key in keys for part in ("--set", key)]
            subprocess.run([*TRAIN, "--config", f"configs/{recipe}.toml", *sets], check=True)
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
            found = [line for line in lines if line.keys() >= overrides["expect"].keys()]
            for metric in overrides["expect"]:
                rows.append((output, metric, found[0][metric], found[-1][metric], time.perf_counter() - started))
    print("\n| recipe | metric | before | after | seconds |\n|---|---|---|---|---|")
    for output, metric, before, after, seconds in rows:
        print(f"| {output} | {metric} | {before:.3f} | {after:.3f} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
