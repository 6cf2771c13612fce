"""Grad-CAM over space and time: which parts of a clip speak for a class.

Selvaraju et al. 2017, for volumes: each channel of a layer is weighted by its mean gradient, over
all positions and times, of the class's logit; the weighted sum is cut at zero.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from p3d.model.network import P3D

CamLayer = Literal["res2", "res3", "res4", "res5"]


def grad_cam(
    model: P3D, clips: Tensor, target: int | None, layer: CamLayer
) -> tuple[Tensor, Tensor]:
    """Compute the maps of a class at the output of a stage's last block.

    Args:
        model: The network, in evaluation mode.
        clips: Float `(N, C, T, H, W)`, normalized.
        target: The class; None: of each clip the class of its highest logit.
        layer: The stage. For 16 frames, res4 has two steps in time and res5 one.

    Returns:
        Logits `(N, num_classes)`, and maps `(N, T', H', W')` that are 0 or more.
    """
    outputs: list[Tensor] = []

    def keep(_block: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[0]

    handle = getattr(model, layer)[-1].register_forward_hook(keep)
    with torch.enable_grad():
        try:
            logits = model(clips)
        finally:
            handle.remove()
        chosen = logits.max(1).values if target is None else logits[:, target]
        (gradients,) = torch.autograd.grad(chosen.sum(), outputs)
    # The stages see (N*T', C, H', W').
    volumes = outputs[0].detach().unflatten(0, (len(clips), -1))
    weights = gradients.unflatten(0, (len(clips), -1)).mean((1, 3, 4), keepdim=True)
    return logits.detach(), (weights * volumes).sum(2).relu()


def stretch(maps: Tensor, frames: int, height: int, width: int) -> Tensor:
    """Interpolate maps to the size of their clips, and scale each clip's largest value to 1.

    Args:
        maps: float `(N, T', H', W')`.
        frames: Frames of the clips.
        height: Height of the clips in pixels.
        width: Width of the clips in pixels.

    Returns:
        float `(N, frames, height, width)` in [0, 1]; all 0 where nothing speaks for the class.
    """
    size = (frames, height, width)
    volumes = F.interpolate(maps[:, None], size=size, mode="trilinear", align_corners=False)[:, 0]
    return volumes / volumes.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
