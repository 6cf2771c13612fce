"""Plan of a training run: parameter groups, frozen layers, learning rate, disk and memory.

Learning rates come from the schedule that training uses, and activations are counted (see
`p3d.training.memory`), so the plan needs no formulas that could disagree with the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from p3d.model.network import P3D
from p3d.run_folder import BEST_FILE, LAST_FILE
from p3d.system.device import Precision
from p3d.system.text import format_table
from p3d.training.memory import Memory, step_memory, trained_bytes, weight_bytes
from p3d.training.optim import ParameterGroup, build_optimizer, build_schedule, parameter_groups
from p3d.training.recipes import Recipe

POINTS = 10
"""Largest number of rows in the table of learning rates."""


@dataclass(frozen=True)
class GroupPlan:
    """A parameter group at the start of training.

    Attributes:
        name: Name of the group.
        tensors: Number of its tensors.
        parameters: Number of its parameters.
        lr: Learning rate of the first step.
        lr_mult: Multiplier of the recipe's learning rate.
        weight_decay: L2 penalty.
    """

    name: str
    tensors: int
    parameters: int
    lr: float
    lr_mult: float
    weight_decay: float


@dataclass(frozen=True)
class LrPoint:
    """Learning rate for a multiplier of 1, at one step and until the next point.

    Attributes:
        step: The step, from 1.
        epoch: Its epoch, from 1.
        lr: Learning rate of this step.
        lowest: Lowest learning rate from here to the next point.
        highest: Highest learning rate from here to the next point.
    """

    step: int
    epoch: int
    lr: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Plan:
    """Plan of a run.

    Attributes:
        groups: The trained parameter groups.
        frozen_tensors: Number of tensors that are not trained.
        frozen_parameters: Number of their parameters.
        frozen_norms: Batch normalizations that keep their statistics.
        norms: All batch normalizations.
        schedule: Name of the schedule.
        points: Learning rate over the run.
        steps_per_epoch: Optimizer steps in an epoch.
        steps: Optimizer steps of the run.
        clips_per_step: Description of a step's clips.
        best_bytes: Size of the saved network.
        checkpoint_bytes: Size of a checkpoint: the network, its average and the momentum.
        memory: Memory of a step.
    """

    groups: tuple[GroupPlan, ...]
    frozen_tensors: int
    frozen_parameters: int
    frozen_norms: int
    norms: int
    schedule: str
    points: tuple[LrPoint, ...]
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
    device: torch.device,
) -> Plan:
    """Make the plan of a run.

    Args:
        model: The network, frozen as the recipe says; on any device.
        recipe: How it will be trained.
        clips_per_step: Clips of an optimizer step over all ranks.
        processes: Number of ranks.
        steps_per_epoch: Optimizer steps in an epoch.
        steps: Optimizer steps of the whole run.
        precision: Arithmetic of the forward pass.
        device: Where the network will be trained.

    Raises:
        UserError: The clips are too small for the network.
    """
    groups = parameter_groups(model, recipe)
    frozen = [p for p in model.parameters() if not p.requires_grad]
    best_bytes, checkpoint_bytes = disk_bytes(model, recipe)
    return Plan(
        _plan_groups(groups, recipe, steps_per_epoch, steps),
        len(frozen),
        sum(p.numel() for p in frozen),
        len(model.frozen_norms),
        sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()),
        recipe.schedule,
        lr_points(recipe, steps_per_epoch, steps),
        steps_per_epoch,
        steps,
        describe_step(clips_per_step, recipe.batch_size, processes),
        best_bytes,
        checkpoint_bytes,
        step_memory(model, recipe, precision, device),
    )


def describe_step(clips: int, batch_size: int, processes: int) -> str:
    """Describe the clips of an optimizer step and how they are divided into batches."""
    suffix = f" on each of {processes} processes" if processes > 1 else ""
    return f"{clips} clips, {min(batch_size, clips)} at a time{suffix}"


def disk_bytes(model: P3D, recipe: Recipe) -> tuple[int, int]:
    """Return the sizes in bytes of the saved network and of a checkpoint (with momentum)."""
    networks = 2 if recipe.average_epochs else 1
    weights = weight_bytes(model)
    return weights, networks * weights + (trained_bytes(model) if recipe.momentum else 0)


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
            group.lr_mult,
            group.weight_decay,
        )
        for group, settings in zip(groups, optimizer.param_groups, strict=True)
    )


def lr_points(recipe: Recipe, steps_per_epoch: int, steps: int) -> tuple[LrPoint, ...]:
    """Return the learning rate over a run, for a multiplier of 1.

    Args:
        recipe: The schedule and its parameters.
        steps_per_epoch: Optimizer steps in an epoch.
        steps: Optimizer steps of the whole run.

    Returns:
        At most ten evenly spaced points, including the first and the last step.
    """
    lrs = _lrs(recipe, steps_per_epoch, steps)
    count = min(POINTS, steps)
    starts = [round(i * (steps - 1) / max(1, count - 1)) for i in range(count)]
    points = []
    for start, end in zip(starts, [*starts[1:], steps], strict=True):
        part = lrs[start:end]
        points.append(
            LrPoint(start + 1, start // steps_per_epoch + 1, part[0], min(part), max(part))
        )
    return tuple(points)


def _lrs(recipe: Recipe, steps_per_epoch: int, steps: int) -> list[float]:
    group = ParameterGroup("base", (nn.Parameter(torch.zeros(1)),), 1.0, 0.0)
    optimizer = build_optimizer([group], recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch, steps)
    optimizer.step()  # changes nothing; PyTorch warns if the schedule advances before it
    lrs = []
    for _ in range(steps):
        lrs.append(float(optimizer.param_groups[0]["lr"]))
        schedule.step()
    return lrs


def render(plan: Plan) -> str:
    """Return the plan as plain text."""
    groups = [
        (
            group.name,
            group.tensors,
            f"{group.parameters:,}",
            f"{group.lr:.3g}",
            f"x{group.lr_mult:g}",
            f"{group.weight_decay:g}",
        )
        for group in plan.groups
    ]
    points = [
        (point.step, point.epoch, f"{point.lr:.3g}", f"{point.lowest:.3g} - {point.highest:.3g}")
        for point in plan.points
    ]
    epochs = -(-plan.steps // plan.steps_per_epoch)
    memory = plan.memory
    parts = ("weights", "gradients", "momentum", "clips", "activations")
    details = ", ".join(f"{part} {_mebibytes(getattr(memory, part))}" for part in parts)
    header = ("group", "tensors", "parameters", "first rate", "multiplier", "weight decay")
    return "\n".join(
        [
            format_table(header, groups),
            f"frozen: {plan.frozen_tensors} tensors of {plan.frozen_parameters:,} parameters; "
            f"{plan.frozen_norms} of {plan.norms} BN layers keep their statistics",
            "",
            f"{plan.steps:,} steps of {plan.clips_per_step}; {plan.steps_per_epoch:,} an epoch, "
            f"{epochs:,} epochs",
            f"learning rate ({plan.schedule}), for a multiplier of 1:",
            format_table(("step", "epoch", "rate", "until the next row"), points),
            "",
            f"disk: a checkpoint {plan.checkpoint_bytes / 1e6:.0f} MB, {BEST_FILE} and "
            f"{LAST_FILE} {plan.best_bytes / 1e6:.0f} MB each",
            f"memory on the device: at least {_mebibytes(memory.total)} ({details})",
        ]
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
