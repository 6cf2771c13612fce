"""`p3d bench model`: time the network against its plain `nn.Conv3d` form on this machine.

The baseline is the usual formulation, `nn.Conv3d` over `(N, C, T, H, W)` with autocast for lower
precisions (`p3d.model.plain`). Candidates are timed in turns, round after round, so that a machine
that slows down slows all of them; the median round counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.bench.backends import matrix_rate, prepare
from p3d.errors import UserError
from p3d.inference.backends.names import Backend
from p3d.inference.export_spec import noise_clip
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
    set_precision,
    set_up_cpu,
    synchronize,
)
from p3d.system.files import write_json
from p3d.system.machine import describe_processor
from p3d.system.text import format_percent, format_table
from p3d.training.optim import freeze
from p3d.training.recipes import UCF101
from p3d.weights.info import stages
from p3d.weights.loading import convert_state_dict


@dataclass(frozen=True)
class ModelBenchOptions:
    """Time inference and training against the plain Conv3d network."""

    network: Name = "p3d63"
    """Network to time."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Precisions to time."""
    compile: bool = False
    """Also time the compiled network."""
    backends: tuple[Backend, ...] = ()
    """Also time clips of videos (uint8) by these backends, and print their compile and load
    times."""
    training: bool = True
    """Also time training steps."""
    frames: int = 16
    """Frames in a clip."""
    size: int = 160
    """Height and width of a clip, in pixels."""
    batch_size: int = 1
    """Clips in an inference batch."""
    training_batch_size: int = 2
    """Clips in a training batch."""
    rounds: int = 5
    """Timed calls of each candidate, of which the median counts."""
    device: DeviceName = "auto"
    """Device to run on."""
    threads: int | None = None
    """CPU threads; by default PyTorch's choice, usually one per core."""
    out: Path | None = None
    """JSON file for the figures."""


_PAUSE = 0.2
"""Seconds before each timed call."""


@dataclass(frozen=True)
class Candidate:
    """A network to time; `call` processes one batch."""

    name: str
    precision: Precision
    call: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Median time of a candidate for one clip, in seconds."""

    task: str
    name: str
    precision: Precision
    seconds_per_clip: float


def time_in_turns(
    candidates: list[Candidate], rounds: int, device: torch.device
) -> dict[tuple[str, Precision], float]:
    """Return the median seconds of a call by name and precision, after one warm-up call each.

    A pause before each call lets the threads of another runtime fall asleep: after their work they
    wait busily for a while, which doubled the time of the candidate that came next.
    """
    for candidate in candidates:
        set_precision(device, candidate.precision)
        candidate.call()
    times: dict[tuple[str, Precision], list[float]] = {}
    for _ in range(rounds):
        for candidate in candidates:
            set_precision(device, candidate.precision)
            synchronize(device)
            time.sleep(_PAUSE)
            started = time.perf_counter()
            candidate.call()
            synchronize(device)
            seconds = time.perf_counter() - started
            times.setdefault((candidate.name, candidate.precision), []).append(seconds)
    return {key: statistics.median(values) for key, values in times.items()}


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
        frames = _channels_last(clips).to(DTYPES[precision])
        candidates.append(Candidate("plain", precision, _forward(plain, clips, precision)))
        candidates.append(Candidate("p3d", precision, _forward(folded, frames, "fp32")))
        if options.compile:
            call = _forward(torch.compile(folded), frames, "fp32")
            candidates.append(Candidate("p3d compiled", precision, call))
    return candidates


def _backends(
    options: ModelBenchOptions, device: torch.device, folder: Path
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates by backend, and a line about each."""
    config = P3DConfig(options.network, 101, dropout=0.0)
    model = P3D(config)
    model.load_state_dict(convert_state_dict(plain_twin(config).state_dict()))
    model.preprocessing = replace(
        model.preprocessing,
        num_frames=options.frames,
        crop=options.size,
        resize=(options.size, options.size),
    )
    clips = noise_clip(config, options.frames, options.size).repeat(options.batch_size, 1, 1, 1, 1)
    candidates, lines = [], []
    for precision, backend in product(options.precisions, options.backends):
        name = f"{backend} scorer"
        try:
            ready = prepare(backend, model, clips, precision, device, folder)
        except UserError as error:
            lines.append(f"{precision} {name}: not timed: {error}")
            continue
        candidates.append(Candidate(name, precision, ready.call))
        lines.append(
            f"{precision} {name}: compiled or exported in {ready.compile_seconds:.1f} s, loaded in "
            f"{ready.load_seconds:.2f} s"
        )
    return candidates, lines


def _forward(
    net: Callable[[Tensor], Tensor], clips: Tensor, precision: Precision
) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode(), autocast(clips.device, precision):
            return net(clips)

    return call


