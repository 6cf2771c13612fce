"""`p3d export`: write a network for another runtime, and compare it with PyTorch."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor
from torch.export import ExportedProgram

from p3d.data.clips import check_source, read_eval_clips
from p3d.errors import UserError, printable
from p3d.inference.backends import aot, onnx_runtime, openvino_runtime
from p3d.inference.backends.names import TOLERANCE
from p3d.inference.export_spec import (
    MIN_FREE_FRAMES,
    MIN_FREE_SIZE,
    SUFFIXES,
    ExportSpec,
    FileBackend,
    Reference,
    noise_clip,
    to_metadata,
)
from p3d.inference.exported import ExportedNetwork, file_backend
from p3d.inference.graph import most_axes, trace
from p3d.inference.scorer import Scorer
from p3d.inference.verify import Verification, verify
from p3d.model.network import P3D
from p3d.system.device import Precision, resolve_device, set_precision
from p3d.video.decode import open_video
from p3d.weights.loading import load_model
from p3d.weights.reading import prefix_errors

DEFAULT_OPSET = 18
_OPSETS = (18, 23)


@dataclass(frozen=True)
class ExportOptions:
    """Export a network: .onnx (ONNX), .pt2 (compiled for this machine) or .xml (OpenVINO).

    The file is compared with PyTorch before it gets its name. A .pt2 is compiled code: whoever runs
    one must trust its source as that of a program.
    """

    input: Annotated[Path, tyro.conf.Positional]
    """Weights to read, in any format that p3d reads."""
    output: Annotated[Path, tyro.conf.Positional]
    """File to write; its suffix says for which runtime."""
    batch: int | Literal["free"] = 1
    """Clips in a batch. A fixed number is faster; p3d fills up smaller batches."""
    frames: int | Literal["own", "free"] = "own"
    """Frames of a clip: the network's own, a number, or any from 16."""
    size: int | Literal["own", "free"] = "own"
    """Height and width of a clip: the network's own crop, a number, or any from 48."""
    precision: Precision = "fp32"
    """Arithmetic of a .pt2. ONNX and OpenVINO files are in fp32."""
    with_preprocessing: bool = False
    """Take uint8 (N, T, H, W, C), give probabilities; else normalized pixels, logits."""
    four_dims: bool = False
    """Join clips and frames in one axis, so that no tensor has more than four."""
    opset: int = DEFAULT_OPSET
    """Version of the ONNX operators."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that a .pt2 is compiled for."""
    verify_with: tuple[Path, ...] = ()
    """Videos to compare the file with PyTorch on, besides clips of noise."""
    tolerance: float | None = None
    """Largest difference allowed, in units of the largest logit; by default 1e-4 for fp32."""
    force: bool = False
    """Overwrite the output if it exists."""


def export_network(
    model: P3D,
    path: Path | str,
    spec: ExportSpec,
    *,
    source: str | None = None,
    tolerance: float | None = None,
    real_clips: Sequence[Tensor] = (),
) -> Verification:
    """Write a network to a file for another runtime, and compare the file with PyTorch.

    Args:
        model: The network.
        path: The file to write; its folder must exist.
        spec: The form of the file.
        source: Where the weights come from.
        tolerance: Limit of the error, see `relative_error`; by default that of the precision.
        real_clips: More clips to compare with, uint8 `(N, T, H, W, C)`.

    Raises:
        UserError: A package is missing, the network cannot be exported in this form, the file gives
            other logits, or it cannot be written. No file is left.
    """
    path = Path(path)
    limit = TOLERANCE[spec.precision] if tolerance is None else tolerance
    device = resolve_device("cuda" if spec.device == "cuda" else "cpu")
    model = model.eval()
    metadata = to_metadata(model, spec, _reference(model, spec, limit), source)
    try:
        with tempfile.TemporaryDirectory(prefix=".p3d-partial-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            with _quiet():
                _write(_trace(model, spec), draft, metadata, spec)
            found = verify(model, ExportedNetwork(draft), device, spec.precision, real_clips)
            check_errors(found, limit)
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix != ".bin"):
                part.replace(path.with_name(part.name))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder and its disk"
        ) from error
    return found


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


def _trace(model: P3D, spec: ExportSpec) -> ExportedProgram:
    try:
        program = trace(model, spec)
    except (RuntimeError, ValueError) as error:  # PyTorch's errors about free axes
        if None not in (spec.batch, spec.frames, spec.size):
            raise
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(
            f"PyTorch cannot export with these free axes ({reason}); fix --batch, --frames or "
            "--size"
        ) from error
    if spec.four_dims and (axes := most_axes(program)) > 4:
        raise AssertionError(f"a tensor has {axes} axes")
    return program


