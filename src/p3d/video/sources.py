"""Where frames come from, and how some of them are gathered into a clip.

A source gives frames in pieces of bounded size, so that they can be cut and scaled down before the
next ones are decoded: a clip of large frames never lies in memory at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from p3d.video.flow_file import FlowNote


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows `top` to `top + height`, columns `left` to `left + width`."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of a picture `(H, W, ...)` that is inside, as a view."""
        rows = slice(self.top, self.top + self.height)
        return picture[rows, self.left : self.left + self.width]


PIECE_BYTES = 8 * 2**20
"""What a piece takes, at most, unless a single frame takes more."""

Piece: TypeAlias = "tuple[list[int], Tensor]"
"""Frame numbers, and their pixels: uint8 `(len(numbers), height, width, C)`, maybe a view."""


class FrameSource(Protocol):
    """A video whose frames can be read in any order."""

    @property
    def num_frames(self) -> int:
        """Frames in the video, at least 1."""

    @property
    def height(self) -> int:
        """Height in pixels, the right way up."""

    @property
    def width(self) -> int:
        """Width in pixels, the right way up."""

    @property
    def fps(self) -> float:
        """Frames a second, on average."""

    @property
    def flow(self) -> FlowNote | None:
        """How its optical flow was computed; None where it holds pictures."""

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return frames by number.

        One call for all frames wanted is cheaper than several: the file is passed through once.

        Args:
            indices: Frame numbers in [0, num_frames), in any order; repeats are allowed.

        Returns:
            uint8 (len(indices), height, width, 3), RGB, or (..., 2), optical flow; contiguous.

        Raises:
            IndexError: A number is out of range.
            BadVideoError: A frame cannot be decoded.
        """

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """Yield frames as they are decoded, each once, a few at a time.

        Args:
            frames: Frame numbers in [0, num_frames), rising. Nearly always they come out in this
                order too, but not of every damaged file.
            box: The part of the frames that is wanted, which may be cheaper; all by default.

        Raises:
            BadVideoError: A frame cannot be decoded.
        """


def gather(
    source: FrameSource,
    indices: Sequence[int] | NDArray[np.int64],
    box: Box | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return frames of a source by number, cut and transformed piece by piece.

    Args:
        source: The video.
        indices: Frame numbers in [0, num_frames), in any order; repeats are allowed.
        box: The part of the frames that is wanted; all by default.
        transform: Maps frames `(T, H, W, C)` to as many others, each on its own.

    Returns:
        uint8 `(len(indices), H, W, C)`, contiguous.

    Raises:
        IndexError: A number is out of range.
        BadVideoError: A frame cannot be decoded.
    """
    numbers = checked_numbers(indices, source.num_frames)
    if not len(numbers):
        height, width = (box.height, box.width) if box else (source.height, source.width)
        empty = torch.empty((0, height, width, 2 if source.flow else 3), dtype=torch.uint8)
        return transform(empty) if transform else empty
    wanted, places = numbers, None
    if (numbers[1:] <= numbers[:-1]).any():
        wanted, places = np.unique(numbers, return_inverse=True)
    frames = wanted.tolist()
    result: Tensor | None = None
    for found, pixels in source.pieces(frames, box):
        done = transform(pixels) if transform else pixels
        if found == frames:
            result = done
            continue
        if result is None:
            result = torch.empty((len(frames), *done.shape[1:]), dtype=torch.uint8)
        result[np.searchsorted(wanted, found)] = done
    assert result is not None, "a source yields all frames or raises"
    return result.contiguous() if places is None else result[torch.from_numpy(places)]


def checked_numbers(
    indices: Sequence[int] | NDArray[np.int64], num_frames: int
) -> NDArray[np.int64]:
    """Return frame numbers as an array, or raise IndexError if one is not in [0, num_frames)."""
    numbers = np.asarray(indices, np.int64).reshape(-1)
    outside = numbers[(numbers < 0) | (numbers >= num_frames)]
    if len(outside):
        raise IndexError(f"frame {outside[0]} is not in [0, {num_frames})")
    return numbers


def most_frames(height: int, width: int) -> int:
    """How many RGB frames of a size make a piece."""
    return max(1, PIECE_BYTES // (3 * height * width))


CHUNK_BYTES = 64 * 2**20
"""What is decoded in one go, at most, so that memory does not grow with a video's length."""


def chunks(video: FrameSource) -> Iterator[range]:
    """The numbers of all frames, in runs that together decode to `CHUNK_BYTES` at most."""
    step = max(1, CHUNK_BYTES // (3 * video.height * video.width))
    for start in range(0, video.num_frames, step):
        yield range(start, min(start + step, video.num_frames))


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
