"""Train a sentence encoder: the whole run, read top to bottom.

python train.py --config configs/quickstart.toml
torchrun --nproc_per_node=2 train.py --config configs/quickstart.toml
python train.py --config my.toml --set train.lr=3e-5 --set output=runs/other

The run directory (`output` in the config) gets config.toml, metrics.jsonl, checkpoint-<step>/ and model/.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from minist import distributed, losses
from minist.batch import Batch
from minist.cli import run_command
from minist.data.dataset import Dataset, prepare_dataset
from minist.data.rows import read_texts
from minist.data.samplers import SAMPLERS, Batches
from minist.data.sources import prepare_source
from minist.models.sentence_transformer import SentenceTransformer
from minist.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from minist.training.config import Config, load_config, make
from minist.training.evaluations import evaluate, make_evaluator, report
from minist.training.meter import Meter
from minist.training.optimizer import learning_rate, make_optimizer, warmup_steps
from minist.training.run_directory import check_output, log, open_run
from minist.training.scratch import new_model

HEADLINES = ("ndcg@10", "mrr@10", "accuracy@1", "spearman_cosine", "spearman_dot")  # of many metrics, those shown


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
    config = load_config(args.config, args.set)
    data, settings, output = config.data[0], config.train, Path(config.output)
    rank, world, device = distributed.start()
    say: Callable[[str], None] = partial(print, flush=True) if rank == 0 else lambda text: None

    # ---------------------------------------------------------------- data, loss, model
    # what a config can get wrong comes to light here, before the run directory is touched
    if rank == 0:
        check_output(output, args.resume, args.overwrite)
        if data.source:
            prepare_source(data.source)
    distributed.barrier()
    loss = make("loss in [[data]]", data.loss, losses).to(device)
    evaluators = [make_evaluator(entry) for entry in config.eval]
    torch.manual_seed(config.seed)  # every rank draws the same weights
    model = make_model(config).to(device)
    model.set_dropout(*(None if p < 0 else p for p in (settings.dropout, settings.attention_dropout)))
    cache = output.parent / "cache"
    if rank == 0:
        prepare_dataset(data.paths(), data.columns, model.tokenizer, cache)
    distributed.barrier()
    dataset = Dataset(prepare_dataset(data.paths(), data.columns, model.tokenizer, cache))
    sampler = partial(
        SAMPLERS[data.sampler], dataset.hashes(), settings.batch_size, config.seed, drop_last=settings.drop_last
    )
    batches = Batches(sampler, settings.epochs, settings.max_steps)
    say(f"data   {data.name}, {dataset.describe()}")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    say(f"model  {millions:.1f} million parameters, {batches.total} steps, {world} x {device.type}")

    loss([torch.zeros(2, model.width, device=device) for _ in data.columns], Batch())  # can it take these columns?

    # ---------------------------------------------------------------- optimizer, run directory
    optimizer = make_optimizer([model, loss], settings.lr, settings.weight_decay)
    warmup = warmup_steps(settings.warmup, batches.total)
    parameters = [*model.parameters(), *loss.parameters()]
    done = load_checkpoint(checkpoints(output)[-1], model, loss, optimizer) if args.resume else 0
    distributed.barrier()
    if rank == 0:
        open_run(output, config, done, args.overwrite)
    wrapped = distributed.wrap(model)  # the same model; backward through it averages gradients over ranks
    meter = Meter(batches.total, done)

    for step, rows in batches.start_at(done):
        # ------------------------------------------------------------ one step
        lr = learning_rate(step, batches.total, settings.lr, warmup, settings.schedule)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(config.seed + step * world + rank)  # dropout: a resumed run draws the same masks
        model.train()
        columns = dataset.take(rows.tensor_split(world)[rank])  # this rank's share of the rows
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.dtype == "bfloat16"):
            embeddings = wrapped(columns)
        # all ranks' embeddings, so that every rank computes the same loss; half types are raised first
        gathered = [distributed.gather(x.float() if x.dtype != torch.float64 else x) for x in embeddings]
        value = loss(gathered, Batch(columns=columns, step=step))
        value.backward()
        distributed.average_gradients(loss)
        norm = nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        meter.count(value, sum(c.n for c in columns), sum(len(c.input_ids) for c in columns))

        # ------------------------------------------------------------ once in a while: log, evaluate, save
        if done % settings.log_every == 0 or done in (1, batches.total):
            record = {"step": done, **meter.read(), "learning_rate": lr, "grad_norm": norm.item()}
            say(meter.line(record))
            if rank == 0:
                log(output, record)
        if rank == 0 and settings.eval_every and done % settings.eval_every == 0 and done < batches.total:
            metrics = evaluate(evaluators, model)
            log(output, {"step": done, **metrics})
            say(headline(metrics))
        if rank == 0 and settings.save_every and done % settings.save_every == 0:
            save_checkpoint(output, done, model, loss, optimizer, settings.keep)

    # ---------------------------------------------------------------- the end
    if rank == 0:
        model.save(output / "model")
        metrics = evaluate(evaluators, model)
        if metrics:
            log(output, {"step": done, **metrics})
            say(headline(metrics))
        for entry, evaluator in zip(config.eval, evaluators, strict=True):
            report(entry, evaluator, model, metrics, say)
        say(f"\nsaved {output / 'model'} after {time.perf_counter() - started:.0f} s; for instance:")
        say(f"  python encode.py --model {output / 'model'} some.txt --output some.npy")
        check_expectations(config, metrics)
    distributed.stop()


def headline(metrics: dict[str, float]) -> str:
    """A line with the few metrics that people look at first."""
    return "eval   " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(HEADLINES))


def make_model(config: Config) -> SentenceTransformer:
    """The model to start from: a saved one, or random weights and a vocabulary of the training texts."""
    start = config.model
    if start.path:
        return SentenceTransformer(start.path, revision=start.revision or None, keep_layers=start.keep_layers or None)
    rows = (row for file in config.data[0].paths() for row in read_texts(file, config.data[0].columns))
    return new_model(config.model, (text for row in rows for text in row))


def check_expectations(config: Config, metrics: dict[str, float]) -> None:
    """ValueError if the run did not reach what [expect] asks for."""
    for name, least in config.expect.items():
        if name not in metrics:
            raise ValueError(f"config: [expect] names {name}, the evaluations gave {', '.join(metrics) or 'nothing'}")
        if not metrics[name] >= least:
            raise ValueError(f"the run reached {name} = {metrics[name]:.4f}, expected at least {least}")


if __name__ == "__main__":
    arguments = parse()
    run_command(lambda: train(arguments), arguments.debug)
