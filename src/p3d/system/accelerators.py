"""Which of a machine's accelerators a process sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_VARIABLES = {"cuda": "CUDA_VISIBLE_DEVICES", "mlu": "MLU_VISIBLE_DEVICES"}


def count_devices(device: torch.device) -> int:
    """Return how many devices of a kind this process sees; 1 for a CPU."""
    return 1 if device.type == "cpu" else int(getattr(torch, device.type).device_count())


@contextmanager
def only_device(device_type: str, index: int) -> Iterator[None]:
    """Let processes that are started in this context see one device only, as number 0.

    Args:
        device_type: "cuda" or "mlu"; nothing changes for "cpu".
        index: Number of the device among those that this process sees.
    """
    variable = _VARIABLES.get(device_type)
    if variable is None:
        yield
        return
    before = os.environ.get(variable)
    os.environ[variable] = before.split(",")[index] if before else str(index)
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
