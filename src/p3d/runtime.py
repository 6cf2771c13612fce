"""Everything that differs between machines: device, precision, seeding.

Nothing else in p3d asks which accelerator it runs on.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import platform
from contextlib import AbstractContextManager
from typing import Literal

import torch

from p3d.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mlu"]
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def resolve_device(name: DeviceName) -> torch.device:
    """The device that a name stands for; "auto" prefers CUDA, then MLU, then the CPU.

    Raises:
        UserError: The device, or the package that drives it, is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mlu") if _mlu_available() else torch.device("cpu")
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
    return torch.device(name)


def _mlu_available() -> bool:
    """Whether torch_mlu is there and sees a card; importing it registers the device."""
    if not hasattr(torch, "mlu"):
        if importlib.util.find_spec("torch_mlu") is None:
            return False
        importlib.import_module("torch_mlu")
    return bool(getattr(torch, "mlu").is_available())  # noqa: B009 (torch_mlu adds it)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Run matrix operations in the given precision; in fp32, change nothing."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """A loss scaler, active in fp16 only (bf16 has the range of fp32)."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed in hardware; elsewhere it works, but slower than fp32."""
    if device.type == "cpu":
        # Newer than the oldest PyTorch that this works with.
        in_avx512 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return bool(in_avx512()) or platform.machine() in ("arm64", "aarch64")
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed every generator for one training step, as a pure function of its arguments.

    Dropout is the only randomness left in a step (clips are drawn by the loader, from the seed, the
    epoch and the index). Seeding it anew each step makes a resumed run equal an uninterrupted one
    without any generator's state in the checkpoint, on any device.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=7).digest()
    torch.manual_seed(int.from_bytes(digest, "big"))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def describe_device(device: torch.device) -> str:
    """The device in words, for logs: its type, its model, and how many threads or what memory."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"cuda ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return device.type
