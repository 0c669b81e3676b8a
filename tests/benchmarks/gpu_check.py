"""Everything that runs otherwise on a GPU, held against the CPU: values and gradients. Then speed and memory there.

python tests/benchmarks/gpu_check.py

Prints a table, and exits with 1 if a value is wrong. On a machine without a GPU there is nothing to check;
`--device cpu` then holds the CPU against itself, to see that the script works. Errors are the largest difference,
over the largest number that was wanted where that is above 1. The wanted numbers are computed in double precision
for attention, pooling and losses, else in float32.
"""

import argparse
import copy
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]  # minist, and what the tests share

from gpu_speed import measure_all  # noqa: E402
from shelf import SHELF, random_columns  # noqa: E402
from test_encoders import FAMILIES, tiny_encoder  # noqa: E402
from tiny import sentences, tiny_model  # noqa: E402

from minist import Batch, CrossEncoder, Packed, SparseEncoder  # noqa: E402
from minist.encoders.attention import attention  # noqa: E402
from minist.losses import MultipleNegativesRankingLoss, row_blocks  # noqa: E402
from minist.losses.base import total  # noqa: E402
from minist.losses.cross_encoder import LambdaLoss  # noqa: E402
from minist.modules.pooling import MODES, Pooling  # noqa: E402
from minist.training.gradcache import gradcache  # noqa: E402
from minist.training.optimizer import make_optimizer  # noqa: E402
from minist.training.run import set_dropout  # noqa: E402

Values = Sequence[Tensor]
HALF = {torch.bfloat16: 3e-2, torch.float16: 4e-3}  # what their rounding makes of a result
TYPES = {torch.float32: 2e-5, **HALF}
AUTOCAST = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.015}  # through all layers, and back


class Pair(NamedTuple):
    """What was computed on the device, and what the CPU says."""

    name: str
    found: Values
    wanted: Values
    tolerance: float


def error(found: Values, wanted: Values) -> float:
    """The largest difference; infinite where there is no number, or another shape."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        a, b = (x.detach().double().cpu() for x in (a, b))
        if a.shape != b.shape or not a.isfinite().all():
            return float("inf")
        if b.numel():
            worst = max(worst, float((a - b).abs().max() / b.abs().max().clamp(min=1)))
    return worst


def with_gradients(outputs: Values, inputs: Values) -> list[Tensor]:
    """`outputs`, and the gradient of a sum in which each of their numbers counts differently."""
    weighted = [(x * torch.linspace(-1, 1, x.numel(), device=x.device).view_as(x)).sum() for x in outputs]
    return [*outputs, *torch.autograd.grad(torch.stack(weighted).sum(), inputs, materialize_grads=True)]


def texts_of(lengths: Sequence[int], vocabulary: int = 50) -> Packed:
    """Random tokens."""
    drawn = torch.randint(2, vocabulary, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return Packed.of(drawn, torch.tensor(lengths, dtype=torch.long))


# ---------------------------------------------------------------- attention and pooling

MIXED, LONG = [17, 9, 5, 5, 5, 2, 1, 1, 0], [600, 512, 450, 129, 65, 64, 60, 3]
KINDS: dict[str, dict[str, Any]] = {"plain": {}, "window": {"window": 3}, "wide window": {"window": 64}}
KINDS |= {"causal": {"causal": True}, "bias": {"bias": True}}


def check_attention(device: torch.device) -> Iterator[Pair]:
    """Both layouts: head widths that flash attention takes and others, texts of all lengths, none at all."""
    for kind, options in KINDS.items():
        for width, lengths in ((64, MIXED), (64, LONG), (12, MIXED), (128, LONG), (256, MIXED), (64, [0, 0])):
            for dtype, tolerance in TYPES.items():
                found, wanted = (attend(place, dtype, width, lengths, options) for place in (device, None))
                yield Pair(
                    f"{kind}, heads of {width}, {len(lengths)} texts, {name_of(dtype)}", found, wanted, tolerance
                )
    yield from check_attention_dropout(device)


def attend(place: torch.device | None, dtype: torch.dtype, width: int, lengths: Any, options: Any) -> list[Tensor]:
    """On `place` in that type, or for None on the CPU in double precision, from the same rounded numbers."""
    draw, longest = torch.Generator().manual_seed(0), max(lengths)
    shapes = [(sum(lengths), 3, width)] * 3 + [(3, longest, longest)] * ("bias" in options)
    inputs = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    inputs = [(x.double() if place is None else x.to(place)).requires_grad_() for x in inputs]
    more = {"bias": inputs[3]} if "bias" in options else options
    packed = texts_of(lengths).to(inputs[0].device)
    return with_gradients([attention(torch.stack(inputs[:3], 1), packed, **more)], inputs)


def check_attention_dropout(device: torch.device) -> Iterator[Pair]:
    packed, shape = texts_of(LONG).to(device), (sum(LONG), 3, 16)
    qk, v = torch.randn(2, *shape, device=device), torch.ones(1, *shape, device=device)
    qkv = torch.cat([qk, v]).transpose(0, 1)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(attention(qkv, packed, dropout=0.1))
    yield Pair("dropout keeps the sum", [draws[0].mean()], [torch.ones(())], 0.02)
    yield Pair("dropout of the same seed", [draws[0]], [draws[1]], 0.0)
    yield Pair("dropout of another seed", [(draws[0] == draws[2]).float().mean()], [torch.zeros(())], 0.2)


def check_pooling(device: torch.device) -> Iterator[Pair]:
    """All modes, the prompt's tokens in and out."""
    lengths = [9, 5, 5, 2, 1]
    packed = texts_of(lengths)._replace(prompt_lengths=torch.tensor([2, 0, 5, 1, 0]))
    x = torch.randn(sum(lengths), 16, generator=torch.Generator().manual_seed(0))
    for mode in MODES:
        for include in (True, False):
            pooling = Pooling(16, (mode,), include)
            for dtype, tolerance in TYPES.items():
                own, wide = x.to(device, dtype).requires_grad_(), x.to(dtype).double().requires_grad_()
                found = with_gradients([pooling(own, packed.to(device))], [own])
                yield Pair(
                    f"{mode}, {name_of(dtype)}", found, with_gradients([pooling(wide, packed)], [wide]), tolerance
                )


