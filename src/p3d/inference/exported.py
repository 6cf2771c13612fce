"""Networks in files of `p3d export`: AOTInductor packages, ONNX and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.inference.backends import aot, onnx_runtime, openvino_runtime
from p3d.inference.backends.names import TOLERANCE, Backend, BackendChoice, relative_error
from p3d.inference.export_spec import (
    SUFFIXES,
    ExportDescription,
    FileBackend,
    from_metadata,
    noise_clip,
)
from p3d.system.device import DTYPES, Precision, one_cpu_thread
from p3d.system.spelling import describe_unread
from p3d.weights.calibration import read_calibration
from p3d.weights.entries import read_rates, read_trained_on
from p3d.weights.reading import prefix_errors


def file_backend(path: Path) -> FileBackend | None:
    """Return the runtime of an exported file, by its suffix; None for weight files."""
    return SUFFIXES.get(path.suffix.lower()) if path.is_file() else None


class ExportedNetwork:
    """An exported network, as described by its file. Nothing is run before `connect`.

    Args:
        path: A file of `p3d export`. A .pt2 package is compiled code, which runs with the rights of
            this process: load only what comes from a source that you trust.
        backend: "auto" for the runtime of the file; "openvino" also runs ONNX files.

    Attributes:
        config: The network.
        preprocessing: How its input is made.
        class_names: One name per class, if known.
        spec: What the file takes.
        trained_on: Digests of the videos that it was trained on; empty if unknown.
        rates: Lowest and highest frame rate of these videos; None if unknown.
        calibration: Values that were fitted to validation scores, see `P3D.calibration`.
        backend: The runtime.

    Raises:
        UserError: The file is damaged or not from `p3d export`, or the runtime is not for it.
    """

    def __init__(self, path: Path | str, backend: BackendChoice = "auto") -> None:
        self.path = Path(path)
        with prefix_errors(self.path):
            self.description = _read_description(self.path)
            own = self.description.spec.backend
            if backend not in ("auto", own) and (own, backend) != ("onnx", "openvino"):
                raise UserError(
                    f"a file for {own} does not run by {backend}; omit --backend, or export the "
                    "weights for it"
                )
        self.backend: Backend = own if backend == "auto" else backend
        self.config = self.description.config
        self.preprocessing = self.description.preprocessing
        self.class_names = self.description.class_names
        self.spec = self.description.spec
        self.trained_on = read_trained_on(self.description.entries)
        self.rates = read_rates(self.description.entries)
        self.calibration = read_calibration(self.description.entries)

    def precision(self, asked: Precision) -> Precision:
        """Return the arithmetic of the file when `asked` for one.

        Raises:
            UserError: The file computes in another.
        """
        if self.backend == "openvino" and asked != "tf32":
            return asked
        # fp32 is the default, which cannot be told from a wish.
        if asked in ("fp32", self.spec.precision):
            return self.spec.precision
        raise UserError(
            f"{self.path}: computes in {self.spec.precision}; omit --precision {asked}, or export "
            "the weights again with it"
        )

    def connect(self, device: torch.device, precision: Precision = "fp32") -> FileNetwork:
        """Load the file into its runtime, and check it by its reference clip.

        Raises:
            UserError: The runtime is missing, the file is for another machine, or gives other
                logits than where it was exported.
        """
        precision = self.precision(precision)
        with prefix_errors(self.path):
            if self.backend == "aot":
                aot.check_machine(self.description.entries, device.type, self.spec.device)
                call = aot.open_package(self.path)
            elif self.backend == "onnx":
                call = onnx_runtime.open_onnx(self.path, device)
            else:
                call = openvino_runtime.open_openvino(self.path, device, precision)
            network = FileNetwork(self.path, self.description, call, device, precision)
            network.check()
        return network


def _read_description(path: Path) -> ExportDescription:
    backend = file_backend(path)
    readers: dict[FileBackend, Callable[[Path], dict[str, str]]] = {
        "aot": aot.read_metadata,
        "onnx": onnx_runtime.read_metadata,
        "openvino": openvino_runtime.read_metadata,
    }
    if backend is None:
        raise UserError(f"no exported file; give one of: {', '.join(SUFFIXES)}")
    try:
        return from_metadata(readers[backend](path))
    except OSError as error:
        raise UserError(describe_unread(path, error)) from error


class FileNetwork:
    """An exported network in its runtime, which maps uint8 clips to logits."""

    def __init__(
        self,
        path: Path,
        description: ExportDescription,
        call: Callable[[Tensor], Tensor],
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.preprocessing = description.preprocessing
        self.device, self.dtype = device, DTYPES[precision]
        self._path, self._description = path, description
        self._call, self._precision = call, precision

    def __call__(self, clips: Tensor) -> Tensor:
        """Map uint8 `(N, T, H, W, C)`, N as fixed in the file, to float32 on the CPU.

        Raises:
            UserError: The file does not take clips of this size.
        """
        spec = self._description.spec
        with prefix_errors(self._path):
            spec.check(clips.shape)
        # A .pt2 computes on PyTorch's own threads.
        with nullcontext() if spec.backend == "aot" else one_cpu_thread():
            inputs = spec.prepare(clips.to(self.device), self.preprocessing)
        return spec.logits(self._call(inputs).float().cpu())

    def check(self) -> None:
        """Check the logits of the reference clip.

        Raises:
            UserError: They differ too much from those of the export.
        """
        error, limit = self.reference_error(), self._description.reference.tolerance
        limit = max(limit, TOLERANCE[self._precision])
        if error > limit:
            raise UserError(
                f"its logits differ by {error:.1e} of the largest from those of its export, "
                f"allowed are {limit:.0e}; export it again on this machine"
            )

    def reference_error(self) -> float:
        """Return the relative error of the reference clip's logits."""
        reference = self._description.reference
        clip = noise_clip(self._description.config, reference.frames, reference.size)
        clips = clip.repeat(self._description.spec.batch or 1, 1, 1, 1, 1)
        expected = torch.tensor(reference.logits)
        found = self(clips)[:1]
        if self._description.spec.with_preprocessing:  # logarithms of probabilities
            return relative_error(found.softmax(-1), expected[None].softmax(-1))
        return relative_error(found, expected[None])
