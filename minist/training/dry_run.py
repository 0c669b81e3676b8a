"""What a run will be, before its first step: `python train.py --dry-run --config ..` prints it, and writes no run.

data_report.py   what each column is used for, and rows as the model reads them
measure.py       its memory and time, measured on real steps
doubts.py        warnings: settings that are allowed and surely not meant
here             all of it in order, the course of the run, and an evaluation of the model as it is"""

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from minist import distributed
from minist.checks import pick
from minist.data.rows import read_places
from minist.data.samplers import Place
from minist.models.device import total_memory
from minist.sharding import whole
from minist.training.config import EvalConfig
from minist.training.data_report import describe_rows, negatives
from minist.training.doubts import doubts
from minist.training.evaluations import HEADLINES, evaluate, make_evaluator
from minist.training.measure import PART, Measured, TakeStep, bytes_of, held, local_ranks, measure, peak, text_of
from minist.training.optimizer import warmup_steps
from minist.training.run import Run

LOOKED_AT = 10_000  # steps at most whose rows are looked at
EVALUATION_SECONDS = 20.0  # one that takes longer is left out
FEW = 50  # rows of it that are evaluated all the same, for the names of its metrics
COURSES = {
    "linear": "then in a straight line down to 0",
    "cosine": "then along a cosine down to 0",
    "constant": "then constant",
}


def dry_run(run: Run, take_step: TakeStep, config: Path, settings: Sequence[str]) -> None:
    """Print what can be known of a run. ValueError for what would only show in its first step or evaluation."""
    places = list(islice(run.batches.start_at(0), LOOKED_AT))
    for entry, task in zip(run.config.data, run.tasks, strict=True):
        for line in describe_rows(run, entry, task):
            run.say(line)
    for line in plan(run, places):
        run.say(line)
    before, preparing = held(run.device), peak(run.device)
    measured = measure(run, take_step, places)
    for line in show_memory(run, measured, before, preparing):
        run.say(line)
    for line in chain(show_time(run, measured), try_evaluations(run, measured)):
        run.say(line)
    for warning in doubts(run, places, measured.peak):
        run.say(f"warning: {warning}")
    again = " [--resume or --overwrite]" if run.output.exists() else ""
    if again:
        run.say(f"note   {run.output} exists: --resume goes on from its last checkpoint, --overwrite deletes it")
    ranks = distributed.world_size()
    start = ["torchrun", f"--nproc_per_node={ranks}", sys.argv[0]] if ranks > 1 else ["python", sys.argv[0]]
    start += ["--config", str(config), *(part for setting in settings for part in ("--set", setting))]
    run.say(f"tokens are kept in {run.config.cache}, the run reads them from there; it starts with")
    run.say(shlex.join(start) + again)


def plan(run: Run, places: Sequence[Place]) -> Iterator[str]:
    settings, total, world = run.config.train, run.batches.total, distributed.world_size()
    rows = sum(len(task.rows.dataset) for task in run.tasks)
    seen = sum(len(place.rows) for place in places) / len(places) * total
    each = f", {settings.batch_size / world:g} on each of {world} ranks" if world > 1 else ""
    an_epoch = total / settings.epochs if not settings.max_steps else total * rows / seen
    yield f"plan   {total:,} steps of {settings.batch_size:,} rows{each}; {an_epoch:,.0f} steps are an epoch"
    yield f"       they see {seen:,.0f} rows: {seen / rows:.2g} times the {rows:,} that there are"
    for i, task in enumerate(run.tasks):
        steps = sum(place.dataset == i for place in places) * total / len(places)
        if len(run.tasks) > 1:
            yield f"       {task.name}: {steps:,.0f} steps, its loss weighs {task.weight:g}"
        yield from negatives(task, settings.batch_size)
    rising, own = warmup_steps(total, settings.warmup), "".join(f"; {k}: {v:g}" for k, v in settings.lr_for.items())
    yield f"       learning rate {settings.lr:g}{own}, reached in {rising:,} steps, {COURSES[settings.schedule]}"
    when = f"every {settings.eval_every:,} steps and at the end" if settings.eval_every else "at the end only"
    kept = f"every {settings.save_every:,} steps, the last {settings.keep} stay" if settings.save_every else "none"
    yield f"       evaluations: {when if run.evaluations else 'none'}; checkpoints: {kept}"


