"""Where a model runs, and in which numbers. Several devices or ranks share the texts, a process for each."""

import copy
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import get_context

from minist import collectives, distributed
from minist.checks import pick
from minist.data.tokenizer import Texts
from minist.progress import Update, progress_bar

Device = str | torch.device | None
Devices = Device | Sequence[str]
Dtype = str | torch.dtype | None
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"  # most linear layers of encoders; all else is as "auto" says
DTYPE_HELP = "float32 (default), bfloat16, auto: bfloat16 where that is fast"
CPU_INFO = Path("/proc/cpuinfo")
SHARES = 8  # parts of the texts for each of several devices: a fast one takes more of them

_model: Any = None  # in a worker: given once, and not with each part of the texts

# a forked child has none of its parent's threads, and would wait for them
os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
os.register_at_fork(after_in_child=partial(os.environ.update, TOKENIZERS_PARALLELISM="false"))


def find_device(device: Device) -> torch.device:
    """The device of that name; None takes the GPU if there is one. ValueError for one that cannot be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # a name that torch knows may be of a device that is not here
    except (RuntimeError, AssertionError, ImportError) as e:
        reason = str(e).splitlines()[0].partition(". ")[0]  # what follows can be all operators that torch has
        raise ValueError(f"device is {str(device)!r}, which cannot be used here: {reason}") from None
    return found


def find_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The type of that name; None is float32, and "auto" is bfloat16 where `device` multiplies it fast."""
    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16_fast(device) else torch.float32
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    known = DTYPES | dict.fromkeys((INT8, "auto"), torch.float32)  # here for the message
    return pick("dtype", "float32" if dtype is None else str(dtype), known)


def total_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """GPUs from Ampere on, and CPUs with AMX. AVX-512 has instructions for it too, but a Xeon that had only those
    took 1.6 times as long to encode as in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and has_instructions("amx_bf16")


def multiplies_int8_fast() -> bool:
    """Whether products of bytes are known to be summed in 32 bits: the processor can, and oneDNN is not held back."""
    return "ONEDNN_MAX_CPU_ISA" not in os.environ and has_instructions("avx512_vnni", "avx_vnni", "amx_int8")


def has_instructions(*any_of: str) -> bool:
    """Whether the processor says that it has one of these."""
    return not set(any_of).isdisjoint(CPU_INFO.read_text().split() if CPU_INFO.exists() else [])


def place(model: Any, device: Device, dtype: Dtype) -> None:
    """Move a model to `device`, in numbers of `dtype`. ValueError for what cannot be used there."""
    found = find_device(device)
    if found.type == "cpu":
        keep_freed_memory()
    if dtype == INT8:
        return to_int8(model, found)
    model.to(found, find_dtype(dtype, found))


def keep_freed_memory() -> None:
    """glibc gives large blocks back at once, and zeroes each new one again, page by page. One of nearly 32 MB that is
    freed tells it to keep as many from here on; elsewhere this does nothing."""
    torch.empty(2**25 - 2**14, dtype=torch.uint8)


def to_int8(model: Any, device: torch.device) -> None:
    """Replace the linear layers of its encoders, for inference; also for others that share them."""
    if device.type != "cpu":
        raise ValueError(f'dtype "int8" is for a CPU, and device is {device}: use "bfloat16" there, or device "cpu"')
    if not torch.backends.mkldnn.is_available():
        raise ValueError('dtype "int8" needs oneDNN, which this build of torch is without: use "float32"')
    if not model.encoders:
        raise ValueError('dtype "int8" is for encoders, and the model has none: it has no linear layers to speed up')
    if model.is_adapted or model.in_int8:
        what = "is in int8 already" if model.in_int8 else "has an adapter: call merge_adapter(), save, and open that"
        raise ValueError(f'dtype "int8" is for plain weights, and the model {what}')
    from minist.modules import int8  # not every start has to read it

    model.to(device, torch.float32)
    tokenizers = {path[0]: model.tokenizers[route] for route, path in model.stack.paths.items()}
    largest = 127 if multiplies_int8_fast() else 63  # else two products of 127 and 255 would not fit into 16 bits
    for encoder in model.encoders:
        int8.replace_layers(encoder, int8.example_of(tokenizers[encoder]), largest)
    model.to(find_dtype("auto", device)).requires_grad_(False)


def embed(
    model: Any, device: Devices, texts: Texts, prompt: str, role: str | None, batch_tokens: int, show: bool | None
) -> Tensor:
    """`model.embed` with a progress bar, on these devices; one alone is where the model stays."""
    model.stack.route(role)  # a role that it does not know is found before processes start
    asked = [device] if isinstance(device, str | torch.device) else list(device or ())
    if model.in_int8 and any(find_device(name).type != "cpu" for name in asked):
        raise ValueError(f'a model of dtype "int8" stays on the CPU, and device is {", ".join(map(str, asked))}')
    if isinstance(device, str | torch.device):
        model.to(find_device(device))
        device = None
    several = [str(find_device(d)) for d in device or ()]
    rank, ranks = (distributed.rank(), distributed.world_size()) if model.ranks_share else (0, 1)
    start, end = (len(texts) * share // ranks for share in (rank, rank + 1))
    unit, what = ("pairs", "scoring") if model.pairing else ("texts", "encoding")
    with progress_bar(len(texts), unit, what, show) as bar:
        if several:
            own = embed_on(several, model, texts[start:end], prompt, batch_tokens, bar.update, role)
        else:
            own, _ = model.embed(texts[start:end], prompt, batch_tokens, bar.update, role)
    return of_all_ranks(own, start, len(texts), model.device) if model.ranks_share else own


def of_all_ranks(own: Tensor, start: int, n: int, device: torch.device) -> Tensor:
    """The n rows of all ranks, of which `own` are those from `start` on."""
    distributed.barrier()  # long texts may all lie in one share: no collective waits as long as that takes
    if not own.is_sparse:
        return collectives.gather(own.to(device)).cpu()
    places = own.indices().T + torch.tensor([start, 0])  # rows are counted from the first of all ranks
    indices, values = (collectives.gather(x.to(device)).cpu() for x in (places, own.values()))
    return coo(indices.T, values, (n, own.shape[1]))


def coo(indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A coalesced sparse tensor: indices [2, n], of which none stands twice, and values [n]."""
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False).coalesce()


