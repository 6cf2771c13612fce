"""Whether the simulated MLU can be built on this machine, and a CPU that computes as it does."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from p3d.model import blocks


def missing_requirement() -> str | None:
    """Return why the simulated MLU cannot be built, or None if it can."""
    compiler = os.environ.get("CXX", "c++")
    if not sys.platform.startswith("linux"):
        return "the simulated MLU needs Linux"
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        return "the simulated MLU needs the headers of PyTorch 2.13 or newer"
    if shutil.which(compiler) is None:
        return f"the simulated MLU needs a C++ compiler, and {compiler} was not found"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "the simulated MLU needs Python's headers (package python3-dev)"
    return None


def compute_as_the_card(patch: pytest.MonkeyPatch) -> None:
    """Keep networks on the CPU from what only a CPU does, whose results have other bits."""
    for name in ("is_small", "shares_gradient", "foresees_output"):
        patch.setattr(blocks, name, lambda *_: False)
