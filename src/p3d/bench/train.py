"""`p3d bench train`: training steps on made-up clips, on one device or, under torchrun, on many.

What it times is training's own step, with its gradients added up over the processes, but no data
set: the rate that loading has to keep up with, and a check of a machine before anything is copied
to it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import Batch
from p3d.errors import UserError
from p3d.model.network import CHANNELS, Modality, create_model, zero_init_residuals
from p3d.model.sync_batchnorm import synchronize_norms
from p3d.system.device import (
    DeviceName,
    Precision,
    describe_device,
    peak_memory,
    resolve_device,
    synchronize,
)
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import write_json
from p3d.system.machine import describe_machine
from p3d.system.text import format_table
from p3d.training.optim import freeze
from p3d.training.recipes import UCF101, Recipe
from p3d.training.state import Run, build_run
from p3d.training.step import train_step

WARM_UP = 2
"""Steps before the timed ones."""


@dataclass(frozen=True)
class TrainBenchOptions:
    """Time training steps on made-up clips. Every field of the recipe is an option of its own."""

    recipe: Recipe = UCF101
    classes: int = 101
    """Classes of the network."""
    modality: Modality = "rgb"
    """Frames, or optical flow."""
    steps: int = 10
    """Timed steps, after two to warm up."""
    device: DeviceName = "auto"
    """Where to compute."""
    precision: Precision = "fp32"
    """Arithmetic: fp32 (IEEE, no TF32), tf32, or mixed precision with bf16 or fp16."""
    compile: bool = False
    """Compile the network first."""
    checkpoint_activations: bool = False
    """Keep only each block's input for the gradient and compute the rest twice."""
    sync_norms: bool = False
    """Take batch normalisation's statistics over all processes."""
    out: Path | None = None
    """JSON file for the figures."""


def run(options: TrainBenchOptions) -> None:
    """Carry out `p3d bench train`.

    Raises:
        UserError: The options do not fit, or the device is not there.
    """
    if options.steps < 1:
        raise UserError(f"--steps is {options.steps}; give 1 or more")
    launch = read_launch()
    device = resolve_device(options.device, launch.local_rank)
    with join(device, launch) as group:
        job = _build(options, device, group)
        seconds = _time(job, options)
        memory = max(group.gather(peak_memory(device)))
        if group.is_main:
            _tell(options, job, seconds, memory)


def _build(options: TrainBenchOptions, device: torch.device, group: Group) -> Run:
    recipe = options.recipe
    model = create_model(
        recipe.network,
        num_classes=options.classes,
        modality=options.modality,
        dropout=recipe.dropout,
    )
    zero_init_residuals(model)  # noise that a fresh network amplifies could end in infinities
    if options.sync_norms:
        synchronize_norms(model)
    freeze(model, recipe)
    model.checkpoint_activations = options.checkpoint_activations
    model.train()
    clips = _share(recipe, group) * group.world_size
    names = tuple(map(str, range(options.classes)))
    made_up = VideoDataset(names, tuple(VideoRecord(Path(f"{n}"), 0) for n in range(clips)))
    return build_run(
        recipe,
        model,
        made_up,
        device,
        clips_per_step=clips,
        steps_per_epoch=options.steps + WARM_UP,
        seed=0,
        precision=options.precision,
        compiled=options.compile,
        group=group,
    )


def _share(recipe: Recipe, group: Group) -> int:
    """Clips of a step on each process."""
    return -(-recipe.clips_of_step(group.world_size) // group.world_size)


def _time(job: Run, options: TrainBenchOptions) -> list[float]:
    """Seconds of each timed step."""
    recipe, device = options.recipe, job.device
    clips = torch.randint(
        0,
        256,
        (
            recipe.batch_size,
            recipe.num_frames,
            recipe.crop,
            recipe.crop,
            CHANNELS[options.modality],
        ),
        dtype=torch.uint8,
    )
    places = torch.arange(recipe.batch_size)
    labels = places % options.classes
    share = _share(recipe, job.group)
    sizes = [min(recipe.batch_size, share - done) for done in range(0, share, recipe.batch_size)]
    batches = [Batch(clips[:size], labels[:size], places[:size], ()) for size in sizes]
    seconds = []
    for step in range(WARM_UP + options.steps):
        synchronize(device)
        started = time.perf_counter()
        train_step(job, batches)
        synchronize(device)
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    return seconds


def _tell(options: TrainBenchOptions, job: Run, seconds: list[float], memory: int) -> None:
    median, processes = statistics.median(seconds), job.group.world_size
    figures = {
        "processes": processes,
        "clips_per_step": job.clips_per_step,
        "seconds_per_step": median,
        "clips_per_second": job.clips_per_step / median,
        "peak_memory_bytes": memory,
    }
    shape = f"{options.recipe.num_frames}x{options.recipe.crop}x{options.recipe.crop}"
    print(
        f"{options.recipe.network}, clips of {shape}, {options.precision}"
        f"{', compiled' if options.compile else ''}, {processes} x {describe_device(job.device)}"
    )
    header = ("clips a step", "ms a step", "clips/s", "clips/s a process", "peak memory, MiB")
    rate = job.clips_per_step / median
    row = (
        job.clips_per_step,
        f"{1000 * median:.1f}",
        f"{rate:.2f}",
        f"{rate / processes:.2f}",
        f"{memory / 2**20:,.0f}",
    )
    print(format_table(header, [row]))
    if options.out is not None:
        write_json(
            options.out,
            {
                "figures": figures,
                "seconds": seconds,
                "options": asdict(options),
                "machine": describe_machine(job.device),
            },
        )
