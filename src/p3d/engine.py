"""One step of training, and the state that it changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from p3d.data.loader import Batch, TrainLoader
from p3d.errors import UserError
from p3d.metrics import count_correct
from p3d.model import P3D
from p3d.optim import build_optimizer, build_schedule, parameter_groups
from p3d.preprocessing import normalize
from p3d.recipes import Recipe
from p3d.runtime import Precision, autocast, grad_scaler, seed_step
from p3d.weights import metadata_of


@dataclass
class Progress:
    """Where a run stands.

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

    def means(self) -> dict[str, float]:
        """Loss, top-1 and top-5 over the clips of the epoch so far."""
        clips = max(1, self.clips)
        return {"loss": self.loss / clips, "top1": self.top1 / clips, "top5": self.top5 / clips}

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch += 1
        self.step_in_epoch = self.clips = self.top1 = self.top5 = self.bad = 0
        self.loss = 0.0


@dataclass
class Run:
    """A run under way: what a step needs, and what a checkpoint holds.

    Attributes:
        recipe: How the network is trained.
        seed: Determines dropout, step by step.
        precision: Arithmetic of the forward pass.
        device: Where the network lies.
        model: The network.
        forward: The same network, compiled or not.
        optimizer: SGD over the network's parameter groups.
        schedule: The learning rate, step by step.
        scaler: The loss scaler; active in fp16 only.
        total_steps: Optimiser steps of the whole run.
        progress: Where the run stands.
    """

    recipe: Recipe
    seed: int
    precision: Precision
    device: torch.device
    model: P3D
    forward: Any
    optimizer: SGD
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    total_steps: int
    progress: Progress = field(default_factory=Progress)

    @property
    def is_over(self) -> bool:
        """Whether every step has been taken."""
        return self.progress.step >= self.total_steps

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "metadata": metadata_of(self.model, recipe=asdict(self.recipe)),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


def total_steps(recipe: Recipe, loader: TrainLoader) -> int:
    """Optimiser steps of a whole run."""
    steps = recipe.epochs * loader.steps_per_epoch
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def build_run(
    recipe: Recipe,
    model: P3D,
    loader: TrainLoader,
    device: torch.device,
    *,
    seed: int,
    precision: Precision,
    compiled: bool,
) -> Run:
    """Optimiser, schedule and scaler around a network, which moves to the device."""
    model.to(device)
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    steps = total_steps(recipe, loader)
    return Run(
        recipe,
        seed,
        precision,
        device,
        model,
        torch.compile(model) if compiled else model,
        optimizer,
        build_schedule(optimizer, recipe, loader.steps_per_epoch, steps),
        grad_scaler(device, precision),
        steps,
    )


def train_step(run: Run, batches: tuple[Batch, ...]) -> float:
    """One optimiser step on one or more batches; returns the mean loss of their clips.

    Raises:
        UserError: The loss is not a number; the message names the batch's videos by index.
    """
    recipe, progress = run.recipe, run.progress
    clips = sum(len(batch.labels) for batch in batches)
    progress.bad += sum(len(batch.bad) for batch in batches)
    total = 0.0
    for micro, batch in enumerate(batches):
        if len(batch.labels):
            seed_step(run.seed, progress.step * recipe.accumulate + micro)
            total += _accumulate(run, batch, clips)
    if clips:
        run.scaler.unscale_(run.optimizer)
        if recipe.clip_gradients is not None:
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip_gradients)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad(set_to_none=True)
    run.schedule.step()
    progress.step += 1
    progress.step_in_epoch += 1
    progress.clips += clips
    progress.loss += total
    return total / max(1, clips)


def _accumulate(run: Run, batch: Batch, clips_in_step: int) -> float:
    """Add a batch's gradients of the mean loss over the step; returns the sum of its losses."""
    labels = batch.labels.to(run.device, non_blocking=True)
    pixels = normalize(batch.clips.to(run.device, non_blocking=True), run.model.preprocessing)
    with autocast(run.device, run.precision):
        logits: Tensor = run.forward(pixels)
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    value = loss.item()
    if not math.isfinite(value):
        raise UserError(
            f"the loss is {value} at step {run.progress.step} with a learning rate of "
            f"{run.schedule.get_last_lr()[0]:.3g} (videos {batch.indices.tolist()} of the training "
            f"list); lower --lr, or set --clip-gradients"
        )
    run.scaler.scale(loss / clips_in_step).backward()
    run.progress.top1 += count_correct(logits.detach(), labels, 1)
    run.progress.top5 += count_correct(logits.detach(), labels, 5)
    return value


def remaining_steps(run: Run, loader: TrainLoader) -> Iterator[tuple[Batch, ...]]:
    """What is left of the epoch under way, as groups of batches, one group a step."""
    progress = run.progress
    batches = loader.epoch(progress.epoch, progress.step_in_epoch)
    while group := tuple(itertools.islice(batches, loader.batches_per_step)):
        yield group
