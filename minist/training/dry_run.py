"""What a run will be, before its first step: `python train.py --dry-run --config ..` prints it, and writes no run.

Its data (data_report.py), its course, memory and time as some of its steps show them, and an evaluation of the model as
it is. The steps are those of train.py with a learning rate of 0: nothing is left out, and no weight changes."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from minist import distributed
from minist.checks import pick
from minist.data.samplers import Place
from minist.models.device import total_memory
from minist.sharding import is_share, whole
from minist.training.data_report import describe_rows
from minist.training.evaluations import HEADLINES, evaluate
from minist.training.log import peak_memory, reset_peak_memory
from minist.training.optimizer import warmup_steps
from minist.training.run import Run

TakeStep = Callable[[Run, Place], Any]  # that of train.py
LOOKED_AT = 10_000  # steps at most whose rows are looked at
LEAST = 8  # rows on each rank, from which a step grows, after two steps on half of them
TIMED, SECONDS = 5, 15.0  # steps for the time; a step that takes longer grows no more, nor does another begin
EVALUATION_SECONDS = 60.0  # an evaluation that must take longer is left out


def dry_run(run: Run, take_step: TakeStep) -> None:
    """Print what can be known of a run. ValueError for what would only show in its first step or evaluation."""
    places = list(islice(run.batches.start_at(0), LOOKED_AT))
    for i, (entry, task) in enumerate(zip(run.config.data, run.tasks, strict=True)):
        for line in describe_rows(run, entry, task, [place.rows for place in places if place.dataset == i]):
            run.say(line)
    for evaluation in run.config.eval:
        read = {path.resolve() for path in evaluation.paths()}
        for entry in run.config.data:
            if shared := read & {path.resolve() for path in entry.paths()}:
                what = f"{min(shared).name} is read by {evaluation.where} and trained on by {entry.where}"
                run.say(f"warning: {what}: the metrics will be too good; hold rows out in a file of their own")
    plan(run, places)
    rate = try_steps(run, take_step, places)
    try_evaluations(run, rate)


def plan(run: Run, places: Sequence[Place]) -> None:
    settings, total, world = run.config.train, run.batches.total, distributed.world_size()
    rows = sum(len(task.rows.dataset) for task in run.tasks)
    seen = sum(len(place.rows) for place in places) / len(places) * total
    each = f", {settings.batch_size / world:g} on each of {world} ranks" if world > 1 else ""
    run.say(f"\nplan   {total:,} steps of {settings.batch_size:,} rows{each}")
    run.say(f"       they see {seen:,.0f} rows: {seen / rows:.2g} times the {rows:,} that there are")
    for i, task in enumerate(run.tasks if len(run.tasks) > 1 else ()):
        steps = sum(place.dataset == i for place in places) * total / len(places)
        run.say(f"       {task.name}: {steps:,.0f} steps, its loss weighs {task.weight:g}")
    rising, own = warmup_steps(total, settings.warmup), "".join(f"; {k}: {v:g}" for k, v in settings.lr_for.items())
    run.say(f"       learning rate {settings.lr:g}{own}, reached in {rising:,} steps, then {settings.schedule}")
    if rising >= total:
        run.say(f"warning: the learning rate never gets there: set warmup to a share of the {total:,} steps, as 0.1")
    when = f"every {settings.eval_every:,} steps and at the end" if settings.eval_every else "at the end only"
    kept = f"every {settings.save_every:,} steps, the last {settings.keep} stay" if settings.save_every else "none"
    run.say(f"       evaluations: {when if run.evaluations else 'none'}; checkpoints: {kept}")
    if run.output.exists():
        run.say(f"note   {run.output} exists: --resume goes on from its last checkpoint, --overwrite deletes it")


def try_steps(run: Run, take_step: TakeStep, places: Sequence[Place]) -> float:
    """The largest batch for the memory, some others for the time. Returns tokens per second."""
    for group in run.trained.optimizer.param_groups:
        group["initial_lr"] = 0.0  # with which train.py's steps leave the weights as they are
    totals = [tokens_of(run, place) for place in places]
    largest = places[totals.index(max(totals))]
    rows, needed = grow(run, take_step, largest)
    show_memory(run, largest, rows, needed)
    begun, tokens, seconds = time.perf_counter(), 0, 0.0
    for place in places[:: -(-len(places) // TIMED)]:  # from all of the run
        if tokens and distributed.any_rank([time.perf_counter() - begun > SECONDS], run.device)[0]:
            break
        part = place._replace(rows=place.rows[:rows])
        seconds += seconds_of(run, take_step, part)
        tokens += tokens_of(run, part)
    step = seconds / tokens * sum(totals) / len(totals)
    count = f"{run.batches.total:,} steps take about {duration(step * run.batches.total)}"
    run.say(f"time   {count}: {step:.3g} s each, {tokens / seconds:,.0f} tokens/s")
    return tokens / seconds


def tokens_of(run: Run, place: Place) -> int:
    return max(1, int(run.tasks[place.dataset].rows.dataset.tokens(place.rows).sum()))


def seconds_of(run: Run, take_step: TakeStep, place: Place) -> float:
    started = time.perf_counter()
    take_step(run, place)
    return time.perf_counter() - started


def grow(run: Run, take_step: TakeStep, place: Place) -> tuple[int, int]:
    """Steps on twice as many rows of a batch each time, up to all, while memory and SECONDS allow it: the rows of the
    last one, and the bytes that all rows need on this rank."""
    rows = len(place.rows)
    n = min(LEAST * distributed.world_size(), rows)
    reset_peak_memory(run.device)  # of the data's preparation
    for _ in range(2):  # the first one is slow, and makes the optimizer's state at its end
        take_step(run, place._replace(rows=place.rows[: max(1, n // 2)]))
    peak = peak_memory(run.device)
    while True:
        seconds = seconds_of(run, take_step, place._replace(rows=place.rows[:n]))
        before, peak = peak, peak_memory(run.device)
        too_large = ranks_here(run) * (peak + 2 * (peak - before)) > total_memory(run.device)
        if n == rows or any(distributed.any_rank([too_large, seconds > SECONDS], run.device)):
            return n, peak + (peak - before) * 2 * (rows - n) // n  # half of the n rows were new
        n = min(2 * n, rows)


def ranks_here(run: Run) -> int:
    """Ranks that share the memory of a device."""
    return 1 if run.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def show_memory(run: Run, largest: Place, rows: int, needed: int) -> None:
    everything = [*run.trained.model.parameters(), *run.trained.losses.parameters()]
    trained = bytes_of(p for p in everything if p.requires_grad)  # AdamW keeps two numbers for each of these
    known = f"weights {size(bytes_of(everything))}, gradients {size(trained)}, AdamW {size(2 * trained)}"
    run.say(f"memory {known}{', on each rank' if distributed.world_size() > 1 else ''}")
    how = "measured" if rows == len(largest.rows) else f"estimated by {rows:,} of its {len(largest.rows):,} rows"
    each = f"{ranks_here(run)} x " if ranks_here(run) > 1 else ""
    where = f"in the largest batch, that of step {largest.step + 1} with {tokens_of(run, largest):,} tokens"
    run.say(f"       needed: {each}{size(needed)} of {size(total_memory(run.device))} ({how}) {where}")
    if run.device.type == "cpu":  # batches differ in size, so the pieces that one leaves do not fit the next
        run.say("       a run on a CPU may come to hold several times that: the C library keeps what was freed")
    if ranks_here(run) * needed > total_memory(run.device):
        run.say("warning: too little memory: set mini_batch_tokens, checkpoint_layers = true or a smaller max_length")


def bytes_of(tensors: Iterable[Any]) -> int:
    """Of those that are in shares (fsdp), this rank's share."""
    own: list[Tensor] = [x.to_local() if is_share(x) else x for x in tensors]
    return sum(x.numel() * x.element_size() for x in own)


