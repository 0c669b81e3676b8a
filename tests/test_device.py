"""Names of devices and of types of numbers."""

import pytest
import torch

from minist.models import device as module
from minist.models.device import DTYPES, find_device, find_dtype, multiplies_bfloat16_fast

CPU = torch.device("cpu")
GPU = torch.device("cuda")


def test_devices_that_are_there():
    for name in ("cpu", "cpu:0", CPU):
        assert find_device(name).type == "cpu"
    with torch.device("meta"):  # whatever else is the default just now
        assert find_device("cpu") == CPU


@pytest.mark.parametrize("present", [False, True])
def test_no_name_takes_the_gpu_if_there_is_one(monkeypatch, present):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert find_device(None) == (GPU if present else CPU)


@pytest.mark.parametrize("name", ["toaster", "", "cpu:x", "meta", "cuda:99", "xla", "hpu", "privateuseone"])
@pytest.mark.filterwarnings("ignore")  # torch's own, of devices that few have
def test_devices_that_cannot_be_used(name):
    with pytest.raises(ValueError, match=f"^device is '{name}', which cannot be used here: [^\n]+$") as caught:
        find_device(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (None, torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_types_by_name(name, dtype):
    assert find_dtype(name, CPU) == dtype


@pytest.mark.parametrize("name", ["float8", "", "torch.float32", "fp32", torch.int8])
def test_unknown_type(name):
    with pytest.raises(ValueError, match=f"dtype is '{name}', known are {', '.join(DTYPES)}, int8, auto"):
        find_dtype(name, CPU)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("fpu avx2 avx512f amx_bf16 amx_tile", True),
        ("fpu avx512f avx512_bf16", False),  # which multiplies half as fast as float32
        ("fpu avx512f avx512_bf16 amx_bf16", True),
        ("fpu avx2 avx512f amx_tile amx_int8", False),
        ("fpu not_avx512_bf16 amx_bf16x", False),
        ("", False),
        (None, False),  # no such file, as on a Mac
    ],
)
def test_auto_on_a_cpu(tmp_path, monkeypatch, flags, fast):
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    monkeypatch.setattr(module, "CPU_INFO", file)
    assert multiplies_bfloat16_fast(CPU) is fast
    assert find_dtype("auto", CPU) == (torch.bfloat16 if fast else torch.float32)
    assert find_dtype(None, CPU) == torch.float32
    assert find_dtype("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)])
def test_auto_on_a_gpu(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert find_dtype("auto", GPU) == (torch.bfloat16 if fast else torch.float32)
