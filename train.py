"""Train a sentence encoder: the whole run, read top to bottom.

python train.py --config configs/quickstart.toml
torchrun --nproc_per_node=2 train.py --config configs/quickstart.toml
python train.py --config my.toml --set train.lr=3e-5 --set output=runs/other
python train.py --dry-run --config my.toml  # what it would be: data, memory, time, warnings

The run directory, `output` in the config, gets config.toml, about.json, metrics.jsonl, report.html, checkpoint-<step>/,
model/, perhaps best/.
"""

import argparse
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

from minist import distributed
from minist.checks import listing, pick
from minist.cli import run_command
from minist.data.samplers import Place
from minist.models import open_model
from minist.sharding import whole
from minist.training.about import write_about
from minist.training.checkpoint import check_weights, log, open_run, save_checkpoint
from minist.training.config import load_config
from minist.training.curves import read_metrics
from minist.training.dry_run import dry_run
from minist.training.evaluations import HEADLINES, evaluate, report
from minist.training.log import LEGEND, Meter, peak_memory
from minist.training.model_card import write_run_card
from minist.training.optimizer import check_finite, clip, learning_rate
from minist.training.report import REPORT, refresh
from minist.training.run import Run, start_run
from minist.training.selection import Interruption, missed
from minist.training.sizes import sizes_of, table
from minist.training.start import keep_one
from minist.training.step import Objective, mini_batched_step, plain_step, token_step


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a TOML file, see minist/training/config.py")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: train.lr=3e-5")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the run directory")
    again.add_argument("--overwrite", action="store_true", help="delete the run directory and start again")
    again.add_argument("--dry-run", action="store_true", help="check config, data, memory and time; train nothing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    config = load_config(args.config, args.set)
    run = start_run(config, resume=args.resume, overwrite=args.overwrite)
    meter, interruption = Meter(run.batches.total, run.done), Interruption(run.device)
    with whole(run.trained.model):
        open_directory(run, args.overwrite)
    metrics: dict[str, float] = {}
    last = run.done == run.batches.total or run.selection.stop
    for place in run.batches.start_at(run.batches.total if last else run.done):
        with distributed.contact(f"step {place.step + 1}"):
            objective, figures = take_step(run, place)
            run.done = place.step + 1
            last = run.done == run.batches.total
            meter.count(objective.value, objective.parts, objective.batch.columns[: len(objective.batch.roles)])
            if last or run.done == 1 or run.is_time(config.train.log_every):
                show(run, place, objective, figures, meter)
            paused = time.perf_counter()
            if last or run.is_time(config.train.eval_every):
                metrics = measure(run)
                last = last or run.selection.stop
            ended = interruption.agreed() and not last
            if ended or run.is_time(config.train.save_every):
                save(run)
            meter.since += time.perf_counter() - paused  # texts per second are those of the training alone
        if ended:
            run.say(f"told to end: step {run.done} is saved, go on with --resume")
            return distributed.stop()
        if last:
            break
    with whole(run.trained.model):
        metrics = finish(run, metrics or evaluate(run.measured, run.trained.model), started)
    misses, rank = list(missed(metrics, config.expect)), distributed.rank()
    distributed.stop()  # first: a rank that leaves alone looks lost to the others
    if misses and rank == 0:
        print(f"error: the run reached {'; '.join(misses)}", file=sys.stderr)
    if misses:
        sys.exit(1)  # and not 2, which says that something was given wrongly


def check(args: argparse.Namespace) -> None:
    """--dry-run: all that comes before the first step, and what can be known of the others."""
    run = start_run(load_config(args.config, args.set), resume=False, overwrite=True)  # a run that exists is no error
    dry_run(run, take_step)
    distributed.stop()


def open_directory(run: Run, overwrite: bool) -> None:
    """The run directory, when nothing in the config can be wrong any more: metrics that it names are measured first."""
    metrics: dict[str, float] = {}
    if run.done == 0:
        evaluate([run.examples], run.trained.model)
    if run.done == 0 and (run.config.train.best or run.config.expect):
        metrics = evaluate(run.measured, run.trained.model)
        run.selection.check(metrics)
        for name in run.config.expect:
            pick("config: a metric in [expect]", name, metrics)
    distributed.barrier()  # all ranks came as far as this
    if distributed.rank() == 0:
        open_run(run.output, run.config, run.done, overwrite)
        write_about(run)
    if metrics:
        report_and_choose(run, metrics)  # the untrained model may turn out to be the best, too
    refresh(run)
    run.say(LEGEND)


def take_step(run: Run, place: Place) -> tuple[Objective, dict[str, float]]:
    """One optimization step: gradients, then new weights. The figures are the learning rate and the gradient's norm."""
    settings, trained, task = run.config.train, run.trained, run.tasks[place.dataset]
    factor = learning_rate(place.step, run.batches.total, settings.warmup, settings.schedule)
    for group in trained.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor  # groups may have rates of their own
    trained.model.train()  # an evaluation may have come before
    batch = task.rows.batch(place.rows, place.epoch, place.step, place.step / run.batches.total)
    outputs = task.loss.outputs(place.step, trained.model.stack.num_layers)
    objective = Objective(task.loss, batch, task.weight, outputs)
    # dropout: other masks on every rank and in every step, and the same again in a resumed run
    source = random.Random(f"{run.config.seed} {place.step} {distributed.world_size()} {distributed.rank()}")
    add_gradients = token_step if task.loss.over_tokens else mini_batched_step if run.setup.max_tokens else plain_step
    add_gradients(run.setup, objective, source.getrandbits(32))  # of a longer one a CPU takes the last 32 bits
    trained.model.stack.after_step(objective.embeddings, batch.roles if objective.embeddings else ())
    if len(run.tasks) > 1 and not objective.parts:
        objective.parts = {task.name: objective.value}  # so that the parts of several tasks add up to the loss
    trained.scaler.unscale_(trained.optimizer)  # before clipping: its limit is one of true gradients
    norm = clip(trained.optimizer, settings.max_grad_norm)
    check_finite(objective.value, norm, trained.scaler, f"step {place.step + 1}, data set {task.name}")
    trained.scaler.step(trained.optimizer)
    trained.scaler.update()
    trained.optimizer.zero_grad()  # frees them too: the next forward pass needs the memory
    return objective, {"learning_rate": settings.lr * factor, "grad_norm": norm.item()}


def show(run: Run, place: Place, objective: Objective, figures: dict[str, float], meter: Meter) -> None:
    """Lines of the terminal and one of metrics.jsonl; all ranks call it, since some figures are sums over ranks."""
    task, (means, parts) = run.tasks[place.dataset], meter.read()
    main = {"step": run.done, **means, **figures, "memory_mb": peak_memory(run.device) // 2**20}
    batch: dict[str, Any] = {**run.trained.model.describe(objective.embeddings, objective.batch)}
    batch |= {f"cut_{k}": n for k, n in task.rows.cut(place.rows).items()}
    if len(run.tasks) > 1:
        batch["data"] = task.name
    for line in meter.lines(main, parts, batch):
        run.say(line)
    if distributed.rank() == 0:
        log(run.output, main | parts | batch | main)  # a part that is called "loss" hides nothing


def save(run: Run) -> None:
    state = {"step": run.done, "seal": run.seal, "selection": run.selection.state()}
    save_checkpoint(run.output, run.trained, state, run.config.train.keep)
    if distributed.rank() == 0:
        write_run_card(run.trained.model, run.output / f"checkpoint-{run.done}", run.done)
    refresh(run)


def measure(run: Run) -> dict[str, float]:
    with whole(run.trained.model):
        check_weights(run.trained.model, run.done)  # before an evaluation that would take them for a result
        metrics = evaluate([*run.measured, run.examples], run.trained.model)
        report_and_choose(run, metrics)
    return metrics


def report_and_choose(run: Run, metrics: dict[str, float]) -> None:
    """Metrics to the terminal, those that one looks at, and all to metrics.jsonl; keep the model if it is the best."""
    if metrics and distributed.rank() == 0:
        log(run.output, {"step": run.done, **metrics})
    sized = tuple(prefix for entry in run.config.eval for prefix in sizes_of(entry))  # for a table at the end
    named = {name: value for name, value in metrics.items() if name.endswith(HEADLINES) and not name.startswith(sized)}
    if shown := [f"{name} {value:.4f}" for name, value in named.items()]:
        run.say(f"eval   {'  '.join(shown)}")
    if wrong := [name for name, value in metrics.items() if not math.isfinite(value)]:
        run.say(f"warning: no number after step {run.done}, and so never the best: {listing(wrong)}")
    if run.selection.update(metrics, run.done) and distributed.rank() == 0:
        run.trained.model.save(run.output / "best")
        write_run_card(run.trained.model, run.output / "best", run.done)
    refresh(run)
    distributed.barrier()  # saving takes any time


def finish(run: Run, metrics: dict[str, float], started: float) -> dict[str, float]:
    """Save the final model, and show what it can do. Returns the metrics of that model, which may be an earlier one."""
    model, folder, selection = run.trained.model, run.output / "model", run.selection
    earlier = selection.best is not None and selection.step != run.done
    step = selection.step if earlier else run.done
    metrics = selection.metrics if earlier else metrics
    if distributed.rank() != 0:
        return metrics  # and waits in distributed.stop, as long as it takes
    if earlier:
        model = open_model(run.output / "best", run.config.model.type, device=run.device)
        run.say(f"best   {selection.metric} {selection.best:.4f} at step {selection.step}")
    model = keep_one(model) if run.config.model.twins else model
    if model.is_adapted:  # small, and for whoever has the model that it began with
        model.save(run.output / "adapter")
        write_run_card(model, run.output / "adapter", step)
        model.merge_adapter()
    model.save(folder)
    write_run_card(model, folder, step)
    before = next((record for record in read_metrics(run.output) if record["step"] == 0), {})
    for entry, evaluation in zip(run.config.eval, run.evaluations, strict=True):
        report(entry, evaluation, model, metrics, run.say)
        for line in table(entry, before, metrics):
            run.say(line)
    run.say(f"\nsaved {folder} after {time.perf_counter() - started:.0f} s; for instance:")
    run.say(f"  python encode.py --model {folder} {model.example}")
    run.say(f"how it went, in a browser: {run.output / REPORT}")
    return metrics


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: check(arguments) if arguments.dry_run else train(arguments), arguments.debug)
