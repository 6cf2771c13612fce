"""Resizing, slopes and warping of gray frames, as OpenCV computes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_linear(frames: Tensor, size: tuple[int, int], steps: tuple[float, float]) -> Tensor:
    """Resize frames linearly, without smoothing.

    `torch.nn.functional.interpolate` takes no size together with a step. OpenCV's pyramids need
    both: their steps are exact, while their sizes are rounded.

    Args:
        frames: `(N, H, W)`, floating point.
        size: New height and width.
        steps: Old pixels per new one, along y and x.
    """
    for dim, (count, step) in enumerate(zip(size, steps, strict=True), 1):
        last = frames.shape[dim] - 1
        at = ((torch.arange(count, dtype=torch.float64) + 0.5) * step - 0.5).clamp_(0, last)
        low = at.floor()
        share = (at - low).to(frames).view(-1, *[1] * (2 - dim))
        low = low.long().to(frames.device)
        high = (low + 1).clamp_(max=last)
        frames = torch.lerp(frames.index_select(dim, low), frames.index_select(dim, high), share)
    return frames


def central_differences(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slopes of frames `(N, H, W)` along x and y; borders are repeated outward."""
    padded = F.pad(frames.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    along_x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    along_y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return along_x, along_y


def warp(images: Tensor, motion: Tensor) -> Tensor:
    """Return, at each pixel, the images' value at this pixel plus its motion, by cubic filters.

    Whole numbers of pixels are exact: no motion gives the images themselves, to the last bit.
    Rounding errors would grow from warp to warp at the borders of frames that do not move.

    Args:
        images: `(N, C, H, W)`; zero outside.
        motion: `(N, 2, H, W)` along x and y, in pixels.
    """
    height, width = images.shape[-2:]
    # `grid_sample` takes coordinates in [-1, 1]. Powers of two make this conversion exact.
    rows, columns = (1 << (side - 1).bit_length() for side in (height, width))
    x = torch.arange(0.5, width, dtype=motion.dtype, device=motion.device)
    y = torch.arange(0.5, height, dtype=motion.dtype, device=motion.device).unsqueeze(1)
    along_x = (motion[:, 0] + x) * (2 / columns) - 1
    along_y = (motion[:, 1] + y) * (2 / rows) - 1
    grid = torch.stack([along_x, along_y], -1)
    images = F.pad(images, (0, columns - width, 0, rows - height))
    return F.grid_sample(images, grid, mode="bicubic", align_corners=False)
