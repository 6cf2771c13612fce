"""A training run under way: what a step needs, and what a checkpoint holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from p3d.data.dataset import VideoDataset
from p3d.model.network import P3D
from p3d.system.device import Precision, grad_scaler, set_precision
from p3d.system.distributed import ALONE, Group
from p3d.training.optim import build_optimizer, build_schedule, parameter_groups
from p3d.training.recipes import Recipe
from p3d.weights.metadata import metadata_of


@dataclass
class Progress:
    """Where a run stands; the same on all processes, but for the times.

    Attributes:
        epoch: The epoch under way, from 0.
        step_in_epoch: Optimiser steps done in it.
        step: Optimiser steps done in all.
        best_top1: Best validation accuracy so far, in [0, 1].
        best_epoch: The epoch it came from; None before the first.
        clips: Clips seen in the epoch under way.
        loss: Sum of their losses.
        top1: How many were right.
        top5: How many had the right class among the five best.
        bad: Videos skipped in it.
        overflows: Steps left out in it, as fp16 gradients overflowed.
        seconds: Time spent in its steps.
        waited: How much of that was waiting for clips.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best_top1: float = -1.0
    best_epoch: int | None = None
    clips: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    bad: int = 0
    overflows: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def means(self) -> dict[str, float]:
        """Loss, top-1 and top-5 over the clips of the epoch so far."""
        clips = max(1, self.clips)
        return {"loss": self.loss / clips, "top1": self.top1 / clips, "top5": self.top5 / clips}

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        for item in fields(self):
            if item.name not in ("epoch", "step", "best_top1", "best_epoch"):
                setattr(self, item.name, item.default)
        self.epoch += 1


@dataclass
class Run:
    """A run under way: what a step needs, and what a checkpoint holds.

    Attributes:
        recipe: How the network is trained.
        seed: Determines dropout, step by step.
        precision: Arithmetic of the forward pass.
        device: Where the network lies.
        group: The processes that train together.
        dataset: The training list, to name videos by.
        model: The network.
        forward: The same network, compiled and shared between processes as the case may be.
        optimizer: SGD over the network's parameter groups.
        schedule: The learning rate, step by step.
        scaler: The loss scaler; active in fp16 only.
        clips_per_step: Clips of an optimiser step over all processes.
        total_steps: Optimiser steps of the whole run.
        progress: Where the run stands.
    """

    recipe: Recipe
    seed: int
    precision: Precision
    device: torch.device
    group: Group
    dataset: VideoDataset
    model: P3D
    forward: Any
    optimizer: SGD
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    clips_per_step: int
    total_steps: int
    progress: Progress = field(default_factory=Progress)

    @property
    def all_steps_taken(self) -> bool:
        """Whether nothing is left but to finish the epoch under way."""
        return self.progress.step >= self.total_steps

    @property
    def is_over(self) -> bool:
        """Whether every step has been taken and the last epoch is finished."""
        return self.all_steps_taken and self.progress.step_in_epoch == 0

    @property
    def rate(self) -> float:
        """Learning rate of the next step, of a group without multiplier."""
        for group in self.optimizer.param_groups:
            if group["rate"]:
                return float(group["lr"] / group["rate"])
        return 0.0

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "metadata": metadata_of(self.model, recipe=asdict(self.recipe)),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "clips_per_step": self.clips_per_step,
            "progress": asdict(self.progress),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Optimiser steps of a whole run."""
    steps = recipe.epochs * steps_per_epoch
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def build_run(
    recipe: Recipe,
    model: P3D,
    dataset: VideoDataset,
    device: torch.device,
    *,
    clips_per_step: int,
    steps_per_epoch: int,
    seed: int,
    precision: Precision,
    compiled: bool = False,
    group: Group = ALONE,
) -> Run:
    """Optimiser, schedule and scaler around a network, which moves to the device.

    Args:
        recipe: How the network is trained.
        model: The network, frozen as the recipe says.
        dataset: The training list.
        device: Where to train.
        clips_per_step: Clips of an optimiser step over all processes.
        steps_per_epoch: Optimiser steps in an epoch.
        seed: Determines dropout.
        precision: Arithmetic of the forward pass.
        compiled: Compile the network.
        group: The processes that train together.

    Raises:
        UserError: The device does not have the precision.
    """
    set_precision(device, precision)
    model.to(device)
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    steps = total_steps(recipe, steps_per_epoch)
    forward: Any = torch.compile(model) if compiled else model
    if group.world_size > 1:
        forward = DistributedDataParallel(
            forward,
            device_ids=None if device.index is None else [device.index],
            gradient_as_bucket_view=True,
        )
    schedule = build_schedule(optimizer, recipe, steps_per_epoch, steps)
    # The scaler may leave the first step out, of which PyTorch would warn. This one, without
    # gradients, moves nothing.
    optimizer.step()
    return Run(
        recipe,
        seed,
        precision,
        device,
        group,
        dataset,
        model,
        forward,
        optimizer,
        schedule,
        grad_scaler(device, precision),
        clips_per_step,
        steps,
    )
