"""`p3d bench train`: training steps on random clips, on one device or, under torchrun, on many.

It times the optimizer step of `p3d train`, with gradients summed over the ranks but without a data
set. This gives the rate that data loading must reach, and tests a machine before data is copied.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from p3d.data.dataset import VideoDataset, VideoRecord
from p3d.data.loader import Batch
from p3d.errors import UserError
from p3d.model.config import CHANNELS, Modality
from p3d.system.device import (
    describe_device,
    peak_memory,
    resolve_device,
    set_up_cpu,
    synchronize,
)
from p3d.system.distributed import Group, join, read_launch
from p3d.system.files import write_json
from p3d.system.machine import describe_machine
from p3d.system.markers import First
from p3d.system.options import DeviceOptions, plain_options
from p3d.system.text import format_table
from p3d.training.network import build_network, prepare_for_training
from p3d.training.recipes import UCF101, QuickRecipe, Recipe
from p3d.training.smallest_batch import check_smallest_batch
from p3d.training.state import TrainState, build_state
from p3d.training.step import train_step

WARM_UP = 2
"""Untimed steps before the timed ones."""


@dataclass(frozen=True)
class TrainBenchOptions:
    """Time training steps on random clips. Every field of the recipe is an option."""

    recipe: Recipe = UCF101
    classes: int = 101
    """Number of classes."""
    modality: Modality = "rgb"
    """RGB frames or optical flow."""
    steps: First[int] = 10
    """Timed steps, after two warm-up steps."""
    compute: DeviceOptions = field(default_factory=DeviceOptions)
    checkpoint_activations: bool = False
    """Save only the input of each block for the backward pass and recompute the rest."""
    sync_norms: bool = False
    """Compute batch normalization's statistics over all processes."""
    out: First[Path | None] = None
    """JSON file for the results."""


def run(options: TrainBenchOptions) -> None:
    """Run `p3d bench train`.

    Raises:
        UserError: An option is out of range, or the device is not available.
    """
    if options.steps < 1:
        raise UserError(f"--steps is {options.steps}; give 1 or more")
    if isinstance(options.recipe, QuickRecipe):
        raise UserError("--recipe quick has no sizes before it sees a data set; choose another")
    launch = read_launch()
    set_up_cpu(options.compute.threads)
    device = resolve_device(options.compute.device, launch.local_rank)
    with join(device, launch) as group:
        state = _build_state(options, device, group)
        seconds = _time_steps(state, options)
        memory = max(group.gather(peak_memory(device)))
        if group.is_main:
            _report(options, state, seconds, memory)


def _build_state(options: TrainBenchOptions, device: torch.device, group: Group) -> TrainState:
    # Without it, activations of random clips may overflow in an untrained network.
    recipe = replace(options.recipe, zero_init_residuals=True)
    class_names = tuple(map(str, range(options.classes)))
    model = build_network(recipe, class_names, modality=options.modality)
    prepare_for_training(
        model,
        recipe,
        sync_norms=options.sync_norms,
        checkpoint_activations=options.checkpoint_activations,
    )
    clips = _clips_per_rank(recipe, group) * group.world_size
    check_smallest_batch(model, min(_batch_sizes(recipe, group)), clips, group.world_size)
    records = tuple(VideoRecord(Path(f"{index}"), 0) for index in range(clips))
    return build_state(
        recipe,
        model,
        VideoDataset(class_names, records),
        device,
        clips_per_step=clips,
        steps_per_epoch=options.steps + WARM_UP,
        seed=0,
        precision=options.compute.precision,
        compiled=options.compute.compile,
        group=group,
    )


def _clips_per_rank(recipe: Recipe, group: Group) -> int:
    """Return the clips of a step on each rank."""
    return -(-recipe.clips_of_step(group.world_size) // group.world_size)


def _batch_sizes(recipe: Recipe, group: Group) -> list[int]:
    """Return the clips of each batch of a step on each rank."""
    size, total = recipe.batch_size, _clips_per_rank(recipe, group)
    return [min(size, total - done) for done in range(0, total, size)]


def _time_steps(state: TrainState, options: TrainBenchOptions) -> list[float]:
    """Return the seconds of each timed step."""
    recipe, device, size = state.recipe, state.device, state.recipe.batch_size
    shape = (size, recipe.num_frames, recipe.crop, recipe.crop, CHANNELS[options.modality])
    clips = torch.randint(0, 256, shape, dtype=torch.uint8)
    indices = torch.arange(size)
    labels = indices % options.classes
    batches = [
        Batch(clips[:count], labels[:count], indices[:count], ())
        for count in _batch_sizes(recipe, state.group)
    ]
    seconds = []
    for step in range(WARM_UP + options.steps):
        synchronize(device)
        start = time.perf_counter()
        train_step(state, batches)
        synchronize(device)
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return seconds


def _report(
    options: TrainBenchOptions, state: TrainState, seconds: list[float], memory: int
) -> None:
    median, processes = statistics.median(seconds), state.group.world_size
    figures = {
        "processes": processes,
        "clips_per_step": state.clips_per_step,
        "seconds_per_step": median,
        "clips_per_second": state.clips_per_step / median,
        "peak_memory_bytes": memory,
    }
    shape = f"{options.recipe.num_frames}x{options.recipe.crop}x{options.recipe.crop}"
    print(
        f"{options.recipe.network}, clips of {shape}, {options.compute.precision}"
        f"{', compiled' if options.compute.compile else ''}, "
        f"{processes} x {describe_device(state.device)}"
    )
    header = ("clips a step", "ms a step", "clips/s", "clips/s a process", "peak memory, MiB")
    rate = state.clips_per_step / median
    row = (
        state.clips_per_step,
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
                "options": plain_options(options),
                "machine": describe_machine(state.device),
            },
        )
