"""The smallest batch of a run, in which batch normalization needs several values per channel."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from p3d.errors import UserError
from p3d.model.config import CHANNELS
from p3d.model.network import P3D
from p3d.model.sync_batchnorm import SyncNorm
from p3d.system.text import counted


def check_smallest_batch(model: P3D, smallest: int, clips_per_step: int, processes: int) -> None:
    """Check that the network can be trained on the smallest batch of a step.

    The last stage may have a single pixel of a clip. So a batch of one clip is tried with a copy of
    the network; larger ones always have several values.

    Args:
        model: The network, set up for training, on the CPU.
        smallest: Clips of that batch.
        clips_per_step: Clips of the step over all ranks, for the message.
        processes: Number of ranks.

    Raises:
        UserError: Batch normalization would get a single value per channel.
    """
    is_synchronized = processes > 1 and any(isinstance(m, SyncNorm) for m in model.modules())
    if smallest > 1 or is_synchronized:
        return
    prep = model.preprocessing
    shape = (1, CHANNELS[model.config.modality], prep.num_frames, prep.crop, prep.crop)
    try:
        with torch.no_grad():
            deepcopy(model).features(torch.zeros(shape))
    except ValueError as error:
        if not is_single_value(error):
            raise
        size = f"{prep.num_frames} frames of {prep.crop}x{prep.crop}"
        whole = counted(clips_per_step, "clip")
        whole += f" on {processes} processes" if processes > 1 else ""
        raise UserError(
            f"a step of {whole} has a batch of 1 clip, {size}, which leaves batch normalization "
            "one value per channel; use a larger --crop, another --batch-size, or --norms "
            "freeze-all"
        ) from error


def forward_batch(
    network: nn.Module, model: P3D, pixels: Tensor, masks: Tensor
) -> tuple[Tensor, bool]:
    """Return a batch's logits, and whether its statistics took no part in them.

    Videos that were skipped may leave a single clip. If batch normalization then has one value per
    channel, its running statistics are used, and the network is left in evaluation mode.

    Args:
        network: The network as it is called, perhaps compiled or distributed.
        model: The network itself.
        pixels: Its input.
        masks: Its dropout masks.
    """
    try:
        return network(pixels, masks), False
    except ValueError as error:
        if not is_single_value(error):
            raise
    freeze_statistics(model)
    return network(pixels, masks), True


def freeze_statistics(model: P3D) -> None:
    """Let normalizations that are not computed over all ranks use their running statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not isinstance(module, SyncNorm):
            module.eval()


def is_single_value(error: ValueError) -> bool:
    """Return whether PyTorch refused to normalize a single value per channel."""
    return "more than 1 value per channel" in str(error)
