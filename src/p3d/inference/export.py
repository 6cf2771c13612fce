"""Writing a network to a file for another runtime, and comparing the file with PyTorch."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from p3d.errors import UserError
from p3d.inference.backends import aot, onnx_runtime, openvino_runtime
from p3d.inference.backends.names import INT8_TOLERANCE, TOLERANCE
from p3d.inference.export_spec import (
    MIN_FREE_FRAMES,
    MIN_FREE_SIZE,
    ExportSpec,
    Reference,
    noise_clip,
    to_metadata,
)
from p3d.inference.exported import ExportedNetwork
from p3d.inference.graph import most_axes, trace
from p3d.inference.scorer import Scorer
from p3d.inference.verify import Verification, verify
from p3d.model.network import P3D
from p3d.system.device import resolve_device, set_precision
from p3d.system.files import TEMPORARY, move_together, writing
from p3d.weights.reading import prefix_errors

DEFAULT_OPSET = 18


def export_network(
    model: P3D,
    path: Path | str,
    spec: ExportSpec,
    *,
    source: str | None = None,
    tolerance: float | None = None,
    real_clips: Sequence[Tensor] = (),
    form: P3D | None = None,
) -> Verification:
    """Write a network to a file for another runtime, and compare the file with PyTorch.

    Args:
        model: The network.
        path: The file to write; its folder must exist.
        spec: The form of the file.
        source: Where the weights come from.
        tolerance: Limit of the error, see `relative_error`; by default that of the precision.
        real_clips: More clips to compare with, uint8 `(N, T, H, W, C)`.
        form: What is written and compared in place of the network: its 8-bit form.

    Raises:
        UserError: A package is missing, the network cannot be exported in this form, the file gives
            other logits, or it cannot be written. No file is left.
    """
    path = Path(path)
    usual = INT8_TOLERANCE if spec.int8 else TOLERANCE[spec.precision]
    limit = usual if tolerance is None else tolerance
    device = resolve_device("cuda" if spec.device == "cuda" else "cpu")
    model = model.eval()
    form = model if form is None else form
    with draft_folder(path, model) as folder:
        metadata = to_metadata(model, spec, _reference(form, spec, limit), source)
        draft = folder / path.name
        with prefix_errors(path), _quiet():
            _write(form, draft, metadata, spec)
        found = verify(form, ExportedNetwork(draft), device, spec.precision, real_clips)
        with prefix_errors(path):
            check_errors(found, limit)
        move_together(folder, path.parent, last=path.name)
    return found


@contextmanager
def draft_folder(path: Path, model: P3D) -> Iterator[Path]:
    """Yield an empty folder beside a file for its drafts, which is deleted at the end.

    Raises:
        UserError: The disk has no room for the network's tensors, or cannot be written.
    """
    needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    with writing(path):
        # Before minutes of work; and PyTorch's compiler aborts the process on a full disk.
        if (free := shutil.disk_usage(path.parent).free) < 1.1 * needed:
            raise UserError(
                f"{path}: cannot be written: it takes about {needed / 1e6:,.0f} MB and its "
                f"disk has {free / 1e6:,.0f} MB left; make room, or give another output"
            )
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
            yield Path(folder)


def check_errors(found: Verification, limit: float) -> None:
    """Check that a file gives what PyTorch does.

    Raises:
        UserError: It does not.
    """
    if found.worst > limit:
        raise UserError(
            f"the exported network's logits differ by {found.worst:.1e} of the largest, allowed "
            f"are {limit:.0e}; nothing is written. If that is enough for you, raise --tolerance"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what PyTorch's exporters say about packages that they lack and their own old code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reference(model: P3D, spec: ExportSpec, limit: float) -> Reference:
    frames = spec.frames or max(MIN_FREE_FRAMES, model.preprocessing.num_frames)
    size = spec.size or max(MIN_FREE_SIZE, model.preprocessing.crop)
    set_precision(torch.device("cpu"), "fp32")
    logits = Scorer(model, torch.device("cpu"))(noise_clip(model.config, frames, size))
    return Reference(frames, size, tuple(logits[0].tolist()), limit)


def _write(model: P3D, path: Path, metadata: dict[str, str], spec: ExportSpec) -> None:
    """Write a file that is not compared with PyTorch yet.

    Raises:
        UserError: A package is missing, or PyTorch cannot export with these free axes.
    """
    try:
        _write_program(trace(model, spec), path, metadata, spec)
    except (RuntimeError, ValueError) as error:  # PyTorch's errors about free axes
        if None not in (spec.batch, spec.frames, spec.size):
            raise
        reason = str(error.__cause__ or error).strip().splitlines()[0][:120]
        raise UserError(
            f"PyTorch cannot export with these free axes ({reason}); fix --batch, --frames or "
            "--size"
        ) from error


def _write_program(
    program: ExportedProgram, path: Path, metadata: dict[str, str], spec: ExportSpec
) -> None:
    if spec.four_dims:
        assert most_axes(program) <= 4
    if spec.backend == "aot":
        aot.write_package(program, path, metadata)
    elif spec.backend == "onnx":
        output = "probabilities" if spec.with_preprocessing else "logits"
        onnx_runtime.write_onnx(program, path, metadata, spec.opset or DEFAULT_OPSET, output)
    else:
        openvino_runtime.write_openvino(program, path, metadata)
