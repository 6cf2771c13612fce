"""Candidates of `p3d bench model` by backend, and the machine's matrix rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.backends.names import Backend
from p3d.inference.export import export_network
from p3d.inference.export_spec import ExportSpec, FileBackend
from p3d.inference.exported import ExportedNetwork
from p3d.inference.scorer import Scorer
from p3d.model.network import P3D
from p3d.system.device import DTYPES, Precision, set_precision, synchronize

_FILES: dict[str, tuple[FileBackend, str]] = {
    "aot": ("aot", "network.pt2"),
    "onnx": ("onnx", "network.onnx"),
    "openvino": ("openvino", "network.xml"),
}
_PRODUCTS = 5


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to be timed.

    Attributes:
        call: Scores the clips.
        compile_seconds: Time to compile or export it, the comparison with PyTorch included.
        load_seconds: Time to load what was compiled; 0 where nothing is stored.
    """

    call: Callable[[], Tensor]
    compile_seconds: float
    load_seconds: float


def matrix_rate(device: torch.device, precision: Precision, side: int = 2048) -> float:
    """Return the operations a second of the best of several products of square matrices."""
    set_precision(device, precision)
    first, second = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in "ab")
    best = float("inf")
    for _ in range(_PRODUCTS):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(first, second)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def prepare(
    backend: Backend,
    model: P3D,
    clips: Tensor,
    precision: Precision,
    device: torch.device,
    folder: Path,
) -> Prepared:
    """Compile or export a network for a batch of clips, and load it.

    Args:
        backend: What computes the network.
        model: The network.
        clips: uint8 `(N, T, H, W, C)`.
        precision: Arithmetic.
        device: Where to compute.
        folder: Folder for exported files.

    Raises:
        UserError: The backend is not available, or not in this precision or on this device.
    """
    started = time.perf_counter()
    if backend in ("eager", "compiled"):
        compiled = backend == "compiled"
        scorer = Scorer(model, device, precision, compiled=compiled, batch_size=len(clips))
        scorer(clips)
        seconds = time.perf_counter() - started if compiled else 0.0
        return Prepared(lambda: scorer(clips), seconds, 0.0)
    kind, name = _FILES[backend]
    batch, frames, height, width, _ = clips.shape
    assert height == width
    stored: Precision = precision if kind == "aot" else "fp32"
    if kind == "onnx" and precision != "fp32":
        raise UserError(f"ONNX Runtime has no {precision} here")
    path = folder / f"{precision}-{name}"
    spec = ExportSpec(kind, stored, batch, frames, height, device=device.type)
    export_network(model, path, spec)
    exported = time.perf_counter()
    network = Scorer(ExportedNetwork(path), device, precision)
    loaded = time.perf_counter()
    return Prepared(lambda: network(clips), exported - started, loaded - exported)
