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

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from p3d.preprocessing import Preprocessing

Augmentation = Literal["random-resized-crop", "multi-scale-crop", "random-crop"]

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of the multi-scale crop, as fractions of a frame's shorter side (Wang et al. 2016, TSN)."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows `top` to `top + height`, columns `left` to `left + width`."""

    top: int
    left: int
    height: int
    width: int


def random_resized_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box of random area and shape (Szegedy et al. 2015), for resizing to the network's square.

    Up to ten times an area and a shape are drawn; the first pair that fits is placed at random.
    Where none fits, the largest central box whose shape is allowed is taken.

    Draws, in order: area and log of the aspect, for each try; then top and left.

    Args:
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        rng: The clip's source of randomness.
        area: Smallest and largest share of the frame's area, drawn uniformly.
        aspect: Smallest and largest width / height, drawn uniformly in the logarithm.
    """
    for _ in range(10):
        box_area = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_width = round(math.sqrt(box_area * ratio))
        box_height = round(math.sqrt(box_area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            return _place(height, width, box_height, box_width, rng)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    box_height = max(min(height, round(width / ratio)), 1)
    box_width = max(min(width, round(height * ratio)), 1)
    return _center(height, width, box_height, box_width)


def random_crop_box(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """A square of side `size`, all places being equally likely. Draws, in order: top, left.

    Raises:
        ValueError: The square does not fit.
    """
    _check_fits(height, width, size)
    return _place(height, width, size, size, rng)


def multi_scale_crop_box(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """A box in a corner or the centre, each side of one of four lengths (Wang et al. 2016, TSN).

    The lengths are `MULTI_SCALES` of the shorter side of the frame. Height and width are drawn
    from neighbouring ones, so the shape stays near a square. A length within two pixels of `size`
    becomes `size`, which spares the resampling.

    Draws, in order: the pair of lengths; the place.

    Args:
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        size: Side of the square that the box will be resized to, in pixels.
        rng: The clip's source of randomness.

    Raises:
        ValueError: A square of side `size` does not fit.
    """
    _check_fits(height, width, size)
    lengths = [max(int(min(height, width) * scale), 1) for scale in MULTI_SCALES]
    lengths = [size if abs(length - size) <= 2 else length for length in lengths]
    pairs = [
        (lengths[i], lengths[j])
        for i in range(len(lengths))
        for j in range(len(lengths))
        if abs(i - j) <= 1
    ]
    box_height, box_width = pairs[rng.integers(len(pairs))]
    bottom, right = height - box_height, width - box_width
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    top, left = places[rng.integers(len(places))]
    return Box(top, left, box_height, box_width)


def center_crop_box(height: int, width: int, size: int) -> Box:
    """The central square of side `size`; an odd margin leaves its extra pixel below and right.

    Raises:
        ValueError: The square does not fit.
    """
    _check_fits(height, width, size)
    return _center(height, width, size, size)


def _check_fits(height: int, width: int, size: int) -> None:
    if not 1 <= size <= min(height, width):
        raise ValueError(f"a square of {size} px does not fit into frames of {height}x{width} px")


def _place(
    height: int, width: int, box_height: int, box_width: int, rng: np.random.Generator
) -> Box:
    top = int(rng.integers(height - box_height + 1))
    left = int(rng.integers(width - box_width + 1))
    return Box(top, left, box_height, box_width)


def _center(height: int, width: int, box_height: int, box_width: int) -> Box:
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def limited_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width scaled down so that the shorter one is `short_side` at most; never up."""
    scale = min(1.0, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(clip: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resize of bytes; within one grey level of Pillow's.

    Args:
        clip: uint8 `(T, H, W, C)`.
        height: Of the result, in pixels.
        width: Of the result, in pixels.

    Returns:
        uint8 `(T, height, width, C)`, contiguous; the clip itself where it has that size already.
    """
    if tuple(clip.shape[1:3]) == (height, width):
        return clip.contiguous()
    planes = clip.contiguous().permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1).contiguous()


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


def train_transform(
    clip: Tensor,
    prep: Preprocessing,
    *,
    augmentation: Augmentation,
    flip_probability: float,
    rng: np.random.Generator,
) -> Tensor:
    """Augment a training clip: one random box, one random flip.

    * `random-resized-crop`: a box of 8 to 100 % of the original frame, resized to the square.
    * `multi-scale-crop`: of the frame resized to `prep.resize`, a corner or the centre.
    * `random-crop`: of the frame resized to `prep.resize`, a square of `prep.crop`, not resized.

    Draws, in order: those of the box; the flip (one draw, at probability 0 and 1 too).

    Args:
        clip: uint8 `(T, H, W, C)`, as decoded.
        prep: The network's preprocessing; `resize` and `crop` are used.
        augmentation: How the box is drawn.
        flip_probability: Of mirroring the clip, 0 to 1.
        rng: The clip's source of randomness, its window already drawn.

    Returns:
        uint8 `(T, prep.crop, prep.crop, C)`, contiguous.
    """
    if augmentation != "random-resized-crop":
        clip = resize(clip, *prep.resize)
    height, width = clip.shape[1:3]
    if augmentation == "random-resized-crop":
        box = random_resized_crop_box(height, width, rng)
    elif augmentation == "multi-scale-crop":
        box = multi_scale_crop_box(height, width, prep.crop, rng)
    else:
        box = random_crop_box(height, width, prep.crop, rng)
    clip = resize(crop(clip, box), prep.crop, prep.crop)
    return horizontal_flip(clip) if rng.random() < flip_probability else clip


def test_transform(clip: Tensor, prep: Preprocessing) -> Tensor:
    """Resize to `prep.resize`, whatever the shape, and take the central square of `prep.crop`.

    Args:
        clip: uint8 `(T, H, W, C)`, as decoded.
        prep: The network's preprocessing.

    Returns:
        uint8 `(T, prep.crop, prep.crop, C)`, contiguous.
    """
    box = center_crop_box(*prep.resize, prep.crop)
    return crop(resize(clip, *prep.resize), box).contiguous()
