"""The machine that a run was made on, in words."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch

from p3d.system.device import describe_device


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from its sources
        return "not installed"


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, str]:
    """What a run's result may depend on besides its options, for its record."""
    packages = ("p3d", "torch", "numpy", "av", "pillow")
    machine = {
        "system": platform.platform(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "device": describe_device(device),
    }
    if device.type == "cuda":
        machine["cuda"] = str(torch.version.cuda)
        machine["cudnn"] = str(torch.backends.cudnn.version())
    if device.type == "mlu":
        machine["torch_mlu"] = str(getattr(sys.modules["torch_mlu"], "__version__", "unknown"))
    return machine
