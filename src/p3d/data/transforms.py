"""Resizing, cropping and flipping of whole clips, in the memory order of the decoder.

A clip is uint8 `(T, H, W, C)` from the file to the device. Seen as `(T, C, H, W)` this memory is
channels-last, for which torch has a vectorised antialiased resize of bytes: no copy, no floats.
Cropping comes before resizing wherever both happen, so that only pixels that are kept are
resampled. A clip gets one box and one flip, shared by all its frames.

Optical flow is resized as pictures are: its bytes keep on saying pixels of the frames that it was
computed on, as in all two-stream networks since Simonyan and Zisserman (2014). Only a flip changes
what they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from p3d.data.crops import (
    center_crop_box,
    multi_scale_crop_box,
    random_crop_box,
    random_resized_crop_box,
)
from p3d.preprocessing import Preprocessing
from p3d.video.geometry import Box, resize

Augmentation = Literal["random-resized-crop", "multi-scale-crop", "random-crop"]


def crop(clip: Tensor, box: Box) -> Tensor:
    """The pixels of a clip `(T, H, W, C)` inside a box, as a view."""
    rows = slice(box.top, box.top + box.height)
    columns = slice(box.left, box.left + box.width)
    return clip[:, rows, columns]


def horizontal_flip(clip: Tensor) -> Tensor:
    """Mirror a clip `(T, H, W, C)`, left to right.

    In a clip of optical flow (C = 2: x, y; 128 = no motion) the motion along x changes its sign.
    """
    flipped = clip.flip(2)
    if clip.shape[-1] == 2:
        x = flipped[..., 0]
        # 256 - x in bytes that wrap around; only 0 has no opposite and takes the strongest one.
        flipped[..., 0] = torch.where(x == 0, 255, -x)
    return flipped


@dataclass(frozen=True)
class ClipTransform:
    """What is done to every frame of one clip, its random choices already made.

    It is known before any pixel is, so that only `read` of each frame need be decoded to RGB, and
    may be applied to the frames of a clip in several parts.

    Attributes:
        read: The part of the frames that is looked at; None: all of it.
        scaled: Height and width that this part is resized to, if not None.
        box: The part of the result that is kept, if not None.
        side: Of the square that the rest is resized to.
        flip: Whether it is mirrored.
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
    """Draw how a training clip is augmented: one random box, one random flip.

    * `random-resized-crop`: a box of 8 to 100 % of the original frame, resized to the square.
    * `multi-scale-crop`: of the frame resized to `prep.resize`, a corner or the centre.
    * `random-crop`: of the frame resized to `prep.resize`, a square of `prep.crop`, not resized.

    Draws, in order: those of the box; the flip (one draw, at probability 0 and 1 too).

    Args:
        height: Of the frames as decoded, in pixels.
        width: Of the frames as decoded, in pixels.
        prep: The network's preprocessing; `resize` and `crop` are used.
        augmentation: How the box is drawn.
        flip_probability: Of mirroring the clip, 0 to 1.
        rng: The clip's source of randomness, its window already drawn.
    """
    read, scaled, box = None, None, None
    if augmentation == "random-resized-crop":
        read = random_resized_crop_box(height, width, rng)
    else:
        draw = multi_scale_crop_box if augmentation == "multi-scale-crop" else random_crop_box
        scaled = prep.resize
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

    Args:
        clip: uint8 `(T, H, W, C)`, as decoded.
        prep: The network's preprocessing; `resize` and `crop` are used.
        augmentation: How the box is drawn.
        flip_probability: Of mirroring the clip, 0 to 1.
        rng: The clip's source of randomness, its window already drawn.

    Returns:
        uint8 `(T, prep.crop, prep.crop, C)`, contiguous.
    """
    height, width = clip.shape[1:3]
    transform = draw_train_transform(
        height,
        width,
        prep,
        augmentation=augmentation,
        flip_probability=flip_probability,
        rng=rng,
    )
    return transform(clip if transform.read is None else crop(clip, transform.read))


def test_transform(prep: Preprocessing) -> ClipTransform:
    """Resizing to `prep.resize`, whatever the shape, and the central square of `prep.crop`."""
    box = center_crop_box(*prep.resize, prep.crop)
    return ClipTransform(None, prep.resize, box, prep.crop, flip=False)
