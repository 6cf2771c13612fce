"""`p3d bench`: how fast the network is on this machine, as ratios from one run.

The yardstick is the network as everybody else writes it, `nn.Conv3d` over `(N, C, T, H, W)` with
autocast for lower precisions (`p3d.model.plain`). Candidates are timed in turns, round after round,
so that a machine that slows down slows all of them; the median round counts.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.errors import UserError
from p3d.model.network import P3D, Name, P3DConfig, fold_norms
from p3d.model.plain import plain_twin
from p3d.system.device import (
    DTYPES,
    DeviceName,
    Precision,
    autocast,
    describe_device,
    resolve_device,
    set_precision,
    synchronize,
)
from p3d.system.files import write_json
from p3d.system.text import format_table
from p3d.weights.loading import convert_state_dict


@dataclass(frozen=True)
class ModelBenchOptions:
    """Time inference and training against the plain Conv3d network, in one run."""

    network: Name = "p3d63"
    """Depth of the network."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Which to time."""
    compile: bool = False
    """Time the compiled network too."""
    training: bool = True
    """Time training steps too."""
    frames: int = 16
    """Frames in a clip."""
    size: int = 160
    """Height and width of a clip, in pixels."""
    batch_size: int = 1
    """Clips in a batch of inference."""
    training_batch_size: int = 2
    """Clips in a batch of training."""
    rounds: int = 5
    """Timed calls of each candidate; the median counts."""
    device: DeviceName = "auto"
    """Where to compute."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class Candidate:
    """Something to time: a name, its precision, and a call that works on one batch."""

    name: str
    precision: Precision
    call: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """The median seconds that a candidate takes for a clip."""

    task: str
    name: str
    precision: Precision
    seconds_per_clip: float


def time_in_turns(
    candidates: list[Candidate], rounds: int, device: torch.device
) -> dict[tuple[str, Precision], float]:
    """Median seconds of each candidate's calls, by name and precision, after one warm-up each."""
    for candidate in candidates:
        set_precision(device, candidate.precision)
        candidate.call()
    times: dict[tuple[str, Precision], list[float]] = {}
    for _ in range(rounds):
        for candidate in candidates:
            set_precision(device, candidate.precision)
            synchronize(device)
            started = time.perf_counter()
            candidate.call()
            synchronize(device)
            seconds = time.perf_counter() - started
            times.setdefault((candidate.name, candidate.precision), []).append(seconds)
    return {key: statistics.median(values) for key, values in times.items()}


def _inference(options: ModelBenchOptions, device: torch.device) -> list[Candidate]:
    """Plain, ours as `Predictor` runs it, and ours compiled, with the same weights."""
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
        views = _channels_last(clips).to(DTYPES[precision])
        candidates.append(Candidate("plain", precision, _forward(plain, clips, precision)))
        candidates.append(Candidate("p3d", precision, _forward(folded, views, "fp32")))
        if options.compile:
            compiled = torch.compile(folded)
            name = "p3d compiled"
            candidates.append(Candidate(name, precision, _forward(compiled, views, "fp32")))
    return candidates


def _forward(
    net: Callable[[Tensor], Tensor], clips: Tensor, precision: Precision
) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode(), autocast(clips.device, precision):
            return net(clips)

    return call


def _training(options: ModelBenchOptions, device: torch.device) -> list[Candidate]:
    """A step of plain and of ours: forward, backward, no optimiser (it is the same for both)."""
    config = P3DConfig(options.network, 101, dropout=0.0)
    clips = _clips(options, options.training_batch_size, device)
    labels = torch.arange(options.training_batch_size, device=device)
    views = _channels_last(clips)
    plain, ours = plain_twin(config).to(device), P3D(config).to(device)
    candidates = []
    for precision in options.precisions:
        nets: dict[str, tuple[nn.Module, Tensor]] = {"plain": (plain, clips), "p3d": (ours, views)}
        if options.compile:
            nets["p3d compiled"] = (cast(nn.Module, torch.compile(ours)), views)
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
    """The same clips in the memory order of a decoder's frames, as `normalize` puts them out."""
    return clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)


def bench_model(options: ModelBenchOptions) -> list[Timing]:
    """Time what the options name.

    Raises:
        UserError: A number is below 1, or the device is not there.
    """
    if min(options.rounds, options.batch_size, options.training_batch_size) < 1:
        raise UserError("--rounds and the batch sizes must be 1 or more")
    device = resolve_device(options.device)
    tasks = [("inference", _inference, options.batch_size)]
    if options.training:
        tasks.append(("training", _training, options.training_batch_size))
    timings = []
    for task, build, batch in tasks:
        medians = time_in_turns(build(options, device), options.rounds, device)
        timings += [
            Timing(task, name, precision, seconds / batch)
            for (name, precision), seconds in medians.items()
        ]
    return timings


def run(options: ModelBenchOptions) -> None:
    """Carry out `p3d bench model`: time, print, and write what `--out` asks for."""
    timings = bench_model(options)
    base = {
        timing.task: timing.seconds_per_clip
        for timing in timings
        if timing.name == "plain" and timing.precision == options.precisions[0]
    }
    own = {(t.task, t.precision): t.seconds_per_clip for t in timings if t.name == "plain"}
    device = describe_device(resolve_device(options.device))
    print(f"{options.network}, {options.frames}x{options.size}x{options.size}, {device}, ", end="")
    print(f"torch {torch.__version__}, {date.today()}")
    header = ("", "ms a clip", f"times plain {options.precisions[0]}", "times plain alike")
    rows = [
        (
            f"{t.task} {t.precision} {t.name}",
            f"{1000 * t.seconds_per_clip:.1f}",
            f"{base[t.task] / t.seconds_per_clip:.2f}",
            f"{own[t.task, t.precision] / t.seconds_per_clip:.2f}",
        )
        for t in timings
    ]
    print(format_table(header, rows))
    if options.out is not None:
        figures = {
            "date": str(date.today()),
            "device": device,
            "processor": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "options": asdict(options),
            "timings": [asdict(timing) for timing in timings],
        }
        write_json(options.out, figures)
