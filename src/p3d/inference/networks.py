"""The network of a command: weights or an exported file, and the backend that computes it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from p3d.errors import UserError, printable
from p3d.inference.backends.compiled_network import compile_key
from p3d.inference.backends.names import BackendChoice
from p3d.inference.export_spec import noise_clip
from p3d.inference.exported import ExportedNetwork, file_backend
from p3d.inference.scorer import Scorer, best_batch
from p3d.model.network import P3D
from p3d.system.compiler import find_compiler, known_seconds, use_cache
from p3d.system.device import Precision
from p3d.weights.class_names import same_class
from p3d.weights.loading import load_model

_SAVED = {"fp32": 0.2, "bf16": 0.28}
"""Part of the eager time that compiling saves on a quiet Zen 4; on a busy one it is less."""
_FEWEST_CLIPS = 50
"""Fewer clips do not pay for compiling, however slow the machine is."""
_SECONDS_PER_CONVOLUTION = 0.25
"""Time to compile, where it is not known from an earlier run."""


def load_network(path: Path | str, backend: BackendChoice = "auto") -> P3D | ExportedNetwork:
    """Load weights of any known format, or open a file of `p3d export`.

    A .pt2 package contains compiled code, which runs with the rights of this process: open only
    files from a source that you trust. Weights and other files are data.

    Args:
        path: The file.
        backend: "auto", or what is to compute the network.

    Raises:
        UserError: The file cannot be read, or is not for the backend.
    """
    path = Path(path)
    if file_backend(path) is not None:
        return ExportedNetwork(path, backend)
    if backend in ("aot", "onnx", "openvino"):
        suffix = {"aot": ".pt2", "onnx": ".onnx", "openvino": ".xml"}[backend]
        raise UserError(
            f"{printable(path)}: --backend {backend} runs exported files only; first run "
            f"p3d export {printable(path)} {printable(path.with_suffix(suffix))}"
        )
    return load_model(path)


def check_classes(model: P3D | ExportedNetwork, class_names: Sequence[str], weights: Path) -> None:
    """Check that a network was trained for the classes of a data set.

    Raises:
        UserError: The number of classes, their names or their order differ.
    """
    if model.config.num_classes != len(class_names):
        raise UserError(
            f"{weights} has {model.config.num_classes} classes, the data set has "
            f"{len(class_names)}; evaluate on the data it was trained for, or fine-tune it first"
        )
    for ours, theirs in zip(model.class_names or class_names, class_names, strict=True):
        if not same_class(ours, theirs):
            raise UserError(
                f"{weights} has the class {ours!r} where the data set has {theirs!r}; "
                "their class lists differ in names or order"
            )


def chosen_backend(backend: BackendChoice, *, compiled: bool) -> BackendChoice:
    """Return the backend that `--backend` and `--compile` ask for together.

    Raises:
        UserError: They exclude each other.
    """
    if compiled and backend not in ("auto", "compiled"):
        raise UserError(f"--compile and --backend {backend} exclude each other; give one")
    return "compiled" if compiled else backend


@dataclass(frozen=True)
class Choice:
    """Whether to compile, and why."""

    compiled: bool
    reason: str


def choose(model: P3D, scorer: Scorer, precision: Precision, clips: int) -> Choice:
    """Choose between eager and compiled for a number of clips.

    Two clips are timed eagerly. Compiling is worth it if it saves more than it takes.

    Args:
        model: The network.
        scorer: The same network, eager.
        precision: Its arithmetic.
        clips: Clips to score in all.
    """
    device = scorer.device
    if device.type != "cpu":
        return Choice(False, f"compiling is not measured on {device.type}; try --backend compiled")
    if precision not in _SAVED:
        return Choice(False, f"compiling is not measured in {precision}")
    if find_compiler() is None:
        return Choice(False, "compiling needs g++ or clang, which is not installed")
    cost = known_seconds(compile_key(model, device, precision))
    if cost is None:
        convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
        cost = _SECONDS_PER_CONVOLUTION * convolutions
    saved = clips * _seconds_per_clip(model, scorer) * _SAVED[precision]
    compared = (
        f"for {clips} clips, compiling takes about {cost:.0f} s and saves about {saved:.0f} s"
    )
    if saved > cost:
        return Choice(True, f"{compared}; kept for later runs in {use_cache()}")
    return Choice(False, compared)


def _seconds_per_clip(model: P3D, scorer: Scorer) -> float:
    prep = model.preprocessing
    clip = noise_clip(model.config, prep.num_frames, prep.crop)
    scorer(clip)
    started = time.perf_counter()
    scorer(clip)
    return time.perf_counter() - started


def _say(file: ExportedNetwork, precision: Precision) -> None:
    """Print what computes an exported file."""
    code = ", compiled code" if file.backend == "aot" else ""
    print(f"p3d: backend {file.backend}, {file.precision(precision)}{code}", file=sys.stderr)


def make_scorer(
    network: P3D | ExportedNetwork,
    device: torch.device,
    precision: Precision = "fp32",
    *,
    backend: BackendChoice = "auto",
    batch_size: int | None = None,
    clips: int | None = None,
    say: bool = True,
) -> Scorer:
    """Return a scorer by the backend that is asked for, or the fastest for the work in hand.

    Args:
        network: Result of `load_network`.
        device: Where to compute.
        precision: Arithmetic; an exported file has its own.
        backend: "auto", "eager" or "compiled"; an exported file has its own.
        batch_size: Clips on the device at once; None for what suits the device.
        clips: Clips to score in all, for "auto"; None if unknown. It does not compile for few.
        say: Print what "auto" chose, and why.

    Raises:
        UserError: As `Scorer`.
    """
    compiled = backend == "compiled"
    if isinstance(network, ExportedNetwork):
        if say:
            _say(network, precision)
        return Scorer(network, device, precision, batch_size=batch_size)
    if clips is None or clips < _FEWEST_CLIPS:
        return Scorer(network, device, precision, compiled=compiled, batch_size=batch_size)
    if compiled:
        return _compiled_for_many(network, device, precision, batch_size)
    scorer = Scorer(network, device, precision, batch_size=batch_size)
    if backend != "auto":
        return scorer
    choice = choose(network, scorer, precision, clips)
    if say:
        name = "compiled" if choice.compiled else "eager"
        print(f"p3d: backend {name}: {choice.reason}", file=sys.stderr)
    if not choice.compiled:
        return scorer
    return _compiled_for_many(network, device, precision, batch_size)


def _compiled_for_many(
    network: P3D, device: torch.device, precision: Precision, batch_size: int | None
) -> Scorer:
    if batch_size is None:
        many_in_bf16 = precision == "bf16"
        batch_size = best_batch(device, network.preprocessing, many_in_bf16=many_in_bf16)
    return Scorer(network, device, precision, compiled=True, batch_size=batch_size)
