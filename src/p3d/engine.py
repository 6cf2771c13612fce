"""One step of training, and the state that it changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from p3d.data.loader import Batch, TrainLoader
from p3d.data.manifest import VideoDataset
from p3d.distributed import ALONE, Group
from p3d.dropout import dropout_masks
from p3d.errors import UserError, printable
from p3d.metrics import count_correct
from p3d.model import FEATURES, P3D
from p3d.optim import build_optimizer, build_schedule, parameter_groups
from p3d.preprocessing import normalize
from p3d.recipes import Recipe
from p3d.runtime import Precision, autocast, grad_scaler, set_precision
from p3d.sync_norm import SyncNorm
from p3d.weights import metadata_of

SMALLEST_SCALE = 2.0**-10
"""A loss scale below this means that fp16 gradients overflow whatever the scale."""


@dataclass
class Progress:
    """Where a run stands; the same on all processes.

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


@dataclass(frozen=True)
class Step:
    """What one step found.

    Attributes:
        clips: Clips over all processes.
        loss: Mean of their losses; NaN where there were none, as of the two shares.
        top1: Share of them that are right.
        top5: Share with the right class among the five best.
        gradient_norm: Of all gradients together, before any clipping.
        rate: Learning rate of a group without multiplier.
    """

    clips: int
    loss: float
    top1: float
    top5: float
    gradient_norm: float
    rate: float


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


def train_step(run: Run, batches: Sequence[Batch]) -> Step:
    """One optimiser step on this process's batches of it.

    Raises:
        UserError: The loss or a gradient is not a number; the message names the batch's videos. The
            network's weights are still those of the step before.
    """
    progress, group = run.progress, run.group
    found = group.total(
        [sum(len(batch.labels) for batch in batches), sum(len(batch.bad) for batch in batches)]
    )
    clips, rate, norm = int(found[0]), run.rate, 0.0
    sums = [0.0, 0.0, 0.0]
    if clips:
        for micro, batch in enumerate(batches):
            with _gradients_kept(run, last=micro == len(batches) - 1):
                sums = [a + b for a, b in zip(sums, _accumulate(run, batch, clips), strict=True)]
        _check_finite(run, batches, sums[0], "loss")
        sums = group.total(sums)
        if not math.isfinite(sums[0]):
            raise UserError("the loss of another process is not a number; its message says more")
        norm = _descend(run, batches)
    run.schedule.step()
    progress.step += 1
    progress.step_in_epoch += 1
    progress.clips += clips
    progress.bad += int(found[1])
    progress.loss += sums[0]
    progress.top1 += int(sums[1])
    progress.top5 += int(sums[2])
    loss, top1, top5 = (part / clips if clips else math.nan for part in sums)
    return Step(clips, loss, top1, top5, norm, rate)


def _gradients_kept(run: Run, *, last: bool) -> AbstractContextManager[None]:
    """Of a step's batches only the last one adds gradients up over the processes."""
    if last or not isinstance(run.forward, DistributedDataParallel):
        return nullcontext()
    return run.forward.no_sync()


def _accumulate(run: Run, batch: Batch, clips_in_step: int) -> list[float]:
    """Add a batch's gradients of the mean loss over the step's clips.

    A process without clips takes part with an empty batch, as the others wait for its gradients.

    Returns:
        The sum of the batch's losses, and how many clips are right by their best and five best.
    """
    is_empty = not len(batch.labels)
    if is_empty and run.group.world_size == 1:
        return [0.0, 0.0, 0.0]
    if is_empty:
        _keep_statistics(run.model)
    probability = run.model.config.dropout
    masks = dropout_masks(
        run.seed, run.progress.step, batch.indices.tolist(), FEATURES, probability
    )
    labels = batch.labels.to(run.device, non_blocking=True)
    pixels = normalize(batch.clips.to(run.device, non_blocking=True), run.model.preprocessing)
    with autocast(run.device, run.precision):
        logits: Tensor = run.forward(pixels, masks.to(run.device, non_blocking=True))
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    # The gradients of the processes are averaged: the factor makes a sum of that.
    run.scaler.scale(loss * (run.group.world_size / clips_in_step)).backward()
    if is_empty:
        run.model.train()
        return [0.0, 0.0, 0.0]
    answers = logits.detach()
    return [loss.item(), *(float(count_correct(answers, labels, k)) for k in (1, 5))]


def _keep_statistics(model: P3D) -> None:
    """An empty batch has no statistics, unless those of all processes are taken together."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not isinstance(module, SyncNorm):
            module.eval()


def _descend(run: Run, batches: Sequence[Batch]) -> float:
    """Move the weights along the gradients; returns the gradients' norm."""
    scaler, limit = run.scaler, run.recipe.clip_gradients
    scaler.unscale_(run.optimizer)
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, math.inf if limit is None else limit))
    if not scaler.is_enabled():
        _check_finite(run, batches, norm, "norm of the gradients")
    scale = scaler.get_scale()
    scaler.step(run.optimizer)
    scaler.update()
    if scaler.get_scale() < scale:
        run.progress.overflows += 1
    if scaler.get_scale() < SMALLEST_SCALE:
        raise UserError(
            f"fp16 gradients overflow at step {run.progress.step + 1} whatever the loss scale; use "
            "--precision bf16 or fp32, or a lower --lr"
        )
    run.optimizer.zero_grad(set_to_none=True)
    return norm


def _check_finite(run: Run, batches: Sequence[Batch], value: float, what: str) -> None:
    """Stop before a step that would spoil the weights."""
    if math.isfinite(value):
        return
    places = [place for batch in batches for place in batch.indices.tolist()]
    paths = [printable(run.dataset.records[place].path) for place in places]
    named = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    raise UserError(
        f"the {what} is {value} at step {run.progress.step + 1} of epoch {run.progress.epoch + 1} "
        f"with a learning rate of {run.rate:.3g}, on {named}; the checkpoint before it is kept: "
        "lower --lr, set --clip-gradients, or look at these videos"
    )


def remaining_steps(run: Run, loader: TrainLoader) -> Iterator[tuple[Batch, ...]]:
    """What is left of the epoch under way: this process's batches, step by step."""
    batches = loader.epoch(run.progress.epoch, run.progress.step_in_epoch)
    while group := tuple(itertools.islice(batches, loader.batches_per_step)):
        yield group
