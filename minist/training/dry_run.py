"""What a run will be, before its first step: `python train.py --dry-run --config ..` prints it, and writes no run.

    data_report.py   what each column is used for, and rows as the model reads them
    here             the course of the run, its memory and its time, measured on real steps, and what is evaluated
    doubts.py        warnings: settings that are allowed and surely not meant

Steps are taken with a learning rate of 0, so they are those of the run in all they cost, and no weight changes."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from minist import distributed
from minist.checks import pick
from minist.data.samplers import Place
from minist.models.device import total_memory
from minist.progress import progress_bar
from minist.training.data_report import describe_rows, negatives
from minist.training.doubts import doubts
from minist.training.evaluations import HEADLINES, evaluate
from minist.training.memory import Bytes, bytes_of, held, local_ranks, peak, reset_peak, text_of
from minist.training.optimizer import warmup_steps
from minist.training.run import Run

TakeStep = Callable[[Run, Place], Any]  # that of train.py
LOOKED_AT = 10_000  # steps at most whose rows are looked at
PART, LEAST = 4096, 4  # tokens of a batch that is too large to be tried whole; rows of it at least, on each rank
TIMED = 5  # steps of each data set
STEP_SECONDS, SECONDS, EVALUATION_SECONDS = 8.0, 15.0, 20.0  # of one step, of all that are timed, of an evaluation
FULL = 0.8  # of the machine's memory: a batch that needs more is not tried
COURSES = {
    "linear": "then in a straight line down to 0",
    "cosine": "then along a cosine down to 0",
    "constant": "then constant",
}


class Measured(NamedTuple):
    """What the steps of a run cost."""

    seconds: float  # of all of them
    steps: int  # that were timed
    whole: bool  # whole batches, or parts of them, by which the whole was reckoned
    rate: float  # tokens per second
    peak: int  # bytes that a rank holds at most; 0: the system does not say
    largest: Place  # the step with the most tokens
    tokens: int  # of it


def dry_run(run: Run, take_step: TakeStep, config: Path, settings: Sequence[str]) -> None:
    """Print what can be known of a run. ValueError for what would only show in its first step or evaluation."""
    places = list(islice(run.batches.start_at(0), LOOKED_AT))
    for entry, task in zip(run.config.data, run.tasks, strict=True):
        for line in describe_rows(run, entry, task):
            run.say(line)
    for line in plan(run, places):
        run.say(line)
    before = held(run.device)
    measured = measure(run, take_step, places)
    for line in show_memory(run, measured, before):
        run.say(line)
    for line in (*show_time(run, measured), *try_evaluations(run, measured)):
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


def measure(run: Run, take_step: TakeStep, places: Sequence[Place]) -> Measured:
    """The largest batch for the memory, and the first ones for the time: whole, unless they are too large to try."""
    for group in run.trained.optimizer.param_groups:
        group["initial_lr"] = 0.0  # with which train.py's steps leave the weights as they are
    totals = [int(tokens_of(run, place).sum()) for place in places]
    largest, tokens = places[totals.index(max(totals))], max(totals)
    start = held(run.device)
    attempt(run, take_step, largest, PART // 4)  # the first step of a process is slow
    reset_peak(run.device)
    tried, seconds = attempt(run, take_step, largest, PART)
    most = run.setup.max_tokens or tokens  # of which activations are held at once
    fixed = start + bytes_of(run.trained).state
    needed = fixed + int(max(0, peak(run.device) - fixed) * max(1.0, min(most, tokens) / min(most, tried)))
    too_large = needed * local_ranks(run.device) > FULL * total_memory(run.device)
    whole = not any(distributed.any_rank([too_large, tokens * seconds / tried > STEP_SECONDS], run.device))
    if whole:
        attempt(run, take_step, largest, tokens)
        needed = peak(run.device)
    rates = time_steps(run, take_step, places, tokens if whole else PART)
    mean = sum(rates.values()) / len(rates)  # seconds of a token; of a set that no step was left for
    total = sum(rates.get(place.dataset, mean) * n for place, n in zip(places, totals, strict=True))
    steps = min(TIMED, len(places))
    return Measured(total * run.batches.total / len(places), steps, whole, 1 / mean, needed, largest, tokens)


def time_steps(run: Run, take_step: TakeStep, places: Sequence[Place], most: int) -> dict[int, float]:
    """Seconds of a token, of each data set, by its first steps; the sets take turns, in case that time runs out."""
    firsts = [[place for place in places if place.dataset == i][:TIMED] for i in range(len(run.tasks))]
    turns = [place for places in zip_longest(*firsts) for place in places if place]
    found: dict[int, list[tuple[int, float]]] = {}
    started = time.perf_counter()
    with progress_bar(len(turns), "steps", "timing") as bar:
        for place in turns:
            found.setdefault(place.dataset, []).append(attempt(run, take_step, place, most))
            bar.update(1)
            if distributed.any_rank([time.perf_counter() - started > SECONDS], run.device)[0]:
                break
    return {i: sum(s for _, s in tried) / sum(n for n, _ in tried) for i, tried in found.items()}


def attempt(run: Run, take_step: TakeStep, place: Place, most: int) -> tuple[int, float]:
    """One step on the first rows of a batch that have no more than `most` tokens: their tokens, and seconds."""
    lengths = tokens_of(run, place)
    rows = max(LEAST * distributed.world_size(), int((lengths.cumsum(0) <= most).sum()))
    started = time.perf_counter()
    take_step(run, place._replace(rows=place.rows[:rows]))
    return max(1, int(lengths[:rows].sum())), time.perf_counter() - started


def tokens_of(run: Run, place: Place) -> Tensor:
    return run.tasks[place.dataset].rows.dataset.tokens(place.rows)  # [rows]


def show_memory(run: Run, measured: Measured, start: int) -> Iterator[str]:
    known: Bytes = bytes_of(run.trained)
    how = "measured" if measured.whole else f"estimated, by {PART:,} of its tokens"
    what = f"weights {text_of(known.weights)}, gradients {text_of(known.gradients)}, AdamW {text_of(known.optimizer)}"
    activations = text_of(max(0, measured.peak - start - known.state)) if measured.peak else "unknown: no /proc here"
    yield f"memory {what}; activations {activations}"
    ranks, there = local_ranks(run.device), total_memory(run.device)
    largest = f"in the largest batch, that of step {measured.largest.step + 1} with {measured.tokens:,} tokens"
    if measured.peak:
        each = f"{ranks} x " if ranks > 1 else ""
        yield f"       all: {each}{text_of(measured.peak)} of {text_of(there)} ({how}) {largest}"


def show_time(run: Run, measured: Measured) -> Iterator[str]:
    step, how = measured.seconds / run.batches.total, "whole batches" if measured.whole else f"{PART:,} tokens each"
    count = f"{run.batches.total:,} steps take about {duration(measured.seconds)}"
    yield f"time   {count}: {step:.3g} s each, {measured.rate:,.0f} tokens/s (measured on {measured.steps} of {how})"


def try_evaluations(run: Run, measured: Measured) -> Iterator[str]:
    """Evaluate the model as it is, where that is quick; the names of all metrics are then known, and checked."""
    metrics: dict[str, float] = {}
    settings, started, left = run.config.train, time.perf_counter(), list[str]()
    for entry, evaluation in zip(run.config.eval, run.evaluations, strict=True):
        files = [*entry.paths(), *(Path(f) for f in (entry.queries, entry.corpus, entry.qrels) if f)]
        files += Path(entry.evaluator.get("folder", "none")).rglob("*")
        tokens = sum(file.stat().st_size for file in files if file.is_file()) / 4  # bytes of an English token
        # without a backward pass, which is two thirds of a step
        if distributed.any_rank([tokens / (3 * measured.rate) > EVALUATION_SECONDS], run.device)[0]:
            left.append(entry.name)
        else:
            metrics |= evaluate([evaluation], run.trained.model)
    seconds = time.perf_counter() - started
    if shown := [f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(HEADLINES)]:
        yield f"eval   before the first step: {'  '.join(shown)}"
    if run.evaluations:
        often = 1 + (run.batches.total - 1) // settings.eval_every if settings.eval_every else 1
        without = f", without {', '.join(left)}: too long to try" if left else ""
        yield f"       takes {seconds:.1f} s{without}; {often} in a run: {duration(often * seconds)}"
    if not left:
        replace(run.selection, best=None).check(metrics)
        for name in run.config.expect:
            pick("config: a metric in [expect]", name, metrics)
    elif settings.best or run.config.expect:
        yield "       the names in best and [expect] are not checked"


def duration(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
