"""State of a training run: everything that a step changes and a checkpoint saves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from p3d.data.balance import class_weights
from p3d.data.dataset import VideoDataset
from p3d.model.network import P3D
from p3d.system.device import Precision, grad_scaler, set_precision
from p3d.system.distributed import ALONE, Group
from p3d.training.average import WeightAverage
from p3d.training.checkpoint import CheckpointState
from p3d.training.network import compile_network
from p3d.training.optim import build_optimizer, build_schedule, parameter_groups
from p3d.training.progress import Progress
from p3d.training.recipes import Recipe
from p3d.weights.metadata import metadata_of


@dataclass
class TrainState:
    """A network in training, with its optimizer and progress.

    Attributes:
        recipe: How the network is trained.
        seed: Seed of dropout, step by step.
        precision: Arithmetic of the forward pass.
        device: Device of the network.
        group: The ranks that train together.
        dataset: The training list, for the names of videos.
        model: The network.
        forward: The same network, compiled or wrapped in DistributedDataParallel if needed.
        optimizer: SGD over the network's parameter groups.
        schedule: The learning-rate schedule, advanced once a step.
        scaler: The loss scaler; active in fp16 only.
        clips_per_step: Clips of an optimizer step over all ranks.
        total_steps: Optimizer steps of the whole run.
        progress: Position of the run.
        in_step: Whether a step has begun and is not complete, so that a checkpoint would be wrong.
        class_weights: float32 `(num_classes,)` on the device, weights of the classes in the loss;
            None if they are equal.
        average: The averaged weights; None if the recipe averages none.
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
    in_step: bool = False
    class_weights: Tensor | None = None
    average: WeightAverage | None = None

    @property
    def result(self) -> P3D:
        """The network that is validated and saved: the averaged one, if there is one."""
        return self.model if self.average is None else self.average.network

    @property
    def all_steps_done(self) -> bool:
        """Whether all optimizer steps are done; the last epoch may still need its validation."""
        return self.progress.step >= self.total_steps

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done and the last epoch is finished."""
        return self.all_steps_done and self.progress.step_in_epoch == 0

    @property
    def lr(self) -> float:
        """Learning rate of the next step, for a multiplier of 1."""
        for group in self.optimizer.param_groups:
            if group["lr_mult"]:
                return float(group["lr"] / group["lr_mult"])
        return 0.0

    def checkpoint(self, fingerprint: dict[str, str]) -> CheckpointState:
        """Return the contents of a checkpoint.

        Args:
            fingerprint: The options that the weights depend on, by name.
        """
        return CheckpointState(
            model=self.model.state_dict(),
            metadata=metadata_of(self.model, recipe=asdict(self.recipe)),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            scaler=self.scaler.state_dict(),
            clips_per_step=self.clips_per_step,
            progress=self.progress,
            fingerprint=fingerprint,
            average={} if self.average is None else self.average.network.state_dict(),
        )

    def restore(self, checkpoint: CheckpointState, *, stretched: bool = False) -> None:
        """Restore all but the network, which already has its weights.

        Args:
            checkpoint: The checkpoint.
            stretched: Take the learning rates from this run's schedule at the checkpoint's step,
                not from the checkpoint's shorter schedule.
        """
        for _ in range(checkpoint.progress.step if stretched else 0):
            self.schedule.step()
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        # Settings of the groups that the checkpoint lacks keep the values that the recipe gives.
        fresh, saved = self.optimizer.state_dict(), checkpoint.optimizer
        groups = [
            new | old | {"params": new["params"]}
            for new, old in zip(fresh["param_groups"], saved["param_groups"], strict=True)
        ]
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        if stretched:
            for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr
        else:
            self.schedule.load_state_dict(checkpoint.schedule)
        self.scaler.load_state_dict(checkpoint.scaler)
        self.progress = checkpoint.progress
        if self.average is not None:
            self.average.network.load_state_dict(checkpoint.average)


def extend(
    state: TrainState,
    checkpoint: CheckpointState,
    steps_per_epoch: int,
    length: tuple[int, int | None],
) -> str:
    """Restore a checkpoint of a shorter run, and describe how the learning rate continues.

    The schedules cyclic, step and constant do not depend on the length of a run, so the weights are
    those of a run that was started with the new length. Cosine and one-cycle are stretched.

    Args:
        state: The longer run.
        checkpoint: The checkpoint of the shorter one.
        steps_per_epoch: Optimizer steps in an epoch.
        length: `epochs` and `max_steps` of the shorter run.
    """
    epochs, max_steps = length
    before = total_steps(replace(state.recipe, epochs=epochs, max_steps=max_steps), steps_per_epoch)
    schedule, stretched = state.recipe.schedule, state.recipe.schedule in ("cosine", "one-cycle")
    state.restore(checkpoint, stretched=stretched)
    progress = state.progress
    if progress.step_in_epoch == 0 and progress.step % steps_per_epoch:
        # max_steps ended the run in the middle of an epoch, whose other steps follow now.
        progress.epoch, progress.step_in_epoch = divmod(progress.step, steps_per_epoch)
    message = f"extended from {before} to {state.total_steps} steps: "
    if not stretched:
        return message + f"the {schedule} learning rate continues, as in a run of this length"
    return message + (
        f"the {schedule} schedule is stretched and goes on with a learning rate of {state.lr:.3g}; "
        "a run that is started with this length gives another network"
    )


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return the number of optimizer steps of a whole run."""
    steps = recipe.epochs * steps_per_epoch
    return steps if recipe.max_steps is None else min(steps, recipe.max_steps)


