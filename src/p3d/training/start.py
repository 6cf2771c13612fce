"""What a run starts from: its network, and the loader of its clips."""

from __future__ import annotations

from pathlib import Path

import torch

from p3d.data.dataset import VideoDataset
from p3d.data.digests import video_digest
from p3d.data.loader import TrainLoader, with_scale_of
from p3d.data.rates import rate_range
from p3d.errors import UserError
from p3d.model.network import P3D
from p3d.preprocessing import FlowMethod
from p3d.system.device import needs_pinned_memory
from p3d.system.distributed import Group
from p3d.training.checkpoint import CheckpointState
from p3d.training.network import build_network
from p3d.training.options import TrainOptions
from p3d.weights.loading import PretrainedWeights


def start_network(options: TrainOptions, training: VideoDataset) -> tuple[P3D, tuple[str, ...]]:
    """Return the network that a run starts from, and messages about its weights.

    Raises:
        UserError: The weights cannot be read or belong to another network.
    """
    weights = None if options.weights is None else PretrainedWeights(options.weights)
    wiring = options.wiring or (weights.wiring if weights else "author")
    torch.manual_seed(options.seed)
    model = build_network(
        options.recipe,
        training.class_names,
        modality=options.modality,
        wiring=wiring,
        variant=options.variant,
    )
    messages: tuple[str, ...] = ("weights: from scratch",)
    if weights is not None:
        messages = (f"weights: {weights.path}", *weights.load_into(model))
    prep = with_scale_of(training, model.preprocessing)
    if weights is not None and weights.learned_videos:
        _check_flow(weights.path, model.preprocessing.flow_method, prep.flow_method)
    model.preprocessing = prep
    names = training.class_names
    model.trained_on |= {video_digest(record, names) for record in training.records}
    model.rates = rate_range(training.records)
    return model, messages


def _check_flow(weights: Path, learned: FlowMethod, given: FlowMethod) -> None:
    """Check that a flow network goes on with such flow as it has learned.

    The kinds of TV-L1 differ by less than a byte on average.

    Raises:
        UserError: It is of another method.
    """
    if (learned == "dis") != (given == "dis"):
        raise UserError(
            f"--weights {weights}: learned from flow by {learned}, but the data has flow by "
            f"{given}; prepare it with --method {learned}, or train without --weights"
        )


def build_loader(
    options: TrainOptions,
    model: P3D,
    training: VideoDataset,
    checkpoint: CheckpointState | None,
    group: Group,
    device: torch.device,
) -> TrainLoader:
    """Build this rank's loader of training clips.

    Args:
        options: Batch size, augmentation and so on.
        model: The network, for its preprocessing.
        training: The training list.
        checkpoint: The checkpoint to resume from, which determines the clips of a step.
        group: The ranks that train together.
        device: Where the network is trained.
    """
    recipe = options.recipe
    clips_per_step = recipe.clips_of_step(group.world_size)
    return TrainLoader(
        training,
        model.preprocessing,
        batch_size=recipe.batch_size,
        seed=options.seed,
        clips_per_step=clips_per_step if checkpoint is None else checkpoint.clips_per_step,
        augmentation=recipe.augmentation,
        flip_probability=recipe.flip_probability,
        clips_per_video=recipe.clips_per_video,
        balance=recipe.balance,
        workers=options.workers,
        on_bad_video=options.on_bad_video,
        group=group,
        pin_memory=needs_pinned_memory(device),
    )