def try_evaluations(run: Run, rate: float) -> None:
    """Evaluate the model as it is, where that is quick: the names of all metrics are then known, and checked."""
    settings, metrics, took = run.config.train, dict[str, float](), list[float]()
    for entry, evaluation in zip(run.config.eval, run.measured, strict=True):
        files = [*entry.paths(), *map(Path, filter(None, (entry.queries, entry.corpus, entry.qrels)))]
        files += Path(entry.evaluator["folder"]).rglob("*") if "folder" in entry.evaluator else ()
        # a token of English has 4 bytes, and a forward pass takes a third of a step
        expected = sum(file.stat().st_size for file in files if file.is_file()) / 4 / rate / 3
        expected *= 1 + len(entry.layers)
        if distributed.any_rank([expected > EVALUATION_SECONDS], run.device)[0]:
            run.say(
                f"eval   {entry.name} takes about {duration(expected)} each time: not tried, nor its metrics' names"
            )
            continue
        started = time.perf_counter()
        with whole(run.trained.model):
            metrics |= evaluate([evaluation], run.trained.model)
        took.append(time.perf_counter() - started)
    if shown := [f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(HEADLINES)]:
        run.say(f"eval   before the first step: {'  '.join(shown)}")
    if took:
        often = 1 + ((run.batches.total - 1) // settings.eval_every if settings.eval_every else 0)
        often += bool(settings.best or run.config.expect)  # before the first step, too
        run.say(f"       takes {duration(sum(took))}; {often} in a run: {duration(often * sum(took))}")
    if len(took) == len(run.evaluations):
        run.selection.check(metrics)
        for name in run.config.expect:
            pick("config: a metric in [expect]", name, metrics)


def duration(seconds: float) -> str:
    for unit, of in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * of:
            return f"{seconds / of:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def size(count: int) -> str:
    return f"{count / 2**20:,.0f} MB" if count < 10 * 2**30 else f"{count / 2**30:,.0f} GB"
