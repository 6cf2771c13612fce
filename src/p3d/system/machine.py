"""Descriptions of the processor and of the machine, for records of runs and benchmarks."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def environment(name: str, default: str) -> str:
    """Return the value of an environment variable, or a default if it is not set or empty."""
    return os.environ.get(name) or default


def set_environment(name: str, value: str) -> None:
    """Set an environment variable of this process and those that it starts, unless it is set."""
    os.environ.setdefault(name, value)


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version() -> str:
    """Return the version of p3d."""
    return str(sys.modules["p3d"].__version__)


def describe_processor() -> str:
    """Return the processor's model and the cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = num_cores()
    return f"{next(iter(models), name)}, {cores} {'core' if cores == 1 else 'cores'}"


def describe_machine(device: torch.device) -> dict[str, str]:
    """Return what a run's result may depend on besides its options: versions and hardware."""
    import torch  # imported here, since preparing data needs the number of cores only

    from p3d.system.device import describe_device

    packages = ("p3d", "torch", "numpy", "av", "pillow")
    machine = {
        "system": platform.platform(),
        "processor": describe_processor(),
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


def describe_call() -> dict[str, str]:
    """Return when, how and where this process does its work: date, command, and folder."""
    arguments = list(sys.argv)
    if Path(arguments[0]).name in ("p3d", "p3d.exe", "__main__.py"):
        arguments[0] = "p3d"
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(arguments),
        "folder": str(Path.cwd()),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # p3d may run from its source folder
        return "not installed"


_VECTORS = re.compile(r"(?:avx|amx|fma|sse|bmi|f16c|sve|asimd|bf16|i8mm)\w*")


def instruction_sets() -> frozenset[str]:
    """Return the names of the processor's vector instructions; empty where they are unknown."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(filter(_VECTORS.fullmatch, next(iter(flags), "").split()))
