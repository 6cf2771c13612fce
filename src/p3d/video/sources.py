"""The interface of a video, and reading some of its frames as one clip.

A source yields frames in pieces of bounded size, so that they can be cropped and scaled down before
more are decoded: a clip of large frames is never in memory at full size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p3d.video.flow_file import FlowInfo
from p3d.video.geometry import Box

PIECE_BYTES = 8 * 2**20
"""Size limit of a piece; a single frame may exceed it."""

ASSUMED_FPS = 25.0
"""Frame rate assumed for a video that does not store one: that of most of UCF101."""

CHUNK_BYTES = 64 * 2**20
"""Size limit of what is decoded at a time where a whole video is read."""

Piece: TypeAlias = "tuple[list[int], Tensor]"
"""Frame numbers and their pixels: uint8 `(len(numbers), height, width, C)`, possibly a view."""


class FrameSource(ABC):
    """A video whose frames can be read in any order.

    Attributes:
        num_frames: Number of frames, at least 1.
        height: Height in pixels, after rotation.
        width: Width in pixels, after rotation.
        fps: Average frame rate in frames per second.
        knows_fps: Whether the rate is the video's own, not assumed.
        flow: How its optical flow was computed; None for RGB.
        num_missing: Number of frames that are missing according to the numbers of the others.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    knows_fps: bool = True
    flow: FlowInfo | None = None
    num_missing: int = 0

    @property
    def times(self) -> NDArray[np.float64]:
        """Presentation times in seconds from the first frame: float64 `(num_frames,)`, increasing.

        They follow from the average rate where the video has no usable timestamps, and from 25
        frames per second where it has no rate either.
        """
        return np.arange(self.num_frames) / (self.fps or ASSUMED_FPS)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last, which lasts as long as the mean."""
        times = self.times
        if len(times) < 2:
            return 1 / (self.fps or ASSUMED_FPS)
        return float(times[-1]) * len(times) / (len(times) - 1)

    def read(self, indices: Sequence[int]) -> Tensor:
        """Return frames by number.

        One call for all frames is cheaper than several calls, since the file is read only once.

        Args:
            indices: Frame numbers in [0, num_frames), in any order; repeats are allowed.

        Returns:
            uint8 `(len(indices), height, width, C)`, contiguous; C is 3 for RGB, 2 for flow.

        Raises:
            IndexError: A number is out of range.
            BadVideoError: A frame cannot be decoded.
        """
        return gather(self, indices)

    @abstractmethod
    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """Yield frames a few at a time as they are decoded, each once.

        Args:
            frames: Frame numbers in [0, num_frames), strictly increasing. They are yielded in this
                order, except from some damaged files.
            box: The part of the frames to return, which may be cheaper; all of it by default.

        Raises:
            BadVideoError: A frame cannot be decoded.
        """


def gather(
    source: FrameSource,
    indices: Sequence[int] | NDArray[np.int64],
    box: Box | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return frames by number as `FrameSource.read` does, cropped and transformed in pieces.

    Args:
        source: The video.
        indices: Frame numbers; an array of any shape is flattened.
        box: The part of the frames to read; all of it by default.
        transform: Maps frames `(T, H, W, C)` to `T` other frames, each on its own.
    """
    numbers = np.asarray(indices, np.int64).reshape(-1)
    outside = numbers[(numbers < 0) | (numbers >= source.num_frames)]
    if len(outside):
        raise IndexError(f"frame {outside[0]} is not in [0, {source.num_frames})")
    if not len(numbers):
        height, width = (box.height, box.width) if box else (source.height, source.width)
        empty = torch.empty((0, height, width, 2 if source.flow else 3), dtype=torch.uint8)
        return transform(empty) if transform else empty
    unique, positions = numbers, None
    if (numbers[1:] <= numbers[:-1]).any():
        unique, positions = np.unique(numbers, return_inverse=True)
    frames = unique.tolist()
    result: Tensor | None = None
    for found, pixels in source.pieces(frames, box):
        done = transform(pixels) if transform else pixels
        if found == frames:
            result = done
            continue
        if result is None:
            result = torch.empty((len(frames), *done.shape[1:]), dtype=torch.uint8)
        result[np.searchsorted(unique, found)] = done
    assert result is not None, "a source yields all frames or raises"
    return result.contiguous() if positions is None else result[torch.from_numpy(positions)]


def frames_per_piece(height: int, width: int) -> int:
    """Return how many RGB frames of a size fit in a piece; at least 1."""
    return max(1, PIECE_BYTES // (3 * height * width))


def frames_per_chunk(height: int, width: int) -> int:
    """Return how many RGB frames of a size fit in `CHUNK_BYTES`; at least 1."""
    return max(1, CHUNK_BYTES // (3 * height * width))


def chunks(video: FrameSource) -> Iterator[range]:
    """Yield all frame numbers of a video in runs that decode to at most `CHUNK_BYTES` each."""
    step = frames_per_chunk(video.height, video.width)
    for start in range(0, video.num_frames, step):
        yield range(start, min(start + step, video.num_frames))
