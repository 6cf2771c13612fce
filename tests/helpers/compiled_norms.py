"""Compiled normalizations for activations of any size, without remarks of PyTorch's compiler."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from p3d.model import fused_norm


@contextmanager
def compiled_norms() -> Iterator[None]:
    """Let networks with fused norms take compiled code for small activations too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the compiler imports such modules
        import torch.utils.mkldnn  # noqa: F401
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_norm, "_SMALLEST", 0)
        yield
