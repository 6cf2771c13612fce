"""`p3d export`: write a network for another runtime, and compare it with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from p3d.data.clips import check_source, read_eval_clips
from p3d.data.layouts import DataOptions
from p3d.data.splits import SplitRule
from p3d.errors import UserError, printable
from p3d.inference.export import DEFAULT_OPSET, export_network
from p3d.inference.export_spec import (
    MIN_FREE_FRAMES,
    MIN_FREE_SIZE,
    SUFFIXES,
    ExportSpec,
    FileBackend,
)
from p3d.inference.exported import file_backend
from p3d.inference.quantize import Int8Result, export_int8
from p3d.inference.verify import Verification
from p3d.model.network import P3D
from p3d.preprocessing import Preprocessing
from p3d.system.device import Precision
from p3d.system.markers import First, Positional
from p3d.system.text import counted, first_lines
from p3d.video.decode import open_video
from p3d.weights.loading import load_model
from p3d.weights.reading import prefix_errors

_OPSETS = (18, 23)


@dataclass(frozen=True)
class ExportOptions:
    """Export a network: .onnx (ONNX), .pt2 (compiled for this machine) or .xml (OpenVINO).

    The file is compared with PyTorch before it gets its name. A .pt2 is compiled code: whoever runs
    one must trust its source as that of a program.
    """

    input: Positional[Path]
    """Weights to read, in any format that p3d reads."""
    output: Positional[Path]
    """File to write; its suffix says for which runtime."""
    batch: First[int | Literal["free"]] = 1
    """Clips in a batch. A fixed number is faster; p3d fills up smaller batches."""
    frames: int | Literal["own", "free"] = "own"
    """Frames of a clip: the network's own, a number, or any from 16."""
    size: int | Literal["own", "free"] = "own"
    """Height and width of a clip: the network's own crop, a number, or any from 48."""
    precision: First[Precision] = "fp32"
    """Arithmetic of a .pt2. ONNX and OpenVINO files are in fp32."""
    with_preprocessing: First[bool] = False
    """Take uint8 (N, T, H, W, C), give probabilities; else normalized pixels, logits."""
    four_dims: bool = False
    """Join clips and frames in one axis, so that no tensor has more than four."""
    opset: int = DEFAULT_OPSET
    """Version of the ONNX operators."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that a .pt2 is compiled for."""
    verify_with: First[tuple[Path, ...]] = ()
    """Videos to compare the file with PyTorch on, besides clips of noise."""
    tolerance: float | None = None
    """Largest difference allowed, in units of the largest logit; by default 1e-4 for fp32."""
    int8: First[bool] = False
    """Compute with 8-bit integers; needs --calibrate."""
    calibrate: First[Path | None] = None
    """Data set whose training list calibrates --int8, and whose test list measures it."""
    splits: SplitRule = field(default_factory=SplitRule)
    """How the videos of --calibrate are divided."""
    calibration_clips: int = 64
    """Clips to calibrate on, one of each video."""
    max_loss: float = 1.0
    """Percentage points of top-1 that --int8 may lose on the test list."""
    force: First[bool] = False
    """Overwrite the output if it exists."""


def make_spec(options: ExportOptions, model: P3D) -> ExportSpec:
    """Return the form of the file that the options ask for.

    Raises:
        UserError: The options do not fit together.
    """
    backend: FileBackend | None = SUFFIXES.get(options.output.suffix.lower())
    if backend is None:
        raise UserError(f"its suffix names no runtime; give one of: {', '.join(SUFFIXES)}")
    first, last = _OPSETS
    if not first <= options.opset <= last:
        raise UserError(f"--opset is {options.opset}; give {first} to {last}")
    prep = model.preprocessing
    own = {"own": (prep.num_frames, prep.crop), "free": (None, None)}
    spec = ExportSpec(
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
    _check_free(spec, prep)
    return spec


def _check_free(spec: ExportSpec, prep: Preprocessing) -> None:
    """Check that a file of free length or size takes the network's own clips."""
    for name, fixed, own, least in (
        ("frames", spec.frames, prep.num_frames, MIN_FREE_FRAMES),
        ("size", spec.size, prep.crop, MIN_FREE_SIZE),
    ):
        if fixed is None and own < least:
            raise UserError(
                f"--{name} free takes {least} and more, but the network's own clips have {own}; "
                f"give --{name} a number, or omit it"
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


def _sides(resize: int | tuple[int, int]) -> tuple[int, ...]:
    return (resize,) if isinstance(resize, int) else resize


def _read_clips(model: P3D, spec: ExportSpec, videos: Sequence[Path]) -> list[Tensor]:
    """Read two clips of each video, of the size that the file takes."""
    prep = model.preprocessing
    size, frames = (
        spec.size or max(MIN_FREE_SIZE, prep.crop),
        spec.frames or max(MIN_FREE_FRAMES, prep.num_frames),
    )
    scaled = [max(size, round(size * side / prep.crop)) for side in _sides(prep.resize)]
    resize = scaled[0] if isinstance(prep.resize, int) else (scaled[0], scaled[1])
    prep = replace(prep, num_frames=frames, crop=size, resize=resize)
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
    # Errors of videos and of data sets name these themselves.
    if options.int8:
        result = _export_int8(options, model, spec)
        print(summary(options.output, replace(spec, int8=True), result.verification))
        print(
            f"  top-1 on {result.videos} test videos: {100 * result.before:.1f}% in fp32, "
            f"{100 * result.after:.1f}% in int8, calibrated on {result.calibration_clips} clips"
        )
        if result.unread:
            print(f"SKIPPED: {counted(len(result.unread), 'video')} that cannot be read:")
            print("\n".join(first_lines(result.unread)))
        return
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
    parts = [path, path.with_suffix(".bin")] if spec.backend == "openvino" else [path]
    megabytes = sum(part.stat().st_size for part in parts) / 1e6
    output = "probabilities" if spec.with_preprocessing else "logits"
    lines = [
        f"wrote {printable(path)} ({megabytes:.1f} MB), {'int8' if spec.int8 else spec.precision}"
        + (f", opset {spec.opset}" if spec.opset else ""),
        f"  input: {kind}; {shape}",
        f"  output: {output}",
        f"  largest difference from PyTorch in {'int8' if spec.int8 else 'fp32'}: "
        f"{found.noise:.1e} on noise{videos}, in units of the",
        f"  largest of the {output}; the same class for {100 * found.same_class:.0f}% of the clips",
    ]
    if spec.backend == "aot":
        lines.append("  it is compiled code for this processor and torch: share it as a program")
    return "\n".join(lines)


def _export_int8(options: ExportOptions, model: P3D, spec: ExportSpec) -> Int8Result:
    if options.calibrate is None:
        raise UserError(
            "--int8 measures the ranges of activations on videos; give a data set with the "
            "network's classes (--calibrate DATA)"
        )
    if options.calibration_clips < 1:
        raise UserError(f"--calibration-clips is {options.calibration_clips}; give 1 or more")
    return export_int8(
        model,
        options.output,
        spec,
        DataOptions(options.calibrate, splits=options.splits),
        source=printable(options.input.name),
        tolerance=options.tolerance,
        clips=options.calibration_clips,
        max_loss=options.max_loss,
    )
