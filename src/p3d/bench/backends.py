"""Candidates of `p3d bench model` by backend, and the machine's matrix rate."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from p3d.bench.turns import Arithmetic, Candidate
from p3d.errors import UserError
from p3d.inference.backends.names import Backend
from p3d.inference.export import export_network
from p3d.inference.export_spec import ExportSpec, FileBackend, noise_clip
from p3d.inference.exported import ExportedNetwork
from p3d.inference.scorer import Scorer, best_batch
from p3d.model.int8 import quantize_network
from p3d.model.network import P3D
from p3d.preprocessing import normalize
from p3d.system.device import DTYPES, Precision, set_precision, synchronize

_FILES: dict[str, tuple[FileBackend, str]] = {
    "aot": ("aot", "network.pt2"),
    "onnx": ("onnx", "network.onnx"),
    "openvino": ("openvino", "network.xml"),
}
_PRODUCTS = 5
SIDE, SMALL_SIDE = 4096, 2048
"""Rows of the matrices whose product is the machine's rate. Large ones do not fit in a cache, as
the operands in a network do not. The product of the small ones may be some 5% faster."""


def matrix_rate(device: torch.device, precision: Precision, side: int = SIDE) -> float:
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


@dataclass(frozen=True)
class BackendBench:
    """Prepares one network for all backends.

    Attributes:
        model: The network, whose preprocessing has the length and size of the clips.
        device: Where to compute.
        folder: Folder for exported files.
    """

    model: P3D
    device: torch.device
    folder: Path

    def prepare(
        self, backend: Backend, precision: Arithmetic, batch: int, several: int
    ) -> tuple[list[Candidate], list[str]]:
        """Prepare a backend for a batch, and for several clips in batches of its own choice.

        Args:
            backend: What computes the network.
            precision: Arithmetic; "int8" is for the runtimes of files.
            batch: Clips of the first candidate, which are one batch.
            several: Clips of the second candidate; 0 for none.

        Returns:
            The candidates, and a line about the preparation of each.

        Raises:
            UserError: The backend is not available, or not in this precision or on this device.
        """
        prep, name = self.model.preprocessing, f"{backend} scorer"
        many_in_bf16 = precision == "bf16" and backend in ("compiled", "aot")
        best = best_batch(self.device, prep, many_in_bf16=many_in_bf16)
        scorer, line = self._load(backend, precision, batch)
        lines = [f"{precision} {name}: {line}"]
        candidates = [self._candidate(name, precision, scorer, batch)]
        if several:
            if best != batch:
                scorer, line = self._load(backend, precision, best)
                lines.append(f"{precision} {name}, batches of {best}: {line}")
            candidates.append(
                self._candidate(f"{name}, {several} clips", precision, scorer, several)
            )
        return candidates, lines

    def _candidate(self, name: str, precision: Arithmetic, scorer: Scorer, clips: int) -> Candidate:
        noise = self._noise(clips)
        return Candidate(name, precision, lambda: scorer(noise), clips)

    def _noise(self, clips: int) -> Tensor:
        prep = self.model.preprocessing
        clip = noise_clip(self.model.config, prep.num_frames, prep.crop)
        return clip.repeat(clips, 1, 1, 1, 1)

    def _load(self, backend: Backend, precision: Arithmetic, batch: int) -> tuple[Scorer, str]:
        """Compile or export the network for batches, and load it; return how long that took."""
        started = time.perf_counter()
        if backend in ("eager", "compiled"):
            if precision == "int8":
                raise UserError("8-bit networks are files; give --backends aot, onnx or openvino")
            compiled = backend == "compiled"
            scorer = Scorer(self.model, self.device, precision, compiled=compiled, batch_size=batch)
            scorer(self._noise(batch))
            exported = time.perf_counter() if compiled else started
            loaded = exported
        else:
            path = self._export(backend, precision, batch)
            exported = time.perf_counter()
            own = "fp32" if precision == "int8" else precision
            scorer = Scorer(ExportedNetwork(path, backend), self.device, own)
            loaded = time.perf_counter()
        return scorer, (
            f"compiled or exported in {exported - started:.1f} s, "
            f"loaded in {loaded - exported:.2f} s"
        )

    def _export(self, backend: Backend, precision: Arithmetic, batch: int) -> Path:
        if precision == "int8":
            return self._export_int8(backend, batch)
        kind, name = _FILES[backend]
        if kind == "onnx" and precision != "fp32":
            raise UserError(f"ONNX Runtime has no {precision} here")
        stored: Precision = precision if kind == "aot" else "fp32"
        prep, path = self.model.preprocessing, self.folder / f"{precision}-{batch}-{name}"
        spec = ExportSpec(kind, stored, batch, prep.num_frames, prep.crop, device=self.device.type)
        export_network(self.model, path, spec)
        return path

    def _export_int8(self, backend: Backend, batch: int) -> Path:
        """Write the 8-bit network. Its ranges are those of noise, so its logits are not checked."""
        kind, name = _FILES["onnx" if backend == "openvino" else backend]
        prep, path = self.model.preprocessing, self.folder / f"int8-{batch}-{backend}-{name}"
        spec = ExportSpec(
            kind, "fp32", batch, prep.num_frames, prep.crop, int8=True, device=self.device.type
        )
        form = quantize_network(self.model, [normalize(self._noise(1), prep)])
        export_network(self.model, path, spec, form=form, tolerance=float("inf"))
        return path
