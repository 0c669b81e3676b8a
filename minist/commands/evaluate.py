"""Measure models on data that has answers: metrics down, models side by side.

python -m minist evaluate --model M M2 --data scifact --output results.json
python -m minist evaluate --model M --data sts-dev.csv --similarity cosine dot --truncate-dim 128
torchrun --nproc_per_node=2 -m minist evaluate --model M --data nanobeir

DATA is what it looks like: a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv (BEIR), or a folder of such ones
(NanoBEIR); or a table with columns of usual names: two texts with a score (sentence1, sentence2, score) or a label of 0
and 1, triplets (anchor, positive, negative), lists to re-rank (query, positive, and negative or documents), source and
target of a translation, query and document; or a tsv of two texts and a number without a header. The first line says
what each column was taken for. A cross-encoder re-ranks what BM25 finds in a collection, and scores pairs.
"""

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

from minist import distributed, evaluation
from minist.checks import listing, pick
from minist.data.rows import Column, format_of, parse_number, read_places, read_rows
from minist.data.texts import FIRST, SECOND
from minist.evaluation.beir import files_of
from minist.files import check_file
from minist.models import open_model
from minist.training.config import EvalConfig
from minist.training.evaluations import check_kind, evaluate, make_evaluator

HELP = "measure models on a collection or a table of pairs"
USUAL = {  # our columns -> how people call them
    "text1": FIRST,
    "text2": SECOND,
    "positive": ["positive", "positives", "pos", "answer"],
    "negative": ["negative", "negatives", "neg"],
    "documents": ["documents", "candidates"],
    "score": [
        "score",
        "scores",
        "similarity",
        "similarity_score",
        "relatedness_score",
        "label",
        "labels",
        "is_duplicate",
    ],
    "source": ["source", "src", "source_sentence"],
    "target": ["target", "trg", "target_sentence"],
}
USUAL["score"] += ["label", "labels", "is_duplicate"]
ALSO = {"query": "text1", "anchor": "text1", "document": "text2", "label": "score"}  # what evaluators call the same
TASKS = {  # what the data is -> the evaluator of models of embeddings, and of models that score pairs
    "collection": ("InformationRetrievalEvaluator", "CrossEncoderRerankingEvaluator"),
    "collections": ("NanoBEIREvaluator", "CrossEncoderNanoBEIREvaluator"),
    "lists": ("RerankingEvaluator", "CrossEncoderRerankingEvaluator"),
    "triplets": ("TripletEvaluator", "CrossEncoderRerankingEvaluator"),
    "scored pairs": ("EmbeddingSimilarityEvaluator", "CrossEncoderCorrelationEvaluator"),
    "labelled pairs": ("BinaryClassificationEvaluator", "CrossEncoderClassificationEvaluator"),
    "translations": ("TranslationEvaluator",),
    "queries and answers": ("InformationRetrievalEvaluator",),
}
OPTIONS = ("similarity_fn_names", "truncate_dim", "precision", "write_predictions")
NAMES = [*dict.fromkeys(name for names in TASKS.values() for name in names), "ParaphraseMiningEvaluator"]


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", nargs="+", required=True, help="model folders, or names on the Hugging Face hub")
    add("--data", type=Path, required=True, help="a folder or a table, see above")
    add("--evaluator", help=f"one of {listing(NAMES)}; else as the data looks")
    add("--split", default="", help="which qrels/SPLIT.tsv (the only one, or test)")
    add("--similarity", dest="similarity_fn_names", nargs="+", help="cosine, dot, euclidean, manhattan")
    add("--truncate-dim", type=int, help="keep the first dimensions, of a sparse model so many weights of each text")
    add("--precision", help="of embeddings: int8, uint8, binary, ubinary")
    add("--write-predictions", help="a .jsonl file for the results of a search among documents")
    add("--output", type=Path, help="a .json file for all metrics")


def run(args: argparse.Namespace) -> None:
    rank, world, device = distributed.start()
    if args.output and (args.output.is_dir() or not args.output.parent.is_dir()):
        raise ValueError(f"--output is {args.output}: name a file in a folder that is there")
    if args.write_predictions and len(args.model) > 1:
        raise ValueError("--write-predictions is of one model: name a single --model")
    task, columns = look(args.data)  # before a model is loaded
    evaluator_of = cache(lambda name: make(name, task, columns, args))  # reads the data once
    metrics, chosen, shown, notes = {}, {}, {}, {}
    for path in dict.fromkeys(args.model):
        model = open_model(path, revision=args.revision, device=args.device or (device if world > 1 else None))
        scores = model.gives == "scores"
        names = TASKS["labelled pairs" if scores and task == "scored pairs" and model.width > 1 else task]
        chosen[path] = args.evaluator or names[min(scores, len(names) - 1)]
        evaluator = evaluator_of(chosen[path])
        check_kind(chosen[path], evaluator, model)
        metrics[path] = evaluate([evaluator], model)
        own = "" if scores or args.similarity_fn_names else model.similarity_name  # the only one: no name needs it
        shown[path] = {"_".join(w for w in key.split("_") if w != own): value for key, value in metrics[path].items()}
        notes[evaluator.note] = path
    if not rank:
        print("".join(f"note: {note}\n" for note in [understood(args.data, task, columns), *notes] if note), end="")
        print("\n".join(table(shown)))
        if args.output:
            clean = {path: {k: None if v != v else v for k, v in of.items()} for path, of in metrics.items()}
            about = {"data": str(args.data), "evaluator": chosen, "metrics": clean}  # JSON has no nan
            args.output.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
    distributed.stop()


