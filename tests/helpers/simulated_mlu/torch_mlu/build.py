"""Compile the device once for each version of its source and of PyTorch.

This calls the compiler directly: `torch.utils.cpp_extension` needs ninja, takes half a second to
import in every process, and waits forever for the lock of a killed build.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import torch

MODULE = "simulated_mlu"
SOURCES = ("device.cpp", "operators.cpp", "autocast.cpp", "module.cpp")
FOLDER = Path(__file__).parent


def load() -> ModuleType:
    """Return the compiled module, and compile it first if necessary.

    Raises:
        RuntimeError: The compiler failed; the message has its output.
    """
    library = _cache() / f"{_fingerprint()}.so"
    if not library.exists():
        _compile(library)
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(library))
    spec = importlib.util.spec_from_loader(MODULE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "p3d" / "simulated-mlu"


def _fingerprint() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {sysconfig.get_config_var('SOABI')}".encode())
    for name in (*SOURCES, "device.h", Path(__file__).name):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()[:16]


def _compile(library: Path) -> None:
    """Compile all sources as one, since reading PyTorch's headers takes most of the time."""
    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    folders = (FOLDER, include, include / "torch/csrc/api/include", sysconfig.get_path("include"))
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [
            *(os.environ.get("CXX", "c++"), "-x", "c++", "-", "-std=c++20", "-O1", "-w"),
            *("-shared", "-fPIC", "-o", str(built)),
            *(f"-I{folder}" for folder in folders),
            *(f"-L{torch_folder / 'lib'}", "-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10"),
        ]
        source = "".join(f'#include "{name}"\n' for name in SOURCES)
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the simulated MLU cannot be compiled:\n{done.stderr[-4000:]}")
        # Several processes may compile at the same time; none must find an incomplete file.
        built.replace(library)
