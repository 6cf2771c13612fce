"""Boxes for cropping frames, random or central."""

from __future__ import annotations

import math

import numpy as np

from p3d.data.views import Crops
from p3d.video.geometry import Box

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of the multi-scale crop, as fractions of a frame's shorter side (Wang et al. 2016, TSN)."""


def random_resized_crop_box(
    height: int,
    width: int,
    rng: np.random.Generator,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draw a box of random area and aspect ratio (Szegedy et al. 2015).

    Up to ten pairs of area and aspect ratio are drawn; the first that fits is placed at random. If
    none fits, the result is the largest central box with an allowed aspect ratio.

    Draws, in order: area and log of the aspect ratio, for each try; then top and left.

    Args:
        height: Height of the frames, in pixels.
        width: Width of the frames, in pixels.
        rng: The clip's generator.
        area: Range of the fraction of the frame's area, drawn uniformly.
        aspect: Range of width / height, drawn uniformly in the logarithm.
    """
    for _ in range(10):
        box_area = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_width = round(math.sqrt(box_area * ratio))
        box_height = round(math.sqrt(box_area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            return _random_box(height, width, box_height, box_width, rng)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    box_height = max(min(height, round(width / ratio)), 1)
    box_width = max(min(width, round(height * ratio)), 1)
    return _center_box(height, width, box_height, box_width)


def random_crop_box(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """Draw the position of a square of side `size` uniformly. Draws, in order: top, left.

    Raises:
        ValueError: The square does not fit.
    """
    _check_fits(height, width, size)
    return _random_box(height, width, size, size, rng)


def multi_scale_crop_box(height: int, width: int, size: int, rng: np.random.Generator) -> Box:
    """Draw a box in a corner or the center, with sides of four lengths (Wang et al. 2016, TSN).

    The lengths are `MULTI_SCALES` of the frame's shorter side. Height and width are the same or
    neighboring lengths, so the shape stays close to a square. A length within two pixels of `size`
    becomes `size`, which saves the resampling.

    `size` is the side of the square that the box will be resized to, in pixels.

    Draws, in order: the pair of lengths; the position.

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
    positions = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    top, left = positions[rng.integers(len(positions))]
    return Box(top, left, box_height, box_width)


def center_crop_box(height: int, width: int, size: int) -> Box:
    """Return the central square of side `size`; an odd margin is larger by one below and right.

    Raises:
        ValueError: The square does not fit.
    """
    _check_fits(height, width, size)
    return _center_box(height, width, size, size)


def eval_crop_boxes(height: int, width: int, size: int, crops: Crops) -> tuple[Box, ...]:
    """Return squares of side `size` that together show more of a frame than its center.

    * 1: the center.
    * 3: the two ends and the center of the longer side: left, center and right; in portrait format
      top, center and bottom.
    * 10: the corners (top left, top right, bottom left, bottom right) and the center. Their
      mirrored copies make them ten.

    Raises:
        ValueError: The squares do not fit.
    """
    center = center_crop_box(height, width, size)
    bottom, right = height - size, width - size
    if crops == 1:
        return (center,)
    if crops == 3:
        ends = ((center.top, 0), (center.top, right))
        if height > width:
            ends = ((0, center.left), (bottom, center.left))
        return Box(*ends[0], size, size), center, Box(*ends[1], size, size)
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right))
    return (*(Box(*corner, size, size) for corner in corners), center)


def _check_fits(height: int, width: int, size: int) -> None:
    if not 1 <= size <= min(height, width):
        raise ValueError(f"a square of {size} px does not fit into frames of {height}x{width} px")


def _random_box(
    height: int, width: int, box_height: int, box_width: int, rng: np.random.Generator
) -> Box:
    top = int(rng.integers(height - box_height + 1))
    left = int(rng.integers(width - box_width + 1))
    return Box(top, left, box_height, box_width)


def _center_box(height: int, width: int, box_height: int, box_width: int) -> Box:
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