# ---------------------------------------------------------------- encoders and losses


def check_encoders(device: torch.device) -> Iterator[Pair]:
    """Every architecture in float32, and in autocast; with layers that run again in backward too."""
    packed = texts_of([60, 30, 30, 7, 1])
    for family in FAMILIES:
        for dtype, tolerance in AUTOCAST.items():
            for again in (False, True):
                found, wanted = (
                    run_encoder(family, packed, place, dtype, again) for place in (device, torch.device("cpu"))
                )
                yield Pair(f"{family}, {name_of(dtype)}{', layers again' * again}", found, wanted, tolerance)


def run_encoder(family: str, packed: Packed, device: torch.device, dtype: torch.dtype, again: bool) -> list[Tensor]:
    """In float32 on the CPU, whatever `dtype` says."""
    encoder, halved = tiny_encoder(family).to(device), dtype in HALF and device.type != "cpu"
    encoder.checkpoint_layers = again
    with torch.autocast(device.type, dtype, enabled=halved):
        output = encoder(packed.to(device)).float()
    return with_gradients([output], list(encoder.parameters()))


def check_losses(device: torch.device) -> Iterator[Pair]:
    """All on the shelf, whole and in row blocks."""
    for example in SHELF:
        wanted = run_loss(example, torch.device("cpu"), torch.float64)
        for scores in (2**22, 9):
            with mock.patch.multiple(row_blocks, SCORES_PER_BLOCK=scores, ROWS_PER_BLOCK=2):
                yield Pair(f"{example}, {scores}", run_loss(example, device, torch.float32), wanted, 1e-4)


