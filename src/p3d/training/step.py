"""One step of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from p3d.data.loader import Batch, TrainLoader
from p3d.errors import UserError, printable
from p3d.evaluation.metrics import correct_among_best
from p3d.model.network import FEATURES, P3D
from p3d.model.sync_batchnorm import SyncNorm
from p3d.preprocessing import normalize
from p3d.system.device import autocast
from p3d.training.state import Run

SMALLEST_SCALE = 2.0**-10
"""A loss scale below this means that fp16 gradients overflow whatever the scale."""


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
        parts = []
        for micro, batch in enumerate(batches):
            with _gradients_kept(run, last=micro == len(batches) - 1):
                parts.append(_accumulate(run, batch, clips))
        # The one place of a step's forward and backward passes that waits for the device.
        sums = torch.stack(parts).sum(0).tolist()
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


def _accumulate(run: Run, batch: Batch, clips_in_step: int) -> Tensor:
    """Add a batch's gradients of the mean loss over the step's clips.

    A process without clips takes part with an empty batch, as the others wait for its gradients.

    Returns:
        float32 `(3,)` on the device: the sum of the batch's losses, and how many clips are right by
        their best and by their five best.
    """
    is_empty = not len(batch.labels)
    if is_empty and run.group.world_size == 1:
        return torch.zeros(3, device=run.device)
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
    found = [correct_among_best(logits.detach(), labels, k) for k in (1, 5)]
    return torch.stack([loss.detach(), *(number.float() for number in found)])


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
    new_scale = scaler.get_scale()
    if new_scale < scale:
        run.progress.overflows += 1
    if new_scale < SMALLEST_SCALE:
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


def dropout_masks(
    seed: int, step: int, videos: Iterable[int], features: int, probability: float
) -> Tensor:
    """Factors for the features of a batch's clips: 0 with the given probability, or else 1/(1-p).

    Args:
        seed: The run's seed, >= 0.
        step: The optimiser step, >= 0.
        videos: The clips' videos, by their places in the training list.
        features: Features of a clip.
        probability: Of dropping a feature, in [0, 1).

    Returns:
        float32 `(number of videos, features)`. Two clips of a video in one step share their mask.
    """
    keep = 1.0 - probability
    rows = [
        np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(step, video, 0)))
        ).random(features, dtype=np.float32)
        < keep
        for video in videos
    ]
    kept = torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, features))
    return kept / keep