def _write(
    program: ExportedProgram, path: Path, metadata: dict[str, str], spec: ExportSpec
) -> None:
    if spec.backend == "aot":
        aot.write_package(program, path, metadata)
    elif spec.backend == "onnx":
        output = "probabilities" if spec.with_preprocessing else "logits"
        onnx_runtime.write_onnx(program, path, metadata, spec.opset or DEFAULT_OPSET, output)
    else:
        openvino_runtime.write_openvino(program, path, metadata)


def make_spec(options: ExportOptions, model: P3D) -> ExportSpec:
    """Return the form of the file that the options ask for.

    Raises:
        UserError: The options do not fit together.
    """
    backend: FileBackend | None = SUFFIXES.get(options.output.suffix.lower())
    if backend is None:
        raise UserError(
            f"{options.output}: its suffix names no runtime; give one of: {', '.join(SUFFIXES)}"
        )
    first, last = _OPSETS
    if not first <= options.opset <= last:
        raise UserError(f"--opset is {options.opset}; give {first} to {last}")
    prep = model.preprocessing
    own = {"own": (prep.num_frames, prep.crop), "free": (None, None)}
    return ExportSpec(
        backend,
        options.precision,
        None if options.batch == "free" else options.batch,
        own[options.frames][0] if isinstance(options.frames, str) else options.frames,
        own[options.size][1] if isinstance(options.size, str) else options.size,
        options.with_preprocessing,
        options.four_dims,
        opset=options.opset if backend == "onnx" else None,
        device=options.device if backend == "aot" else "cpu",
    )


def _check_paths(options: ExportOptions) -> None:
    source, target = options.input, options.output
    if file_backend(source) is not None:
        raise UserError(f"{printable(source)}: is exported already; give the weights")
    if target.exists() and not options.force:
        raise UserError(
            f"{printable(target)}: exists already; give another output, or overwrite it (--force)"
        )
    if not target.parent.is_dir():
        raise UserError(f"{printable(target.parent)}: no such folder; create it first")


def _read_clips(model: P3D, spec: ExportSpec, videos: Sequence[Path]) -> list[Tensor]:
    """Read two clips of each video, of the size that the file takes."""
    prep = model.preprocessing
    size, frames = (
        spec.size or max(MIN_FREE_SIZE, prep.crop),
        spec.frames or max(MIN_FREE_FRAMES, prep.num_frames),
    )
    short = max(size, round(size * prep.resize[0] / prep.crop))
    long = max(size, round(size * prep.resize[1] / prep.crop))
    prep = replace(prep, num_frames=frames, crop=size, resize=(short, long))
    clips = []
    for path in videos:
        with open_video(path, prefer_flow=prep.channels == "flow") as video:
            check_source(path, video, prep)
            clips.append(read_eval_clips(video, prep, 2))
    return clips


def run(options: ExportOptions) -> None:
    """Run `p3d export`: write the file and print how it compares with PyTorch.

    Raises:
        UserError: As `export_network`, or an option or the input is wrong.
    """
    _check_paths(options)
    model = load_model(options.input)
    with prefix_errors(options.output):
        spec = make_spec(options, model)
        clips = _read_clips(model, spec, options.verify_with)
        found = export_network(
            model,
            options.output,
            spec,
            source=printable(options.input.name),
            tolerance=options.tolerance,
            real_clips=clips,
        )
    print(summary(options.output, spec, found))


def summary(path: Path, spec: ExportSpec, found: Verification) -> str:
    """Return what is printed about a file."""
    axes = "N*T" if spec.four_dims else "N, T"
    kind = (
        f"uint8 ({axes}, H, W, C)"
        if spec.with_preprocessing
        else (f"float32 ({'N*T, C' if spec.four_dims else 'N, C, T'}, H, W)")
    )
    shape = ", ".join(
        f"{name} {'free' if value is None else value}"
        for name, value in (("N", spec.batch), ("T", spec.frames), ("H and W", spec.size))
    )
    videos = "" if found.videos is None else f", {found.videos:.1e} on videos"
    megabytes = (
        sum(part.stat().st_size for part in (path, path.with_suffix(".bin")) if part.is_file())
        / 1e6
    )
    lines = [
        f"wrote {printable(path)} ({megabytes:.1f} MB), {spec.precision}"
        + (f", opset {spec.opset}" if spec.opset else ""),
        f"  input: {kind}; {shape}",
        f"  output: {'probabilities' if spec.with_preprocessing else 'logits'}",
        f"  largest difference from PyTorch in fp32: {found.noise:.1e} on noise{videos}, in units "
        "of the",
        f"  largest logit; the same class for {100 * found.same_class:.0f}% of the clips",
    ]
    if spec.backend == "aot":
        lines.append("  it is compiled code for this processor and torch: share it as a program")
    return "\n".join(lines)
