"""`p3d bench model`: time the network against its plain `nn.Conv3d` form on this machine.

The baseline is the usual formulation, `nn.Conv3d` over `(N, C, T, H, W)` with autocast for lower
precisions (`p3d.model.plain`). Candidates are timed in turns, round after round, so that a machine
that slows down slows all of them. The median round counts; shares of the matrix rate, which is that
of the best product, are of the best round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from p3d.bench.backends import SIDE, SMALL_SIDE, BackendBench, matrix_rate
from p3d.bench.training_steps import channels_last, training_steps
from p3d.bench.turns import Arithmetic, Candidate, time_in_turns
from p3d.errors import UserError
from p3d.inference.backends.names import Backend
from p3d.model.config import Name, P3DConfig
from p3d.model.network import P3D, fold_norms
from p3d.model.plain import plain_twin
from p3d.system.device import (
    DTYPES,
    DeviceName,
    Precision,
    autocast,
    describe_device,
    resolve_device,
    set_up_cpu,
)
from p3d.system.files import write_json
from p3d.system.machine import describe_processor
from p3d.system.markers import First
from p3d.system.text import format_percent, format_table
from p3d.weights.info import stages
from p3d.weights.loading import convert_state_dict


@dataclass(frozen=True)
class ModelBenchOptions:
    """Time inference and training against the plain Conv3d network."""

    network: First[Name] = "p3d63"
    """Network to time."""
    precisions: First[tuple[Precision, ...]] = ("fp32", "bf16")
    """Precisions to time."""
    compile: First[bool] = False
    """Also time the network compiled, in training as `p3d train --compile` does."""
    backends: First[tuple[Backend, ...]] = ()
    """Also time clips of videos (uint8) by these backends, and print their compile and load
    times."""
    int8: First[bool] = False
    """Also time the network in 8-bit integers by those of the backends that take files."""
    training: First[bool] = True
    """Also time training steps."""
    frames: int = 16
    """Frames in a clip."""
    size: int = 160
    """Height and width of a clip, in pixels."""
    batch_size: int = 1
    """Clips in an inference batch."""
    several_clips: int = 20
    """Clips of a video, which each backend also scores in batches of its own choice; 0 for none."""
    training_batch_size: int = 2
    """Clips in a training batch."""
    rounds: int = 5
    """Timed calls of each candidate."""
    device: DeviceName = "auto"
    """Device to run on."""
    threads: int | None = None
    """CPU threads; by default PyTorch's choice, usually one per core."""
    out: First[Path | None] = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class Timing:
    """Time of a candidate for one clip, in seconds: the median round, and the best."""

    task: str
    name: str
    precision: Arithmetic
    seconds_per_clip: float
    best_seconds_per_clip: float


def _inference(options: ModelBenchOptions, device: torch.device) -> list[Candidate]:
    """Return plain, p3d as `Predictor` runs it, and p3d compiled, all with the same weights."""
    config = P3DConfig(options.network, 101, dropout=0.0)
    plain = plain_twin(config).eval().requires_grad_(False)
    weights = convert_state_dict(plain.state_dict())
    plain.to(device)
    clips = _clips(options, options.batch_size, device)
    candidates = []
    for precision in options.precisions:
        ours = P3D(config)
        ours.load_state_dict(weights)
        folded = fold_norms(ours.requires_grad_(False)).to(device, DTYPES[precision])
        frames = channels_last(clips).to(DTYPES[precision])
        calls = {
            "plain": _forward(plain, clips, precision),
            "p3d": _forward(folded, frames, "fp32"),
        }
        if options.compile:
            calls["p3d compiled"] = _forward(torch.compile(folded), frames, "fp32")
        candidates += [
            Candidate(name, precision, call, options.batch_size) for name, call in calls.items()
        ]
    return candidates


def _bench_network(options: ModelBenchOptions) -> P3D:
    """Return an untrained network for the clips of the options."""
    config = P3DConfig(options.network, 101, dropout=0.0)
    model = P3D(config)
    model.load_state_dict(convert_state_dict(plain_twin(config).state_dict()))
    model.preprocessing = replace(
        model.preprocessing,
        num_frames=options.frames,
        crop=options.size,
        resize=(options.size, options.size),
    )
    return model