def show_memory(run: Run, measured: Measured, start: int, preparing: int) -> Iterator[str]:
    known = bytes_of(run.trained)
    how = "measured" if measured.whole else f"estimated, by {PART:,} of its tokens"
    what = f"weights {text_of(known.weights)}, gradients {text_of(known.gradients)}, AdamW {text_of(known.optimizer)}"
    activations = text_of(max(0, measured.peak - start - known.state)) if measured.peak else "unknown: no /proc here"
    yield f"memory {what}; activations {activations}"
    ranks, there = local_ranks(run.device), total_memory(run.device)
    largest = f"in the largest batch, that of step {measured.largest.step + 1} with {measured.tokens:,} tokens"
    if measured.peak:
        each = f"{ranks} x " if ranks > 1 else ""
        yield f"       needed: {each}{text_of(measured.peak)} of {text_of(there)} ({how}) {largest}"
        yield f"       before the first step, for vocabulary and tokens: {each}{text_of(preparing)} (measured)"
        if run.device.type == "cpu":  # batches differ in size, so the pieces that one leaves do not fit the next
            yield "       a run on a CPU may come to hold several times that: the C library keeps what was freed"


def show_time(run: Run, measured: Measured) -> Iterator[str]:
    step, how = measured.seconds / run.batches.total, "whole batches" if measured.whole else f"{PART:,} tokens each"
    count = f"{run.batches.total:,} steps take about {duration(measured.seconds)}"
    yield f"time   {count}: {step:.3g} s each, {measured.rate:,.0f} tokens/s (measured on {measured.steps} of {how})"


def try_evaluations(run: Run, measured: Measured) -> Iterator[str]:
    """Evaluate the model as it is, where that is quick; the names of all metrics are then known, and checked."""
    metrics: dict[str, float] = {}
    settings, started, left = run.config.train, time.perf_counter(), dict[str, dict[str, float]]()
    for entry, evaluation in zip(run.config.eval, run.evaluations, strict=True):
        files = [*entry.paths(), *(Path(f) for f in (entry.queries, entry.corpus, entry.qrels) if f)]
        files += Path(entry.evaluator["folder"]).rglob("*") if "folder" in entry.evaluator else ()
        tokens = sum(file.stat().st_size for file in files if file.is_file()) / 4  # bytes of an English token
        # without a backward pass, which is two thirds of a step
        if distributed.any_rank([tokens / (3 * measured.rate) > EVALUATION_SECONDS], run.device)[0]:
            left[entry.name] = few_metrics(run, entry)
        else:
            with whole(run.trained.model):
                metrics |= evaluate([evaluation], run.trained.model)
    seconds = time.perf_counter() - started
    if shown := [f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(HEADLINES)]:
        yield f"eval   before the first step: {'  '.join(shown)}"
    if run.evaluations:
        often = 1 + (run.batches.total - 1) // settings.eval_every if settings.eval_every else 1
        often += bool(settings.best or run.config.expect)  # before the first step, too
        without = f", without {', '.join(left)}: too long to try" if left else ""
        yield f"       takes {seconds:.1f} s{without}; {often} in a run: {duration(often * seconds)}"
    if all(left.values()):
        names = {name: value for found in (metrics, *left.values()) for name, value in found.items()}
        run.selection.check(names)
        for name in run.config.expect:
            pick("config: a metric in [expect]", name, names)
    elif settings.best or run.config.expect:
        yield "       the names in best and [expect] are not checked"


def few_metrics(run: Run, entry: EvalConfig) -> dict[str, float]:
    """The metrics of an evaluator on its first rows, for their names; none where it takes other files, or more rows."""
    if not (entry.evaluator and entry.files):
        return {}
    with TemporaryDirectory() as folder, suppress(ValueError):
        places = islice(read_places(entry.paths(), entry.columns, entry.format), FEW)
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(place.row) + "\n" for place in places), "utf-8")
        small = replace(entry, files=[str(file)], format="", columns={name: name for name in entry.columns})
        with whole(run.trained.model):
            return evaluate([make_evaluator(small, run.tasks)], run.trained.model)
    return {}


def duration(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
