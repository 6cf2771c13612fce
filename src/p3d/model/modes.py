"""How a network is being run: traced, compiled or trained step by step, and on what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_PLANNED: ContextVar[str] = ContextVar("planned", default="meta")


def is_tracing() -> bool:
    """Return whether `torch.jit.trace` records what is computed."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def trains_eagerly() -> bool:
    """Return whether there are gradients, and no compiler, which chooses for itself."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling() and not is_tracing()


def is_on_cpu(x: Tensor) -> bool:
    """Return whether a tensor is on a CPU, or has only a shape that is `planned_for` one."""
    kind = x.device.type
    return (_PLANNED.get() if kind == "meta" else kind) == "cpu"


@contextmanager
def planned_for(device: torch.device) -> Iterator[None]:
    """Let networks on the "meta" device do what they do on a device, for a `with` block."""
    token = _PLANNED.set(device.type)
    try:
        yield
    finally:
        _PLANNED.reset(token)
