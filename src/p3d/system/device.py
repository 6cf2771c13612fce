"""Everything that differs between machines: device, precision, memory, how processes talk.

Nothing else in p3d asks which accelerator it runs on, or reads the environment.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from p3d.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mlu"]

Precision = Literal["fp32", "tf32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

COLLECTIVES = {"cpu": "gloo", "cuda": "nccl", "mlu": "cncl"}
"""The library by which processes on a kind of device add up tensors."""


def resolve_device(name: DeviceName, local_rank: int = 0) -> torch.device:
    """The device that a name stands for; "auto" prefers CUDA, then MLU, then the CPU.

    Args:
        name: A kind of device.
        local_rank: Which of the machine's devices of that kind; it becomes the current one.

    Raises:
        UserError: The device, or the package that drives it, is not there.
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
            f"process {local_rank} of this machine finds no {name} device of its own, as there are "
            f"{count}; start {count} processes (torchrun --nproc_per_node {count}) or check "
            f"{name.upper()}_VISIBLE_DEVICES"
        )
    backend.set_device(local_rank)
    return torch.device(name, local_rank)


def _mlu_available() -> bool:
    """Whether torch_mlu is there and sees a card; importing it registers the device."""
    if not hasattr(torch, "mlu"):
        if importlib.util.find_spec("torch_mlu") is None:
            return False
        importlib.import_module("torch_mlu")
    return bool(getattr(torch, "mlu").is_available())  # noqa: B009 (torch_mlu adds it)


def set_precision(device: torch.device, precision: Precision) -> None:
    """Allow or forbid TF32, which shortens the factors of fp32 products to 10 bits, process-wide.

    Without this the outcome of "fp32" would be each device's own habit: by default PyTorch allows
    TF32 in CUDA's convolutions but not in its matrix products.

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
        # Convolutions, matrix products and all else, by the names that torch_mlu gives them.
        for part in (convolution, getattr(mlu, "matmul", None), getattr(mlu, "custom", None)):
            if part is not None:
                part.allow_tf32 = allowed
    elif allowed:
        raise UserError("--precision tf32 is for cuda and mlu; on this device use fp32")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Run matrix operations in 16 bits where the precision is a 16-bit one."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def grad_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """A loss scaler, active in fp16 only (bf16 has the range of fp32)."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed in hardware; elsewhere it works, but slower than fp32."""
    if device.type == "cpu":
        # Newer than the oldest PyTorch that this works with.
        in_avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return bool(in_avx512()) or platform.machine() in ("arm64", "aarch64")
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(getattr(torch, device.type).is_bf16_supported())


def collective_backend(device: torch.device) -> str:
    """The process group's backend: plain values travel by gloo, tensors by their device's own."""
    ours = COLLECTIVES[device.type]
    return ours if device.type == "cpu" else f"cpu:gloo,{device.type}:{ours}"


def wants_pinned_memory(device: torch.device) -> bool:
    """Whether copies to the device run beside its work only from memory pinned for that."""
    return device.type == "cuda"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes held at once so far: by tensors on a device, by the whole process on a CPU.

    0 where the system does not tell.
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
    """The device in words, for logs: its type, its model, and how many threads or what memory."""
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    properties = getattr(torch, device.type).get_device_properties(device)
    name = getattr(properties, "name", device.type)
    return f"{device} ({name}, {properties.total_memory / 2**30:.0f} GiB)"
