"""Train a sentence encoder: the whole run, read top to bottom.

python train.py --config configs/quickstart.toml
torchrun --nproc_per_node=2 train.py --config configs/quickstart.toml
python train.py --config my.toml --set train.lr=3e-5 --set output=runs/other

The run directory (`output` in the config) gets config.toml, metrics.jsonl, checkpoint-<step>/, model/, and best/ where
the config asks for the best of the evaluated models.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minist import distributed
from minist.cli import run_command
from minist.data.batches import Place
from minist.data.packed import Packed
from minist.losses.autoencoder import DenoisingAutoEncoderLoss
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import check_weights, save_checkpoint
from minist.training.config import load_config
from minist.training.diagnostics import CollapseWatch, describe_batch
from minist.training.evaluations import evaluate, report
from minist.training.gradcache import gradcache
from minist.training.interruption import Interruption
from minist.training.meter import Meter
from minist.training.objective import Objective, check_finite
from minist.training.optimizer import learning_rate
from minist.training.run import Run, start_run
from minist.training.run_directory import log
from minist.training.selection import Selection
from minist.training.token_step import token_step
from minist.training.twins import keep_one

HEADLINES = ("ndcg@10", "mrr@10", "accuracy@1", "spearman_cosine", "spearman_dot", "_loss")  # those shown, of many


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, required=True, help="a TOML file, see configs/ and minist/training/config.py"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: train.lr=3e-5")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the run directory")
    again.add_argument("--overwrite", action="store_true", help="delete the run directory and start again")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    """One run, on one rank."""
    started = time.perf_counter()
    run = start_run(load_config(args.config, args.set), resume=args.resume, overwrite=args.overwrite)
    settings, total = run.config.train, run.batches.total
    watch, interruption = CollapseWatch(), Interruption(run.device)
    last, metrics = run.done == total or run.selection.stop, {}
    if settings.best and run.done == 0:
        run.selection.check(measure(run))  # where the model stands before training, and whether there is such a metric

    meter = Meter(total, run.done)
    for place in run.batches.start_at(total if last else run.done):
        with distributed.contact(f"step {place.step + 1}"):
            objective, rate, norm = take_step(run, place)
            run.done = place.step + 1
            last = run.done == total
            meter.count(objective.value, objective.batch.columns)
            if run.done % settings.log_every == 0 or run.done == 1 or last:
                show(run, place, objective, meter, watch, rate, norm)
            stepped = time.perf_counter()
            if last or (settings.eval_every and run.done % settings.eval_every == 0):
                metrics = measure(run)
                last = choose(run, metrics).stop or last
            ended = interruption.agreed() and not last
            if ended or (settings.save_every and run.done % settings.save_every == 0):
                save(run)
            meter.leave_out(time.perf_counter() - stepped)
        if ended:
            run.say(f"told to end: step {run.done} is saved, go on with --resume")
            return distributed.stop()
        if last:
            break
    metrics = finish(run, metrics or evaluate(run.evaluations, run.trained.model), started)
    distributed.stop()
    check_expectations(run.config.expect, metrics)


def take_step(run: Run, place: Place) -> tuple[Objective, float, Tensor]:
    """One optimization step: gradients, then new weights. Returns also learning rate and gradient norm."""
    settings, trained = run.config.train, run.trained
    factor = learning_rate(place.step, run.batches.total, settings.warmup, settings.schedule)
    for group in trained.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    objective = add_gradients(run, place)
    trained.scaler.unscale_(trained.optimizer)
    parameters = [p for group in trained.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm or float("inf"))
    where = f"step {place.step + 1}, data set {run.config.data[place.dataset].name}"
    check_finite(objective.value, norm, trained.scaler, where)
    trained.scaler.step(trained.optimizer)
    trained.scaler.update()
    trained.optimizer.zero_grad()
    return objective, settings.lr * factor, norm


def add_gradients(run: Run, place: Place) -> Objective:
    """Embed the batch, and send the gradient of its loss back to all parameters, averaged over ranks."""
    settings, model, scaler = run.config.train, run.trained.model.train(), run.trained.scaler
    loss, data = run.losses[place.dataset], run.sets[place.dataset]
    batch = data.batch(place.rows, place.epoch, place.step, place.step / run.batches.total)
    outputs = loss.outputs(place.step, model.num_layers)
    objective = Objective(loss, batch, run.config.data[place.dataset].weight, outputs)
    # dropout: other masks on every rank and in every step, and the same again in a resumed run
    world = distributed.world_size()
    seed = ((run.config.seed * 2**24 + place.step) * world + distributed.rank()) * 2**16 % 2**63

    def embed(columns: tuple[Packed, ...], roles: tuple[str | None, ...]) -> list[tuple[Tensor, ...]]:
        with torch.autocast(run.device.type, run.autocast, enabled=run.autocast is not None):
            return run.wrapped(columns, roles, outputs)

    if isinstance(loss, DenoisingAutoEncoderLoss):
        torch.manual_seed(seed)
        token_step(model, objective, settings.mini_batch_tokens, run.autocast, scaler)
    elif settings.mini_batch_tokens:
        gradcache(
            lambda texts, c: embed((texts,), (batch.roles[c],))[0],
            batch.columns,
            lambda embeddings: scaler.scale(objective(embeddings)),
            settings.mini_batch_tokens,
            seed,
        )
        distributed.average_gradients([*model.parameters(), *loss.parameters()])
    else:
        torch.manual_seed(seed)
        scaler.scale(objective(embed(batch.columns, batch.roles))).backward()
        distributed.average_gradients(loss.parameters())
    return objective


def show(
    run: Run, place: Place, objective: Objective, meter: Meter, watch: CollapseWatch, rate: float, norm: Tensor
) -> None:
    """One line of the terminal and of metrics.jsonl; all ranks call it, since some figures are sums over ranks."""
    figures = describe_batch(objective.embeddings, objective.batch.counts)
    cut = run.sets[place.dataset].dataset.cut(place.rows)
    parts = {name: part.item() for name, part in objective.parts.items()}
    record: dict[str, Any] = {
        "step": run.done,
        **meter.read(),
        "learning_rate": rate,
        "grad_norm": norm.item(),
        **parts,
        **figures,
    }
    record |= {f"cut_{name}": count for name, count in cut.items()}
    if len(run.sets) > 1:
        record["data"] = run.config.data[place.dataset].name
    for line in meter.lines(record):
        run.say(line)
    if warning := watch.see(figures):
        run.say(warning)
    if distributed.rank() == 0:
        log(run.output, record)


def measure(run: Run) -> dict[str, float]:
    """Run all evaluations, on all ranks together. ValueError if a weight is no number any more."""
    check_weights(run.trained.model, run.done)
    metrics = evaluate(run.evaluations, run.trained.model)
    if metrics and distributed.rank() == 0:
        log(run.output, {"step": run.done, **metrics})
    shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(HEADLINES))
    if shown:
        run.say(f"eval   {shown}")
    return metrics


def choose(run: Run, metrics: dict[str, float]) -> Selection:
    """Keep the model as it is now, if it is the best so far."""
    if run.selection.update(metrics, run.done) and distributed.rank() == 0:
        run.trained.model.save(run.output / "best")
    return run.selection


def save(run: Run) -> None:
    """Write a checkpoint."""
    state = {"step": run.done, "seal": run.seal, "selection": run.selection.state()}
    if distributed.rank() == 0:
        save_checkpoint(run.output, run.trained, state, run.config.train.keep)


def finish(run: Run, metrics: dict[str, float], started: float) -> dict[str, float]:
    """Save the final model, and show what it can do. Returns its metrics."""
    model, folder, selection = run.trained.model, run.output / "model", run.selection
    if selection.metric and selection.step != run.done:
        metrics = selection.metrics
    if distributed.rank() != 0:
        return metrics
    if selection.metric and selection.step != run.done:
        model = SentenceTransformer(run.output / "best", device=run.device)
        run.say(f"best   {selection.metric} {selection.best:.4f} at step {selection.step}")
    model = keep_one(model) if run.config.model.twins else model
    model.save(folder)
    for entry, evaluation in zip(run.config.eval, run.evaluations, strict=True):
        report(entry, evaluation, model, metrics, run.say)
    run.say(f"\nsaved {folder} after {time.perf_counter() - started:.0f} s; for instance:")
    run.say(f"  python encode.py --model {folder} some.txt --output some.npy")
    return metrics


def check_expectations(expect: dict[str, float], metrics: dict[str, float]) -> None:
    """ValueError if the run did not reach what [expect] asks for."""
    for name, least in expect.items():
        if name not in metrics:
            raise ValueError(f"config: [expect] names {name}, the evaluations gave {', '.join(metrics) or 'nothing'}")
        if not metrics[name] >= least:
            raise ValueError(f"the run reached {name} = {metrics[name]:.4f}, expected at least {least}")


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: train(arguments), arguments.debug)
