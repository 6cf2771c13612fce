"""A machine's accelerators."""

from __future__ import annotations

import torch


def count_devices(device: torch.device) -> int:
    """Return how many devices of a kind this process sees; 1 for a CPU."""
    return 1 if device.type == "cpu" else int(getattr(torch, device.type).device_count())