def build_state(
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
) -> TrainState:
    """Build optimizer, schedule and scaler for a network, and move it to the device.

    Args:
        recipe: How the network is trained.
        model: The network, frozen as the recipe says.
        dataset: The training list.
        device: Where to train.
        clips_per_step: Clips of an optimizer step over all ranks.
        steps_per_epoch: Optimizer steps in an epoch.
        seed: Seed of dropout.
        precision: Arithmetic of the forward pass.
        compiled: Compile the network.
        group: The ranks that train together.

    Raises:
        UserError: The device does not support the precision.
    """
    set_precision(device, precision)
    model.to(device)
    steps = total_steps(recipe, steps_per_epoch)
    return TrainState(
        recipe,
        seed,
        precision,
        device,
        group,
        dataset,
        model,
        _callable_network(model, device, group, compiled=compiled),
        *_optimizer_and_schedule(model, recipe, steps_per_epoch, steps),
        grad_scaler(device, precision),
        clips_per_step,
        steps,
        class_weights=_class_weights(recipe, dataset, model, device),
        average=_average(model, recipe.average_epochs * steps_per_epoch),
    )


def _average(model: P3D, span: float) -> WeightAverage | None:
    """Return the average of the weights over so many steps; None for 0."""
    return WeightAverage(model, span) if span else None


def _optimizer_and_schedule(
    model: P3D, recipe: Recipe, steps_per_epoch: int, steps: int
) -> tuple[SGD, LRScheduler]:
    optimizer = build_optimizer(parameter_groups(model, recipe), recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch, steps)
    # PyTorch warns if the schedule advances before the first optimizer step, which the scaler may
    # skip. This step has no gradients and changes nothing.
    optimizer.step()
    return optimizer, schedule


def _callable_network(model: P3D, device: torch.device, group: Group, *, compiled: bool) -> Any:
    """Return the network as a step calls it: compiled, or distributed over the ranks."""
    forward: Any = compile_network(model, device) if compiled else model
    if group.world_size == 1:
        return forward
    return DistributedDataParallel(
        forward,
        device_ids=None if device.index is None else [device.index],
        gradient_as_bucket_view=True,
    )


def _class_weights(
    recipe: Recipe, dataset: VideoDataset, model: P3D, device: torch.device
) -> Tensor | None:
    if not recipe.class_weights:
        return None
    labels = np.array([record.label for record in dataset.records], np.int64)
    weights = torch.from_numpy(class_weights(labels, model.config.num_classes))
    return weights.to(device, torch.float32)
