"""One optimizer step of training, and its dropout."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from p3d.data.loader import Batch
from p3d.errors import UserError, printable
from p3d.model.config import FEATURES
from p3d.preprocessing import normalize
from p3d.scores.accuracy import correct_among_best
from p3d.system.device import autocast
from p3d.training.smallest_batch import forward_batch, freeze_statistics
from p3d.training.state import TrainState

SMALLEST_SCALE = 2.0**-10
"""A loss scale below this means that fp16 gradients overflow at any scale."""


@dataclass(frozen=True)
class Step:
    """Metrics of one optimizer step.

    Attributes:
        clips: Clips over all ranks.
        loss: Mean of their cross-entropies, without class weights and label smoothing; NaN without
            clips, as are top1 and top5.
        top1: Fraction of clips whose best class is right.
        top5: Fraction with the right class among the five best.
        gradient_norm: Norm of all gradients together, before clipping.
        lr: Learning rate for a multiplier of 1.
    """

    clips: int
    loss: float
    top1: float
    top5: float
    gradient_norm: float
    lr: float


def train_step(state: TrainState, batches: Sequence[Batch]) -> Step:
    """Run one optimizer step on this rank's batches.

    Raises:
        UserError: The loss or a gradient is not finite; the message names the videos of the
            batches. The weights are unchanged.
    """
    progress, group = state.progress, state.group
    counts = group.total(
        [sum(len(batch.labels) for batch in batches), sum(len(batch.bad) for batch in batches)]
    )
    state.in_step = True
    clips, lr, norm = int(counts[0]), state.lr, 0.0
    sums = [0.0, 0.0, 0.0]
    if clips:
        parts = []
        for index, batch in enumerate(batches):
            with _without_gradient_sync(state, last=index == len(batches) - 1):
                parts.append(_forward_backward(state, batch, clips))
        # The only synchronization with the device in the forward and backward passes of a step.
        sums = torch.stack(parts).sum(0).tolist()
        _check_finite(state, batches, sums[0], "loss")
        sums = group.total(sums)
        if not math.isfinite(sums[0]):
            raise UserError("the loss of another process is not finite; see its message")
        norm = _update_weights(state, batches)
    state.schedule.step()
    progress.step += 1
    progress.step_in_epoch += 1
    if state.average is not None:
        state.average.update(state.model, progress.step)
    progress.clips += clips
    progress.bad += int(counts[1])
    progress.loss += sums[0]
    progress.top1 += int(sums[1])
    progress.top5 += int(sums[2])
    state.in_step = False
    loss, top1, top5 = (part / clips if clips else math.nan for part in sums)
    return Step(clips, loss, top1, top5, norm, lr)


def _without_gradient_sync(state: TrainState, *, last: bool) -> AbstractContextManager[None]:
    """Let only the last batch of a step sum the gradients over the ranks."""
    if last or not isinstance(state.forward, DistributedDataParallel):
        return nullcontext()
    return state.forward.no_sync()


def _forward_backward(state: TrainState, batch: Batch, clips_in_step: int) -> Tensor:
    """Accumulate a batch's gradients of the mean loss over the step's clips.

    A rank without clips runs an empty batch, since the others wait for its gradients.

    Returns:
        float32 `(3,)` on the device: sum of the batch's losses, number of clips that are right in
        the top 1, and in the top 5.
    """
    is_empty = not len(batch.labels)
    if is_empty and state.group.world_size == 1:
        return torch.zeros(3, device=state.device)
    if is_empty:
        freeze_statistics(state.model)
    masks = dropout_masks(
        state.seed,
        state.progress.step,
        batch.indices.tolist(),
        FEATURES,
        state.model.config.dropout,
    )
    labels = batch.labels.to(state.device, non_blocking=True)
    pixels = normalize(batch.clips.to(state.device, non_blocking=True), state.model.preprocessing)
    with autocast(state.device, state.precision):
        logits, is_frozen = forward_batch(
            state.forward, state.model, pixels, masks.to(state.device, non_blocking=True)
        )
    objective, loss = losses(
        logits.float(), labels, state.class_weights, state.recipe.label_smoothing
    )
    # DistributedDataParallel averages gradients over the ranks; the factor turns that into a sum.
    state.scaler.scale(objective * (state.group.world_size / clips_in_step)).backward()
    if is_empty or is_frozen:  # after the backward pass, which may compute activations again
        state.model.train()
    correct = [correct_among_best(logits.detach(), labels, k) for k in (1, 5)]
    return torch.stack([loss, *(count.float() for count in correct)])


def losses(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return what a batch minimizes, and its loss for the log, each summed over the clips.

    The sum is divided by the number of clips, not by the sum of their weights, so that clips count
    the same in every step. The logged loss is the plain cross-entropy, which runs with other
    weights or smoothing can be compared by.

    Args:
        logits: float `(N, num_classes)`.
        labels: int64 `(N,)`.
        weights: Weights of the classes, `(num_classes,)`; None if they are equal.
        smoothing: Probability mass that the targets spread over all classes.
    """
    plain = F.cross_entropy(logits, labels, reduction="sum")
    if weights is None and not smoothing:
        return plain, plain.detach()
    objective = F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing)
    return objective, plain.detach()


def _update_weights(state: TrainState, batches: Sequence[Batch]) -> float:
    """Clip the gradients, step the optimizer, and return the norm before clipping."""
    scaler, limit = state.scaler, state.recipe.clip_gradients
    scaler.unscale_(state.optimizer)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    norm = float(nn.utils.clip_grad_norm_(trained, math.inf if limit is None else limit))
    if not scaler.is_enabled():
        _check_finite(state, batches, norm, "norm of the gradients")
    scale = scaler.get_scale()
    scaler.step(state.optimizer)
    scaler.update()
    new_scale = scaler.get_scale()
    if new_scale < scale:
        state.progress.overflows += 1
    if new_scale < SMALLEST_SCALE:
        raise UserError(
            f"fp16 gradients overflow at step {state.progress.step + 1} at any loss scale; use "
            "--precision bf16 or fp32, or a lower --lr"
        )
    state.optimizer.zero_grad(set_to_none=True)
    return norm


def _check_finite(state: TrainState, batches: Sequence[Batch], value: float, name: str) -> None:
    """Raise an error if a value is not finite, before the step changes the weights."""
    if math.isfinite(value):
        return
    indices = [index for batch in batches for index in batch.indices.tolist()]
    paths = [printable(state.dataset.records[index].path) for index in indices]
    listed = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    progress = state.progress
    remedy = (
        "earlier checkpoints are kept: lower --lr, set --clip-gradients, or check these videos"
        if progress.step
        else "no step was made yet: check the file of --weights, or these videos"
    )
    raise UserError(
        f"the {name} is {value} at step {progress.step + 1} of epoch {progress.epoch + 1} "
        f"with a learning rate of {state.lr:.3g}, on {listed}; {remedy}"
    )


def dropout_masks(
    seed: int, step: int, videos: Iterable[int], features: int, probability: float
) -> Tensor:
    """Return dropout factors for the features of clips: 0 with the given probability, or 1/(1-p).

    The masks are a pure function of the arguments and are drawn on the CPU. PyTorch's own dropout
    draws from the device's generator, so its masks depend on the device, the number of ranks and
    the batch size.

    Args:
        seed: Seed of the run, >= 0.
        step: Optimizer step, >= 0.
        videos: Index of each clip's video in the training list.
        features: Number of features of a clip.
        probability: Probability of dropping a feature, in [0, 1).

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
