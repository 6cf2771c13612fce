"""Whether the simulated card can be built here."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch


def obstacle() -> str | None:
    """Why the simulated card cannot be built here."""
    compiler = os.environ.get("CXX", "c++")
    if not sys.platform.startswith("linux"):
        return "the simulated MLU is for Linux"
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        return "the simulated MLU is written for the headers of PyTorch 2.13"
    if shutil.which(compiler) is None:
        return f"the simulated MLU needs a C++ compiler, and there is no {compiler}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the simulated MLU needs Python's headers (such as the package python3-dev)"
    return None