def run_loss(example: Any, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Value and gradients; labels that are whole numbers stay so."""
    columns = [x.detach().to(device).requires_grad_() for x in random_columns(example.columns, 6, dtype=dtype)]
    batch = example.batch(6)
    labels = batch.labels
    if labels is not None:
        labels = labels.to(device, dtype if labels.is_floating_point() else labels.dtype)
    batch = batch._replace(labels=labels, guide=tuple(x.to(device, dtype) for x in batch.guide))
    return with_gradients([total(example.make().to(device, dtype)(columns, batch))], columns)


# ---------------------------------------------------------------- a model: GradCache, optimizer, encoding

COLUMNS = [sentences(12, seed=seed, longest=25) for seed in (1, 2)]
LOSS = MultipleNegativesRankingLoss(scale=5.0)


def prepared(device: torch.device, dropout: float) -> tuple[Any, list[Packed]]:
    """A tiny model in training, and two columns of texts."""
    model = tiny_model().to(device).train()
    set_dropout(model, dropout, dropout)
    return model, [model.tokenizer(texts).packed() for texts in COLUMNS]


def check_gradcache(device: torch.device) -> Iterator[Pair]:
    """Without dropout it is one pass on the CPU; with dropout one pass of the same parts under the same seeds."""
    wanted_model, columns = prepared(torch.device("cpu"), 0.0)
    wanted = [LOSS([x for (x,) in wanted_model(columns)], Batch())]
    wanted[0].backward()
    model, _ = prepared(device, 0.0)
    for tokens in (1, 40, 10**6):
        found = three_phases(model, columns, tokens)
        yield Pair(
            f"mini-batches of {tokens} tokens", [found, *gradients(model)], [*wanted, *gradients(wanted_model)], 1e-4
        )
    for tokens in (40, 10**6):
        model, columns = prepared(device, 0.3)
        found = [three_phases(model, columns, tokens), *gradients(model)]
        model.zero_grad()
        seeds = iter(range(7, 1000))
        parts = [[seeded(model, part, next(seeds)) for part in column.split(tokens)] for column in columns]
        value = LOSS([torch.cat(column) for column in parts], Batch())
        value.backward()
        yield Pair(f"dropout, mini-batches of {tokens} tokens", found, [value, *gradients(model)], 1e-4)


def seeded(model: Any, part: Packed, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return model([part])[0][0]


def three_phases(model: Any, columns: Sequence[Packed], tokens: int) -> Tensor:
    model.zero_grad()
    return gradcache(
        lambda texts, c: model([texts])[0], columns, lambda found: LOSS([x for (x,) in found], Batch()), tokens, seed=7
    )


def gradients(model: Any) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def check_steps(device: torch.device) -> Iterator[Pair]:
    """The fused AdamW on given gradients; then the losses of ten steps, in half types with a scaled loss."""
    found, wanted = (given_gradients(place) for place in (device, torch.device("cpu")))
    yield Pair("AdamW", found, wanted, 1e-5)
    wanted = losses_of_steps(torch.device("cpu"), torch.float32)
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 0.02), (torch.float16, 0.005)):
        yield Pair(f"losses of ten steps, {name_of(dtype)}", losses_of_steps(device, dtype), wanted, tolerance)


def given_gradients(device: torch.device) -> list[Tensor]:
    """Weights after five steps; drawn, as of a gradient that is 0 but for rounding AdamW takes the sign."""
    draw = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(8, 8).to(device)
    optimizer = make_optimizer(list(model.named_parameters()), 1e-2, 0.1, {}, [])
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw).to(device)
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw).to(device)
        optimizer.step()
    return list(model.parameters())


def losses_of_steps(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    model, columns = prepared(device, 0.0)
    optimizer = make_optimizer(list(model.named_parameters()), 1e-3, 0.01, {}, [])
    scaler = torch.amp.GradScaler(device.type, init_scale=256.0, enabled=dtype == torch.float16)
    found = []
    for _ in range(10):
        with torch.autocast(device.type, dtype, enabled=dtype in HALF and device.type != "cpu"):
            embeddings = [x.float() for (x,) in model(columns)]
        found.append(LOSS(embeddings, Batch()))
        scaler.scale(found[-1]).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return found


def check_encode(device: torch.device) -> Iterator[Pair]:
    """Embeddings and codes, whatever the batches."""
    texts, model = [*sentences(50, longest=25), ""], tiny_model()
    wanted = torch.from_numpy(model.encode(texts))
    there = copy.deepcopy(model).to(device)
    for tokens in (0, 1, 100):
        yield Pair(
            f"batches of {tokens} tokens", [torch.from_numpy(there.encode(texts, batch_tokens=tokens))], [wanted], 1e-4
        )
    yield Pair("a tensor", [there.encode(texts, convert_to_tensor=True)], [wanted], 1e-4)
    ranges = np.stack([wanted.numpy().min(0), wanted.numpy().max(0)])
    for precision in ("int8", "uint8", "binary", "ubinary"):
        codes = [m.encode(texts, precision=precision, ranges=ranges) for m in (there, model)]
        other = torch.tensor((codes[0] != codes[1]).mean())
        yield Pair(f"codes that differ, {precision}", [other], [torch.zeros(())], 0.01)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        found = torch.from_numpy(copy.deepcopy(model).to(device, dtype).encode(texts))
        yield Pair(f"weights in {name_of(dtype)}", [found], [wanted], tolerance)


# ---------------------------------------------------------------- the table

LISTS = {"read": ["write read", "sort a list", ""], "sort": ["file"], "wait": ["thread " * 40, "wait " * 9, "socket"]}


def check_cross_encoder(device: torch.device) -> Iterator[Pair]:
    """Scores of pairs, and the gradients of a loss of lists of different length."""
    (wanted, *slopes), (found, *others) = (score_lists(place) for place in (torch.device("cpu"), device))
    yield Pair("scores", [found], [wanted], 1e-5)
    yield Pair("gradients of LambdaLoss", others, slopes, 1e-4)


def score_lists(device: torch.device) -> list[Tensor]:
    """Scores of all pairs, the loss, and the gradients of all parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the new head
        torch.manual_seed(0)
        model = CrossEncoder(tiny_model().content(), num_labels=1).to(device)
    torch.nn.init.constant_(model.head.classifier.weight, 0.3)
    pairs = [(query, document) for query, documents in LISTS.items() for document in documents]
    scores = model.predict(pairs, convert_to_tensor=True)
    ((logits,),) = model([model.read(pairs, "", None)[0]])
    counts = torch.tensor([len(documents) for documents in LISTS.values()], device=device)
    value = LambdaLoss()([logits], Batch(labels=torch.arange(len(pairs), device=device) % 3, counts=(counts,)))
    value.backward()
    return [torch.as_tensor(scores), value, *gradients(model)]


def check_sparse(device: torch.device) -> Iterator[Pair]:
    """Weights of words by a head over the vocabulary, with gradients; the largest of them; and what encode gives."""
    texts = [*sentences(40, longest=25), ""]
    for pooling in ("max", "sum"):
        dense = tiny_model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the new head
            wanted = SparseEncoder.from_encoder(dense.stack.reader(), dense.tokenizer, pooling)
        torch.nn.init.uniform_(wanted.stack[1].bias, -2.0, 0.2, generator=torch.Generator().manual_seed(0))
        there = copy.deepcopy(wanted).to(device)
        slopes = [
            with_gradients([*model([model.tokenizer(texts).packed()])[0]], list(model.parameters()))
            for model in (there, wanted)
        ]
        yield Pair(f"{pooling}, with gradients", *slopes, 1e-4)
        yield Pair(f"{pooling}, encode", *([model.encode(texts).to_dense()] for model in (there, wanted)), 1e-4)
        yield Pair(
            f"{pooling}, 5 words", *([m.encode(texts, max_active_dims=5).values()] for m in (there, wanted)), 1e-4
        )


CHECKS: list[Callable[[torch.device], Iterator[Pair]]] = [
    check_attention,
    check_pooling,
    check_encoders,
    check_losses,
    check_gradcache,
    check_steps,
    check_encode,
    check_cross_encoder,
    check_sparse,
]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run_check(check: Callable[[torch.device], Iterator[Pair]], device: torch.device) -> bool:
    """One line of the table, and one for each wrong value. Whether all is right."""
    started, pairs, wrong, nearest = time.perf_counter(), 0, [], 0.0
    try:
        for pair in check(device):
            size, pairs = error(pair.found, pair.wanted), pairs + 1
            nearest = max(nearest, size / pair.tolerance if pair.tolerance else size)
            if size > pair.tolerance:
                wrong.append(f"    WRONG {pair.name}: off by {size:.1e}, allowed is {pair.tolerance:.0e}")
    except Exception as e:  # the other checks still say what they find
        traceback.print_exc()
        wrong.append(f"    WRONG {type(e).__name__} after {pairs} of them: {str(e).partition(chr(10))[0]}")
    name, seconds = check.__name__.removeprefix("check_"), time.perf_counter() - started
    print(
        f"{name:12}{pairs:>6} compared{len(wrong):>6} wrong{nearest:>8.0%} of what is allowed{seconds:>8.1f} s",
        flush=True,
    )
    print("\n".join(wrong), end="\n" * bool(wrong), flush=True)
    return not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cpu: hold the CPU against itself")
    parser.add_argument("--only", help="the name of one check, as the table has it")
    parser.add_argument("--texts", type=int, default=8192, help="texts to encode when speed is measured; 0: none")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: nothing to check")
        return 0
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU against itself"
    print(f"{title}, torch {torch.__version__}", flush=True)
    checks = [check for check in CHECKS if args.only in (None, check.__name__.removeprefix("check_"))]
    right = [run_check(check, device) for check in checks]
    if args.texts and not args.only:
        measure_all(device, args.texts)
    return 0 if all(right) and right else 1


if __name__ == "__main__":
    sys.exit(main())
