"""Boxes in frames, and the resizing of frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows `top` to `top + height`, columns `left` to `left + width`."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the part of a frame `(H, W, ...)` inside the box, as a view."""
        rows = slice(self.top, self.top + self.height)
        return frame[rows, self.left : self.left + self.width]


def limited_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the size scaled down so that its shorter side is at most `short_side`; never up."""
    scale = min(1.0, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Resize a clip with antialiased bilinear interpolation; within one level of Pillow's result.

    Args:
        clip: uint8 `(T, H, W, C)`.
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        uint8 `(T, height, width, C)`, contiguous; the clip itself if it has that size already.
    """
    if tuple(clip.shape[1:3]) == (height, width):
        return clip.contiguous()
    planes = clip.contiguous().permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous()
