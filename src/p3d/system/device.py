"""Everything that depends on the kind of device: selection, precision, memory, communication."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

from p3d.errors import UserError
from p3d.system.resources import keep_freed_memory
from p3d.system.text import counted

DeviceName = Literal["auto", "cpu", "cuda", "mlu"]

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

COLLECTIVES = {"cpu": "gloo", "cuda": "nccl", "mlu": "cncl"}
"""The collective communication backend of each device type."""


def resolve_device(name: DeviceName, local_rank: int = 0) -> torch.device:
    """Return a device and make it the current one.

    Args:
        name: Device type; "auto" prefers CUDA, then MLU, then the CPU.
        local_rank: Index of the device on this machine.

    Raises:
        UserError: The device, or the package for it, is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mlu" if _mlu_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: this PyTorch sees no CUDA device; check the driver and that torch is a "
            "CUDA build, or use --device cpu"
        )
    if name == "mlu" and not _mlu_available():
        raise UserError(
            "--device mlu: no Cambricon MLU is usable; install torch_mlu from Cambricon's "
            "release of PyTorch and check the driver, or use --device cpu"
        )
    backend = getattr(torch, name)
    count = backend.device_count()
    if local_rank >= count:
        raise UserError(
            f"process {local_rank} of this machine has no {name} device, as there are {count}; "
            f"start {count} processes (torchrun --nproc_per_node {count}) or check "
            f"{name.upper()}_VISIBLE_DEVICES"
        )
    backend.set_device(local_rank)
    return torch.device(name, local_rank)


def find_device(text: str) -> tuple[DeviceName, int]:
    """Return type and index of a device of this machine.

    Args:
        text: `cpu`, or such as `cuda:1`; `cuda` is the first one.

    Raises:
        UserError: It is not the name of a device, or there is no such device.
    """
    kind, colon, index = text.partition(":")
    if kind == "cpu" and not colon:
        return "cpu", 0
    if kind not in ("cuda", "mlu") or (colon and not re.fullmatch("[0-9]{1,4}", index)):
        raise UserError(f"--devices {text}: is not a device; give cpu, or such as cuda:0 or mlu:1")
    name: DeviceName = "cuda" if kind == "cuda" else "mlu"
    resolve_device(name)
    count: int = getattr(torch, name).device_count()
    if int(index or 0) >= count:
        raise UserError(
            f"--devices {text}: there is {name}:0 to {name}:{count - 1} on this machine"
        )
    return name, int(index or 0)


def count_devices(device: torch.device) -> int:
    """Return how many devices of a kind this process sees; 1 for a CPU."""
    return 1 if device.type == "cpu" else int(getattr(torch, device.type).device_count())


def set_up_cpu(threads: int | None) -> None:
    """Prepare this process for networks on the CPU; for commands, not for the Python API.

    Args:
        threads: Threads of the network; None leaves PyTorch's default.

    Raises:
        UserError: The number is out of range.
    """
    keep_freed_memory()
    if threads is None:
        return
    if not 1 <= threads <= 1024:
        raise UserError(f"--threads is {threads}; give 1 to 1024")
    torch.set_num_threads(threads)


@contextmanager
def one_cpu_thread() -> Iterator[None]:
    """Let PyTorch compute on one CPU thread.

    After their work its threads wait busily for a while. Another runtime that starts then has to
    share the cores with them: an 8-bit network took twice as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _mlu_available() -> bool:
    """Return whether torch_mlu is installed and finds a card; importing it registers the device."""
    if not hasattr(torch, "mlu"):
        if importlib.util.find_spec("torch_mlu") is None:
            return False
        importlib.import_module("torch_mlu")
    return bool(getattr(torch, "mlu").is_available())  # noqa: B009 (torch_mlu adds it)


def set_precision(device: torch.device, precision: Precision) -> None:
    """Enable TF32 (factors rounded to 10-bit mantissas) for "tf32" and disable it otherwise.

    The setting is global. PyTorch's default differs by device and operation: on CUDA it enables
    TF32 in convolutions but not in matrix products.

    Raises:
        UserError: The device has no TF32.
    """
    allowed = precision == "tf32"
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
    elif device.type == "mlu":
        mlu: Any = getattr(torch.backends, "mlu", None)
        part: Any
        convolution = getattr(torch.backends, "cnnl", None)
        # torch_mlu's switches for convolutions, matrix products and all other operations.
        for part in (convolution, getattr(mlu, "matmul", None), getattr(mlu, "custom", None)):
            if part is not None:
                part.allow_tf32 = allowed
    elif allowed:
        raise UserError("--precision tf32 is for cuda and mlu; on this device use fp32")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Return a context that runs matrix operations in bf16 or fp16, for these precisions only."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def grad_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Return a gradient scaler, enabled for fp16 only (bf16 has the range of fp32)."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def has_native_bf16(device: torch.device) -> bool:
    """Return whether the hardware computes in bf16; without, bf16 is slower than fp32."""
    if device.type == "cpu":
        # Not in the oldest supported PyTorch.
        in_avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return bool(in_avx512()) or platform.machine() in ("arm64", "aarch64")
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(getattr(torch, device.type).is_bf16_supported())


def collective_backend(device: torch.device) -> str:
    """Return the process group's backend: gloo for the CPU, the device's own for its tensors."""
    ours = COLLECTIVES[device.type]
    return ours if device.type == "cpu" else f"cpu:gloo,{device.type}:{ours}"


def needs_pinned_memory(device: torch.device) -> bool:
    """Return whether asynchronous copies to the device need pinned memory."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Wait for all work on the device to finish."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of tensors on a device, of the whole process on a CPU.

    0 if unknown.
    """
    if device.type != "cpu":
        return int(getattr(torch, device.type).max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe_device(device: torch.device) -> str:
    """Return a device's type, model and memory (CPU: threads) for logs."""
    if device.type == "cpu":
        return f"cpu ({counted(torch.get_num_threads(), 'thread')})"
    properties = getattr(torch, device.type).get_device_properties(device)
    name = getattr(properties, "name", device.type)
    return f"{device} ({name}, {properties.total_memory / 2**30:.0f} GiB)"