def _backends(
    options: ModelBenchOptions, device: torch.device, folder: Path
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates by backend, and a line about each."""
    candidates, lines = list[Candidate](), list[str]()
    bench = BackendBench(_bench_network(options), device, folder)
    more: tuple[Arithmetic, ...] = ("int8",) if options.int8 else ()
    for precision, backend in product((*options.precisions, *more), options.backends):
        try:
            found, line = bench.prepare(
                backend, precision, options.batch_size, options.several_clips
            )
        except UserError as error:
            lines.append(f"{precision} {backend} scorer: not timed: {error}")
            continue
        candidates += found
        lines += line
    return candidates, lines


def _forward(
    net: Callable[[Tensor], Tensor], clips: Tensor, precision: Precision
) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode(), autocast(clips.device, precision):
            return net(clips)

    return call


def _clips(options: ModelBenchOptions, batch: int, device: torch.device) -> Tensor:
    return torch.randn(batch, 3, options.frames, options.size, options.size, device=device)


@dataclass(frozen=True)
class ModelBench:
    """Result of `bench_model`.

    Attributes:
        timings: One for each candidate and task.
        lines: How the backends were prepared.
        matrix_rates: Operations a second of a product of large matrices, by precision.
        small_matrix_rates: The same of matrices half as large.
    """

    timings: list[Timing]
    lines: list[str]
    matrix_rates: dict[Arithmetic, float]
    small_matrix_rates: dict[Arithmetic, float]


def bench_model(options: ModelBenchOptions) -> ModelBench:
    """Time the networks.

    Raises:
        UserError: A number is below 1, or the device is not available.
    """
    if min(options.rounds, options.batch_size, options.training_batch_size) < 1:
        raise UserError("--rounds and the batch sizes must be 1 or more")
    if options.several_clips < 0:
        raise UserError(
            f"--several-clips is {options.several_clips}; give 1 or more, or 0 for none"
        )
    set_up_cpu(options.threads)
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        more, lines = _backends(options, device, Path(folder))
        inference = [*_inference(options, device), *more]
        timings = _time("inference", inference, options, device)
        rates, small_rates = (_rates(options, device, side) for side in (SIDE, SMALL_SIDE))
    if options.training:
        clips = _clips(options, options.training_batch_size, device)
        config = P3DConfig(options.network, 101, dropout=0.0)
        steps = training_steps(config, options.precisions, clips, compiled=options.compile)
        timings += _time("training", steps, options, device)
    return ModelBench(timings, lines, rates, small_rates)


def _rates(options: ModelBenchOptions, device: torch.device, side: int) -> dict[Arithmetic, float]:
    return {precision: matrix_rate(device, precision, side) for precision in options.precisions}


def _time(
    task: str, candidates: list[Candidate], options: ModelBenchOptions, device: torch.device
) -> list[Timing]:
    times = time_in_turns(candidates, options.rounds, device)
    timings = []
    for one in candidates:
        found = times[one.name, one.precision]
        each = found.median / one.clips, found.best / one.clips
        timings.append(Timing(task, one.name, one.precision, *each))
    return timings


def run(options: ModelBenchOptions) -> None:
    """Time the networks, print a table, and write the figures to `--out`."""
    bench = bench_model(options)
    timings = bench.timings
    device = describe_device(resolve_device(options.device))
    clip = f"{options.frames}x{options.size}x{options.size}"
    print(f"{options.network}, {clip}, {device}, torch {torch.__version__}, {date.today()}")
    for precision, rate in bench.matrix_rates.items():
        small = bench.small_matrix_rates[precision]
        print(
            f"{precision} product of two {SIDE}x{SIDE} matrices: {rate / 1e9:.0f} GFLOP/s "
            f"({SMALL_SIDE}x{SMALL_SIDE}: {small / 1e9:.0f})"
        )
    print(_table(bench, options))
    print("\n".join(bench.lines), end="\n" if bench.lines else "")
    if options.out is not None:
        figures = {
            "date": str(date.today()),
            "device": device,
            "processor": describe_processor(),
            "torch": torch.__version__,
            "options": asdict(options),
            "timings": [asdict(timing) for timing in timings],
            "matrix_rates": bench.matrix_rates,
            "small_matrix_rates": bench.small_matrix_rates,
            "backends": bench.lines,
        }
        write_json(options.out, figures)


def _table(bench: ModelBench, options: ModelBenchOptions) -> str:
    """Return times, speed-ups, and the part of the matrix rate that each candidate reaches.

    The part is that of the best round. Operations are those of the published network, of which not
    all are computed, see docs/network.md. A training step counts as three forward passes.
    """
    config = P3DConfig(options.network, 101)
    macs = sum(part.macs for part in stages(config, frames=options.frames, size=options.size))
    operations = {"inference": 2 * macs, "training": 6 * macs}
    timings, base = bench.timings, options.precisions[0]
    plain: dict[tuple[str, Arithmetic], float]
    plain = {(t.task, t.precision): t.seconds_per_clip for t in timings if t.name == "plain"}
    header = ("", "ms/clip", "best", f"over plain {base}", "over plain", "best of matrix rate")
    rows = []
    for t in timings:
        own, rate = plain.get((t.task, t.precision)), bench.matrix_rates.get(t.precision)
        share = operations[t.task] / t.best_seconds_per_clip
        rows.append(
            (
                f"{t.task} {t.precision} {t.name}",
                f"{1000 * t.seconds_per_clip:.1f}",
                f"{1000 * t.best_seconds_per_clip:.1f}",
                f"{plain[t.task, base] / t.seconds_per_clip:.2f}",
                "-" if own is None else f"{own / t.seconds_per_clip:.2f}",
                "-" if rate is None else format_percent(share / rate),
            )
        )
    return format_table(header, rows)
