"""What a training run would do: groups, frozen parts, learning rate, disk and memory.

Nothing here is estimated by formulas of its own. Rates come from the very schedule that training
steps through; activations are counted (see `p3d.training.memory`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from p3d.model.network import CHANNELS, P3D
from p3d.run_folder import BEST
from p3d.system.device import Precision
from p3d.system.text import format_table
from p3d.training.memory import activation_bytes
from p3d.training.optim import ParameterGroup, build_optimizer, build_schedule, parameter_groups
from p3d.training.recipes import Recipe

POINTS = 10
"""Rows of the learning rate's table."""


@dataclass(frozen=True)
class GroupPlan:
    """A parameter group as training starts.

    Attributes:
        name: What its parameters are.
        tensors: How many tensors.
        parameters: How many numbers.
        rate: Learning rate at the first step.
        multiplier: Factor on the recipe's learning rate.
        weight_decay: L2 penalty.
    """

    name: str
    tensors: int
    parameters: int
    rate: float
    multiplier: float
    weight_decay: float


@dataclass(frozen=True)
class RatePoint:
    """The learning rate of a group without multiplier, at one step and up to the next point.

    Attributes:
        step: The step, from 1.
        epoch: Its epoch, from 1.
        rate: The rate of this step.
        lowest: The lowest rate from here to the next point.
        highest: The highest.
    """

    step: int
    epoch: int
    rate: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Memory:
    """Bytes that a step holds at once on the device; convolutions need some room on top.

    Attributes:
        weights: Parameters and the statistics of batch normalisation.
        gradients: One number for each that trains.
        momentum: Likewise.
        clips: A batch's pixels, as bytes and as float32.
        activations: What the backward pass needs; in mixed precision with the cast weights.
    """

    weights: int
    gradients: int
    momentum: int
    clips: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.momentum + self.clips + self.activations


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        groups: What trains, and how fast.
        frozen_tensors: How many tensors do not train.
        frozen_parameters: How many numbers that makes.
        frozen_norms: Batch normalisations whose statistics are kept too.
        norms: Batch normalisations in all.
        schedule: Name of the schedule.
        points: The learning rate over the run.
        steps_per_epoch: Optimiser steps in an epoch.
        steps: Optimiser steps in all.
        clips_per_step: Clips a step sees, and how they are computed.
        best_bytes: Size of the saved network.
        checkpoint_bytes: Size of the checkpoint: the network and the momentum.
        memory: What a step holds.
    """

    groups: tuple[GroupPlan, ...]
    frozen_tensors: int
    frozen_parameters: int
    frozen_norms: int
    norms: int
    schedule: str
    points: tuple[RatePoint, ...]
    steps_per_epoch: int
    steps: int
    clips_per_step: str
    best_bytes: int
    checkpoint_bytes: int
    memory: Memory


def make_plan(
    model: P3D,
    recipe: Recipe,
    *,
    clips_per_step: int,
    processes: int,
    steps_per_epoch: int,
    steps: int,
    precision: Precision,
) -> Plan:
    """Find out what a run would do.

    Args:
        model: The network, frozen as the recipe says; on any device.
        recipe: How it is to be trained.
        clips_per_step: Clips of an optimiser step over all processes.
        processes: How many train together.
        steps_per_epoch: Optimiser steps in an epoch.
        steps: Optimiser steps of the whole run.
        precision: Arithmetic of the forward pass.

    Raises:
        UserError: The clips are too small for the network.
    """
    groups = parameter_groups(model, recipe)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    trained = _bytes(p for group in groups for p in group.parameters)
    best_bytes, checkpoint_bytes = disk_bytes(model, recipe)
    prep = model.preprocessing
    pixels = recipe.batch_size * prep.num_frames * prep.crop**2 * CHANNELS[model.config.modality]
    return Plan(
        _plan_groups(groups, recipe, steps_per_epoch, steps),
        len(frozen),
        sum(p.numel() for p in frozen),
        len(model.frozen_norms),
        sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()),
        recipe.schedule,
        rate_points(recipe, steps_per_epoch, steps),
        steps_per_epoch,
        steps,
        describe_step(clips_per_step, recipe.batch_size, processes),
        best_bytes,
        checkpoint_bytes,
        Memory(
            best_bytes,
            trained,
            checkpoint_bytes - best_bytes,
            5 * pixels,
            activation_bytes(model, recipe, precision),
        ),
    )


def describe_step(clips: int, batch_size: int, processes: int) -> str:
    """The clips of an optimiser step, and how they are computed, in words."""
    where = f" on each of {processes} processes" if processes > 1 else ""
    return f"{clips} clips, {min(batch_size, clips)} at a time{where}"


def disk_bytes(model: P3D, recipe: Recipe) -> tuple[int, int]:
    """Sizes of the saved network and of a checkpoint, which holds the momentum as well."""
    weights = _bytes(model.state_dict().values())
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    return weights, weights + (trained if recipe.momentum else 0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _plan_groups(
    groups: tuple[ParameterGroup, ...], recipe: Recipe, steps_per_epoch: int, steps: int
) -> tuple[GroupPlan, ...]:
    optimizer = build_optimizer(groups, recipe)
    build_schedule(optimizer, recipe, steps_per_epoch, steps)
    return tuple(
        GroupPlan(
            group.name,
            len(group.parameters),
            sum(p.numel() for p in group.parameters),
            settings["lr"],
            group.rate,
            group.weight_decay,
        )
        for group, settings in zip(groups, optimizer.param_groups, strict=True)
    )


def rate_points(recipe: Recipe, steps_per_epoch: int, steps: int) -> tuple[RatePoint, ...]:
    """Follow the learning rate of a group without multiplier through a run.

    Args:
        recipe: The schedule and its shape.
        steps_per_epoch: Optimiser steps in an epoch.
        steps: Optimiser steps of the whole run.

    Returns:
        At most ten points at even distances, with the first and the last step.
    """
    rates = _rates(recipe, steps_per_epoch, steps)
    count = min(POINTS, steps)
    places = [round(i * (steps - 1) / max(1, count - 1)) for i in range(count)]
    points = []
    for place, following in zip(places, [*places[1:], steps], strict=True):
        stretch = rates[place:following]
        epoch = place // steps_per_epoch + 1
        points.append(RatePoint(place + 1, epoch, rates[place], min(stretch), max(stretch)))
    return tuple(points)


def _rates(recipe: Recipe, steps_per_epoch: int, steps: int) -> list[float]:
    group = ParameterGroup("base", (nn.Parameter(torch.zeros(1)),), 1.0, 0.0)
    optimizer = build_optimizer([group], recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch, steps)
    optimizer.step()  # without a gradient it moves nothing; PyTorch wants one before the schedule's
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        schedule.step()
    return rates


def render(plan: Plan) -> str:
    """The plan in plain text."""
    groups = [
        (
            group.name,
            group.tensors,
            f"{group.parameters:,}",
            f"{group.rate:.3g}",
            f"x{group.multiplier:g}",
            f"{group.weight_decay:g}",
        )
        for group in plan.groups
    ]
    points = [
        (point.step, point.epoch, f"{point.rate:.3g}", f"{point.lowest:.3g} - {point.highest:.3g}")
        for point in plan.points
    ]
    epochs = -(-plan.steps // plan.steps_per_epoch)
    memory = plan.memory
    parts = ("weights", "gradients", "momentum", "clips", "activations")
    held = ", ".join(f"{part} {_mebibytes(getattr(memory, part))}" for part in parts)
    header = ("group", "tensors", "parameters", "first rate", "multiplier", "weight decay")
    return "\n".join(
        [
            format_table(header, groups),
            f"frozen: {plan.frozen_tensors} tensors of {plan.frozen_parameters:,} parameters; "
            f"{plan.frozen_norms} of {plan.norms} BN layers keep their statistics",
            "",
            f"{plan.steps:,} steps of {plan.clips_per_step}; {plan.steps_per_epoch:,} an epoch, "
            f"{epochs:,} epochs",
            f"schedule {plan.schedule}, for a multiplier of 1:",
            format_table(("step", "epoch", "rate", "until the next row"), points),
            "",
            f"disk: a checkpoint {plan.checkpoint_bytes / 1e6:.0f} MB, {BEST} "
            f"{plan.best_bytes / 1e6:.0f} MB",
            f"memory of the device: at least {_mebibytes(memory.total)} ({held})",
        ]
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