def table(shown: dict[str, dict[str, float]]) -> list[str]:
    """Metrics down, models across."""
    metrics = dict.fromkeys(metric for of in shown.values() for metric in of)
    short = {path: Path(path).name for path in shown}  # but runs/a/model and runs/b/model would be alike
    rows = [["", *(short.values() if len({*short.values()}) == len(short) else short)]]
    rows += [[metric, *(f"{of[metric]:.4f}" if metric in of else "" for of in shown.values())] for metric in metrics]
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([metric.ljust(first), *map(str.rjust, cells, widths)]) for metric, *cells in rows]


def look(data: Path) -> tuple[str, dict[str, Column]]:
    """What the data is, a key of TASKS; and of a table its columns by our names."""
    if data.is_dir():
        return "collection" if (data / "corpus.jsonl").is_file() else "collections", {}
    check_file(data)
    columns = find_columns(data)
    known = columns.keys()
    rows = [place.row for place in read_places([data], columns)] if columns else []
    if {"text1", "positive"} <= known and known & {"negative", "documents"}:
        is_list = "documents" in known or isinstance(rows[0]["negative"], list)
        return "lists" if is_list else "triplets", columns
    if {"text1", "text2", "score"} <= known:
        cells = {str(row["score"]) for row in rows} - {"", "None"}
        values = {parse_number(cell) for cell in cells}
        return "labelled pairs" if values <= {0, 1} or values == {None} else "scored pairs", columns
    for kind, wanted in (("translations", {"source", "target"}), ("queries and answers", {"text1", "text2"})):
        if wanted <= known:
            return kind, columns
    names = listing(next(iter(read_rows(data, []))))
    raise ValueError(f"{data} has the columns {names}: rename some as --help says, or write [[eval]] in a config")


def understood(data: Path, task: str, columns: dict[str, Column]) -> str:
    """What each column of a table was taken for: a person sees a wrong guess here, and a column that nobody reads."""
    if not columns:
        return ""
    taken = {name: ours for ours, name in columns.items()}  # one may have two of our names: the later one says more
    left = listing(name for name in next(iter(read_rows(data, list(taken)))) if name not in taken)
    said = ", ".join(f"{name!r} is {ours}" for name, ours in taken.items())
    return f"read as {task}: {said}" + f"; not used: {left}" * (left != "none")


def find_columns(file: Path) -> dict[str, Column]:
    """Our names of columns -> those of the file, or numbers where it has no header but one number and two texts."""
    if format_of(file, "") in ("tsv", "csv"):
        cells = list(next(iter(read_rows(file, [0]))).values())
        numbers = [i for i, cell in enumerate(cells) if parse_number(cell) is not None]
        if len(cells) == 3 and len(numbers) == 1:
            first, second = (i for i in range(3) if i not in numbers)
            return {"text1": first, "text2": second, "score": numbers[0]}
    names = {str(name).lower(): name for name in next(iter(read_rows(file, [])))}
    found = {ours: [names[name] for name in usual if name in names] for ours, usual in USUAL.items()}
    return {ours: columns[0] for ours, columns in found.items() if columns}


def make(name: str, task: str, columns: dict[str, Column], args: argparse.Namespace) -> Any:
    """The evaluator of that name with the data: as a config would make it. ValueError for one that does not take it."""
    found = pick("--evaluator", name, {known: vars(evaluation)[known] for known in NAMES})
    options = {key: vars(args)[key] for key in OPTIONS if vars(args)[key] is not None}
    if columns:
        wanted = {one.removesuffix(" (optional)"): ALSO.get(one, one) for c in found.columns for one in c.split(" or ")}
        chosen = {ours: columns[usual] for ours, usual in wanted.items() if usual in columns}
        files: dict[str, Any] = {"files": [str(args.data)], "columns": chosen}
    else:
        pick(f"the evaluator of {args.data}, a folder,", name, dict.fromkeys(TASKS[task]))
        options |= {"folder": str(args.data), "split": args.split} if task == "collections" else {}
        given = files_of(args.data, args.split) if task == "collection" else {}
        files = {key: str(file) for key, file in given.items()}
    try:
        return make_evaluator(EvalConfig(name="", evaluator={"name": name, **options}, **files))
    except ValueError as e:
        raise ValueError(str(e).replace("config: ", "").replace("[[eval]] ", str(args.data))) from None