def embed_on(
    devices: Sequence[str], model: Any, texts: Texts, prompt: str, batch_tokens: int, done: Update, role: str | None
) -> Tensor:
    """The rows of `model.embed`. The processes start from nothing, so a script that calls this must do so below
    `if __name__ == "__main__":`. ValueError if a process dies."""
    size = max(1, -(-len(texts) // (SHARES * len(devices))))  # rounded up
    jobs = [(texts[start : start + size], prompt, batch_tokens, role) for start in range(0, len(texts), size)]
    context = get_context("spawn")  # a process that used CUDA cannot be forked
    free = context.SimpleQueue()  # each process takes one device out of it
    for device in devices:
        free.put(device)
    on_cpu = model if model.device.type == "cpu" else copy.deepcopy(model).cpu()  # its weights lie in shared memory
    threads = max(1, torch.get_num_threads() // len(devices))
    parts = [model.embed([], prompt, 0, done, role)[0]]  # no rows, of the right kind
    try:
        with ProcessPoolExecutor(len(devices), context, _start, (on_cpu, free, threads)) as pool:
            for part in map(pickle.loads, pool.map(_work, jobs)):  # in the order of the texts
                parts.append(part)
                done(len(part))
    except BrokenProcessPool:
        what = f"a process on {', '.join(devices)} ended too early: is there memory for {len(devices)} models, and"
        raise ValueError(f'{what} does the script call encode below `if __name__ == "__main__":`?') from None
    return torch.cat(parts)


def _start(model: Any, free: Any, threads: int) -> None:
    global _model
    torch.set_num_threads(threads)
    keep_freed_memory()
    _model = model.to(free.get())


def _work(job: tuple[Texts, str, int, str | None]) -> bytes:
    texts, prompt, batch_tokens, role = job
    # bytes: the pool would send a tensor as an open file, of which there are few
    return pickle.dumps(_model.embed(texts, prompt, batch_tokens, lambda n: None, role)[0])