def _training(options: ModelBenchOptions, device: torch.device) -> list[Candidate]:
    """Return training steps without the optimizer, which is the same for all."""
    config = P3DConfig(options.network, 101, dropout=0.0)
    clips = _clips(options, options.training_batch_size, device)
    labels = torch.arange(options.training_batch_size, device=device)
    frames = _channels_last(clips)
    plain, ours, frozen = plain_twin(config).to(device), P3D(config).to(device), P3D(config)
    freeze(frozen, replace(UCF101, norms="freeze-but-first"))
    frozen.to(device).train()
    candidates = []
    for precision in options.precisions:
        nets: dict[str, tuple[nn.Module, Tensor]] = {
            "plain": (plain, clips),
            "p3d": (ours, frames),
            "p3d, all BN frozen but the first": (frozen, frames),
        }
        if options.compile:
            nets["p3d compiled"] = (cast(nn.Module, torch.compile(ours)), frames)
        for name, (net, batch) in nets.items():
            candidates.append(Candidate(name, precision, _step(net, batch, labels, precision)))
    return candidates


def _step(
    net: nn.Module,
    clips: Tensor,
    labels: Tensor,
    precision: Precision,
) -> Callable[[], None]:
    def call() -> None:
        net.zero_grad(set_to_none=True)
        with autocast(clips.device, precision):
            logits = net(clips)
        F.cross_entropy(logits.float(), labels).backward()

    return call


def _clips(options: ModelBenchOptions, batch: int, device: torch.device) -> Tensor:
    return torch.randn(batch, 3, options.frames, options.size, options.size, device=device)


def _channels_last(clips: Tensor) -> Tensor:
    """Copy clips to the memory order of `normalize`, which is that of decoded frames."""
    return clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)


@dataclass(frozen=True)
class ModelBench:
    """Result of `bench_model`.

    Attributes:
        timings: One for each candidate and task.
        lines: How the backends were prepared.
        matrix_rates: Operations a second of a matrix product, by precision.
    """

    timings: list[Timing]
    lines: list[str]
    matrix_rates: dict[Precision, float]


def bench_model(options: ModelBenchOptions) -> ModelBench:
    """Time the networks.

    Raises:
        UserError: A number is below 1, or the device is not available.
    """
    if min(options.rounds, options.batch_size, options.training_batch_size) < 1:
        raise UserError("--rounds and the batch sizes must be 1 or more")
    set_up_cpu(options.threads)
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        more, lines = _backends(options, device, Path(folder))
        inference = [*_inference(options, device), *more]
        timings = _time("inference", inference, options.batch_size, options, device)
        rates = {precision: matrix_rate(device, precision) for precision in options.precisions}
    if options.training:
        batch = options.training_batch_size
        timings += _time("training", _training(options, device), batch, options, device)
    return ModelBench(timings, lines, rates)


def _time(
    task: str,
    candidates: list[Candidate],
    batch: int,
    options: ModelBenchOptions,
    device: torch.device,
) -> list[Timing]:
    medians = time_in_turns(candidates, options.rounds, device)
    return [
        Timing(task, name, precision, seconds / batch)
        for (name, precision), seconds in medians.items()
    ]


def run(options: ModelBenchOptions) -> None:
    """Time the networks, print a table, and write the figures to `--out`."""
    bench = bench_model(options)
    timings = bench.timings
    device = describe_device(resolve_device(options.device))
    clip = f"{options.frames}x{options.size}x{options.size}"
    print(f"{options.network}, {clip}, {device}, torch {torch.__version__}, {date.today()}")
    for precision, rate in bench.matrix_rates.items():
        print(f"{precision} product of two 2048x2048 matrices: {rate / 1e9:.0f} GFLOP/s")
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
            "backends": bench.lines,
        }
        write_json(options.out, figures)


def _table(bench: ModelBench, options: ModelBenchOptions) -> str:
    """Return times, speed-ups, and the part of the matrix rate that each candidate reaches.

    A training step counts as three forward passes.
    """
    config = P3DConfig(options.network, 101)
    macs = sum(part.macs for part in stages(config, frames=options.frames, size=options.size))
    operations = {"inference": 2 * macs, "training": 6 * macs}
    timings, base = bench.timings, options.precisions[0]
    plain = {(t.task, t.precision): t.seconds_per_clip for t in timings if t.name == "plain"}
    header = ("", "ms/clip", f"over plain {base}", "over plain", "of the matrix rate")
    rows = [
        (
            f"{t.task} {t.precision} {t.name}",
            f"{1000 * t.seconds_per_clip:.1f}",
            f"{plain[t.task, base] / t.seconds_per_clip:.2f}",
            f"{plain[t.task, t.precision] / t.seconds_per_clip:.2f}",
            format_percent(
                operations[t.task] / t.seconds_per_clip / bench.matrix_rates[t.precision]
            ),
        )
        for t in timings
    ]
    return format_table(header, rows)
