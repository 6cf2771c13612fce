"""The checkpoint that a run resumes from, checked before anything is restored from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3d.errors import UserError
from p3d.model.network import P3D
from p3d.run_folder import BEST_FILE, LAST_FILE, find_checkpoints
from p3d.system.device import grad_scaler
from p3d.system.distributed import Group
from p3d.training.checkpoint import CheckpointState
from p3d.training.checkpoint_files import read_newest
from p3d.training.network import prepare_for_training
from p3d.training.optim import build_optimizer, build_schedule, parameter_groups
from p3d.training.options import LENGTH, TrainOptions, check_same, earlier_length
from p3d.weights.metadata import model_from


def find_start(
    options: TrainOptions, now: dict[str, str], group: Group
) -> tuple[CheckpointState, P3D, tuple[str, ...]] | None:
    """Return the checkpoint to resume from, its network, and messages about damaged newer ones.

    Args:
        options: Options of the run.
        now: Their fingerprint.
        group: The ranks that train together, which must find the same checkpoint.

    Returns:
        None if the run has no checkpoint.

    Raises:
        UserError: No checkpoint can be used, it belongs to another run, or there is a run in the
            folder and `--resume` was not given.
    """
    _check_replaces_nothing(options)
    models: list[P3D] = []

    def check(checkpoint: CheckpointState) -> None:
        check_run(options.out, checkpoint, now)
        models.append(restorable_network(checkpoint, options))

    checkpoint, problems = read_newest(options.out, check)
    _check_ranks(options.out, checkpoint, now, group)
    if checkpoint is None:
        return None
    messages = tuple(f"DAMAGED: {line}; using an earlier one" for line in problems)
    return checkpoint, models[-1], messages


def _check_replaces_nothing(options: TrainOptions) -> None:
    """Check that a run without `--resume` finds no other run in its folder.

    With it, networks without a checkpoint are replaced: a run that is killed while it saves its
    first checkpoint leaves them, and the same command starts it again.
    """
    if options.resume:
        return
    if find_checkpoints(options.out):
        raise UserError(
            f"{options.out} already holds a run; add --resume to resume it, or choose another --out"
        )
    for path in (options.out / BEST_FILE, options.out / LAST_FILE):
        if path.exists():
            raise UserError(
                f"{path}: is of an earlier run, which has no checkpoint to resume from; choose "
                "another --out, or add --resume to start again and replace it"
            )


def check_run(folder: Path, checkpoint: CheckpointState, now: dict[str, str]) -> None:
    """Check that a checkpoint was written by a run with the same options, or by a shorter one.

    Raises:
        UserError: They differ.
    """
    before = checkpoint.fingerprint
    if earlier_length(before, now) is not None:
        before = before | {name: now[name] for name in LENGTH}
    remedy = "resume with the same options, or choose another --out"
    check_same(f"the run in {folder}", before, now, remedy)


def _check_ranks(
    folder: Path, checkpoint: CheckpointState | None, now: dict[str, str], group: Group
) -> None:
    """Check that all ranks have the same options and found the same checkpoint."""
    steps = group.gather(None if checkpoint is None else checkpoint.progress.step)
    for rank, (theirs, step) in enumerate(zip(group.gather(now), steps, strict=True)):
        check_same(f"process {rank}", theirs, now, "give all processes the same options and data")
        if step != steps[0]:
            raise UserError(
                f"process 0 finds the run in {folder} at step {steps[0]} and process {rank} "
                f"at {step}; put --out on storage that all machines share"
            )


def restorable_network(checkpoint: CheckpointState, options: TrainOptions) -> P3D:
    """Return the network of a checkpoint, after checking that the whole of it can be restored.

    Raises:
        ValueError: A part does not fit the run. A message names it.
    """
    try:
        model = model_from(checkpoint.model, checkpoint.metadata)
        prepare_for_training(
            model,
            options.recipe,
            sync_norms=options.sync_norms,
            checkpoint_activations=options.checkpoint_activations,
        )
        optimizer = build_optimizer(parameter_groups(model, options.recipe), options.recipe)
        schedule = build_schedule(optimizer, options.recipe, 1, 1)
        scaler = grad_scaler(torch.device("cpu"), options.compute.precision)
    except MemoryError:
        raise
    except Exception as error:  # whatever damaged values do to the functions that get them
        raise ValueError(str(error) or type(error).__name__) from error
    fresh = optimizer.state_dict()
    is_fitting = {
        "model": _fits(checkpoint.model, model.state_dict()),
        "average": checkpoint.average.keys()
        == (model.state_dict().keys() if options.recipe.average_epochs else set())
        and _fits(checkpoint.average, model.state_dict()),
        "optimizer": _fits(checkpoint.optimizer.get("param_groups"), fresh["param_groups"])
        and all("lr" in group for group in checkpoint.optimizer["param_groups"])
        and _is_momentum(checkpoint.optimizer.get("state"), optimizer.param_groups),
        "schedule": _fits(checkpoint.schedule, schedule.state_dict())
        and checkpoint.schedule.get("last_epoch") == checkpoint.progress.step,
        "scaler": checkpoint.scaler.keys() == scaler.state_dict().keys()
        and _fits(checkpoint.scaler, scaler.state_dict()),
    }
    for name, fits in is_fitting.items():
        if not fits:
            raise ValueError(f"its entry {name!r} is damaged")
    return model


def _fits(value: object, like: object) -> bool:
    """Return whether a saved value has the types, lengths and shapes of a fresh one.

    Keys of a dict may be missing, since releases of PyTorch save different ones.
    """
    if isinstance(like, Tensor):
        return (
            isinstance(value, Tensor)
            and (value.shape, value.dtype, value.layout) == (like.shape, like.dtype, like.layout)
            and value.device.type == "cpu"
        )
    if isinstance(like, dict):
        return isinstance(value, dict) and all(
            _fits(value[key], item) for key, item in like.items() if key in value
        )
    if isinstance(like, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(like)
            and all(_fits(one, other) for one, other in zip(value, like, strict=True))
        )
    if isinstance(like, int | float):
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, str) if isinstance(like, str) else True


def _is_momentum(state: object, groups: list[dict[str, Any]]) -> bool:
    """Return whether a state of SGD has a momentum for every parameter, or none at all."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    if not isinstance(state, dict) or state.keys() not in (set(), set(range(len(parameters)))):
        return False
    return all(
        isinstance(state[index], dict)
        and state[index].keys() == {"momentum_buffer"}
        and (
            state[index]["momentum_buffer"] is None or _fits(state[index]["momentum_buffer"], like)
        )
        for index, like in enumerate(parameters)
        if index in state
    )
