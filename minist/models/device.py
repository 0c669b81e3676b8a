"""Where a model runs, and in which numbers."""

import os
from pathlib import Path

import torch

from minist.checks import pick

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_INFO = Path("/proc/cpuinfo")


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


os.register_at_fork(after_in_child=_use_one_thread)  # it has none of its parent's threads, and would wait for them


def find_device(device: str | torch.device | None) -> torch.device:
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


def find_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The type of that name; None is float32, and "auto" is bfloat16 where `device` multiplies it fast."""
    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16_fast(device) else torch.float32
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    known = DTYPES | {"auto": torch.float32}  # done with above, and here for the message
    return pick("dtype", "float32" if dtype is None else str(dtype), known)


def total_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """GPUs from Ampere on, and CPUs with instructions for it: AMX, or AVX-512's (encoding was 1.6x faster)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = CPU_INFO.read_text().split() if device.type == "cpu" and CPU_INFO.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags
