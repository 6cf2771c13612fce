"""Command-line options that several commands share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from p3d.system.device import DeviceName, Precision
from p3d.system.markers import First, Heading


@dataclass(frozen=True)
class DeviceOptions:
    """Where a network runs, and in which arithmetic."""

    device: Annotated[First[DeviceName], Heading("device")] = "auto"
    """Device to run on; auto takes CUDA, then MLU, then the CPU."""
    precision: First[Precision] = "fp32"
    """Arithmetic: fp32 (IEEE, no TF32), tf32, bf16 or fp16. Training in bf16 or fp16 is mixed
    precision."""
    compile: bool = False
    """Compile the network first: slow to start, then faster."""
    threads: int | None = None
    """CPU threads of each process; by default PyTorch's choice, usually one per core. Results are
    equal bit for bit only with the same number."""


def plain_options(options: Any) -> dict[str, Any]:
    """Return a command's options as plain values, the form of `config.json`.

    Options of the device are at the top level; other groups of options are dicts of their own.

    Args:
        options: A dataclass whose field `compute` holds `DeviceOptions`.
    """
    values = asdict(options)
    compute: dict[str, Any] = values.pop("compute")
    return values | compute
