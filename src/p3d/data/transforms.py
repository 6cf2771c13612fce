"""Resizing, cropping and flipping of whole clips, in the decoder's memory format.

A clip is uint8 `(T, H, W, C)` from the file to the device. Viewed as `(T, C, H, W)`, this memory is
channels-last, for which torch has a vectorized antialiased resize of bytes, without copies or
floats. Cropping comes before resizing where possible, so that only pixels that are kept are
resampled. All frames of a clip share one box and one flip.

Optical flow is resized like RGB: motion stays in pixels of the frames it was computed on, as in
two-stream networks since Simonyan and Zisserman (2014). Only a flip changes the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from p3d.data.crops import (
    eval_crop_boxes,
    multi_scale_crop_box,
    random_crop_box,
    random_resized_crop_box,
)
from p3d.data.views import CENTER, Views
from p3d.preprocessing import Preprocessing
from p3d.video.geometry import Box, resize

Augmentation = Literal["random-resized-crop", "multi-scale-crop", "random-crop"]


def crop(clip: Tensor, box: Box) -> Tensor:
    """Return the part of a clip `(T, H, W, C)` inside a box, as a view."""
    rows = slice(box.top, box.top + box.height)
    columns = slice(box.left, box.left + box.width)
    return clip[:, rows, columns]


def horizontal_flip(clip: Tensor) -> Tensor:
    """Mirror a clip `(T, H, W, C)` left to right.

    In optical flow (C = 2: x, y; 128 is no motion), motion along x changes its sign.
    """
    flipped = clip.flip(2)
    if clip.shape[-1] == 2:
        x = flipped[..., 0]
        # 256 - x with wrap-around; 0 has no opposite and becomes the largest value.
        flipped[..., 0] = torch.where(x == 0, 255, -x)
    return flipped


@dataclass(frozen=True)
class ClipTransform:
    """What is done to each frame of a clip, with all random choices made.

    It is known before any pixel, so that only `read` of each frame needs to be converted to RGB,
    and it can be applied to the frames of a clip a few at a time.

    Attributes:
        read: The part of the frames to read; None for all of it.
        scaled: Height and width that this part is resized to, if not None.
        box: The part of the result to keep, if not None.
        side: Side of the square that this is resized to.
        flip: Whether to mirror the result.
    """

    read: Box | None
    scaled: tuple[int, int] | None
    box: Box | None
    side: int
    flip: bool

    def __call__(self, frames: Tensor) -> Tensor:
        """Map uint8 `(T, H, W, C)`, cut to `read`, to uint8 `(T, side, side, C)`, contiguous."""
        if self.scaled is not None:
            frames = resize(frames, *self.scaled)
        if self.box is not None:
            frames = crop(frames, self.box)
        frames = resize(frames, self.side, self.side)
        return horizontal_flip(frames) if self.flip else frames


def draw_train_transform(
    height: int,
    width: int,
    prep: Preprocessing,
    *,
    augmentation: Augmentation,
    flip_probability: float,
    rng: np.random.Generator,
) -> ClipTransform:
    """Draw the augmentation of a training clip: a random box and a random flip.

    * `random-resized-crop`: a box of 8 to 100 % of the frame's area, resized to the square.
    * `multi-scale-crop`: a corner or the center of the resized frame (`prep.resized`).
    * `random-crop`: a square of `prep.crop` from the resized frame.

    Draws, in order: those of the box; the flip (one draw, also at probability 0 and 1).

    Args:
        height: Height of the decoded frames, in pixels.
        width: Width of the decoded frames, in pixels.
        prep: The network's preprocessing; `resize` and `crop` are used.
        augmentation: How the box is drawn.
        flip_probability: Probability of mirroring the clip, 0 to 1.
        rng: The clip's generator, after drawing its window.
    """
    read, scaled, box = None, None, None
    if augmentation == "random-resized-crop":
        read = random_resized_crop_box(height, width, rng)
    else:
        draw = multi_scale_crop_box if augmentation == "multi-scale-crop" else random_crop_box
        scaled = prep.resized(height, width)
        box = draw(*scaled, prep.crop, rng)
    return ClipTransform(read, scaled, box, prep.crop, flip=rng.random() < flip_probability)


def train_transform(
    clip: Tensor,
    prep: Preprocessing,
    *,
    augmentation: Augmentation,
    flip_probability: float,
    rng: np.random.Generator,
) -> Tensor:
    """Augment a training clip of whole frames, see `draw_train_transform`.

    Maps uint8 `(T, H, W, C)` to uint8 `(T, prep.crop, prep.crop, C)`, contiguous.
    """
    height, width = clip.shape[1:3]
    transform = draw_train_transform(
        height, width, prep, augmentation=augmentation, flip_probability=flip_probability, rng=rng
    )
    return transform(clip if transform.read is None else crop(clip, transform.read))


@dataclass(frozen=True)
class EvalTransform:
    """What is done to each frame of a clip in evaluation; it becomes one frame per view.

    Attributes:
        scaled: Height and width that a frame is resized to.
        boxes: The parts of the result to keep, squares of the same size.
        mirror: Whether the mirrored copies of these parts follow them.
    """

    scaled: tuple[int, int]
    boxes: tuple[Box, ...]
    mirror: bool

    def __call__(self, frames: Tensor) -> Tensor:
        """Map uint8 `(T, H, W, C)` to uint8 `(T, views, side, side, C)`, contiguous."""
        frames = resize(frames, *self.scaled)
        views = [crop(frames, box) for box in self.boxes]
        if self.mirror:
            views += [horizontal_flip(view) for view in views]
        return torch.stack(views, 1)


def eval_transform(
    height: int, width: int, prep: Preprocessing, views: Views = CENTER
) -> EvalTransform:
    """Return the test transform: resize (`prep.resized`), then crop; by default the center.

    Args:
        height: Height of the decoded frames, in pixels.
        width: Width of the decoded frames, in pixels.
        prep: The network's preprocessing; `resize` and `crop` are used.
        views: Which crops to take.
    """
    scaled = prep.resized(height, width)
    boxes = eval_crop_boxes(*scaled, prep.crop, views.crops)
    return EvalTransform(scaled, boxes, views.has_mirrored)
