"""Conversion of decoded frames to RGB, of only the part that is needed.

Most video is 4:2:0: two by two pixels share one pair of chroma values. On common processors
libswscale converts such frames block by block, so that part of a frame, or several frames stacked
vertically, give the same RGB as whole frames. The needed parts of a clip's frames are then copied
into one stack, with a third of the bytes of RGB, and converted in one call. Whether the conversion
works this way is tested first; if not, whole frames are converted one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import BadVideoError
from p3d.video.geometry import Box
from p3d.video.sources import Piece, frames_per_piece

_FORMATS_420 = frozenset({"yuv420p", "yuvj420p"})
# Width of the blocks that vectorized conversions work on.
_BLOCK_WIDTH = 16
# PyAV 17 and later convert colors with one thread per core by default.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


class Picture(Protocol):
    """How the frames of a video are shown, see `VideoIndex`."""

    @property
    def height(self) -> int:
        """Height of the stored frames in pixels."""

    @property
    def width(self) -> int:
        """Their width."""

    @property
    def matrix(self) -> tuple[int, int, int, int]:
        """The linear part of the display matrix."""


class RgbConverter:
    """Converts the frames of a video to RGB, rotated as the file says.

    Args:
        path: The file, for error messages.
        picture: Size and rotation; frames of other sizes are scaled.
        box: The part of the frames to return.
    """

    def __init__(self, path: Path | str, picture: Picture, box: Box) -> None:
        self._path = path
        self._picture = picture
        self._box = box
        self._reformatter = VideoReformatter()

    def pieces(self, decoded: Iterable[tuple[int, VideoFrame]], count: int) -> Iterator[Piece]:
        """Convert `count` pairs (frame number, frame), a few at a time.

        No frame is kept, so the decoder can reuse its memory while it is still in the cache.

        Raises:
            BadVideoError: A frame cannot be converted.
        """
        limit = frames_per_piece(self._box.height, self._box.width)
        numbers: list[int] = []
        part: _Stack | _Frames | None = None
        for number, frame in decoded:
            if part is not None and part.kind != _kind(frame):
                yield numbers, part.rgb()
                part = None
            if part is None:
                numbers, part = [], self._start(frame, min(limit, count))
            part.add(frame)
            numbers.append(number)
            count -= 1
            if len(numbers) == part.capacity:
                yield numbers, part.rgb()
                part = None
        if part is not None:
            yield numbers, part.rgb()

    def whole(self, frame: VideoFrame) -> Tensor:
        """Convert all of a single frame, which costs less than a piece of one.

        Returns:
            uint8 `(1, height, width, 3)`.

        Raises:
            BadVideoError: It cannot be converted.
        """
        # Copied only if it is mirrored, since PyTorch has no negative strides.
        rgb = self._convert_whole(frame)
        return torch.from_numpy(rgb if min(rgb.strides) > 0 else rgb.copy()).unsqueeze(0)

    def _start(self, frame: VideoFrame, capacity: int) -> _Stack | _Frames:
        picture = self._picture
        if (
            frame.format.name in _FORMATS_420
            and (frame.width, frame.height) == (picture.width, picture.height)
            and frame.height % 2 == 0
            and not frame.interlaced_frame
            and picture.matrix == (1, 0, 0, 1)
            and frame.planes[0].line_size > 0  # not upside down
            and converts_by_block(frame.format.name, frame.width)
        ):
            return _Stack(frame, self._box, capacity, self._convert)
        return _Frames(frame, self._box, capacity, self._convert_whole)

    def _convert_whole(self, frame: VideoFrame) -> NDArray[np.uint8]:
        rgb = self._convert(frame, self._picture.width, self._picture.height)
        return _rotated(rgb, self._picture.matrix)

    def _convert(self, frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        try:
            return _to_rgb(self._reformatter, frame, width, height)
        except (av.FFmpegError, ValueError) as error:
            reason = f"its {frame.format.name} frames cannot be converted to RGB ({error})"
            raise BadVideoError(self._path, reason) from error


def _kind(frame: VideoFrame) -> tuple[object, ...]:
    """Return all that the conversion of a frame depends on."""
    size = (frame.width, frame.height)
    return frame.format.name, size, frame.colorspace, frame.color_range, frame.interlaced_frame


class _Stack:
    """The same part of up to `capacity` 4:2:0 frames, stacked vertically and converted together."""

    def __init__(
        self,
        first: VideoFrame,
        box: Box,
        capacity: int,
        convert: Callable[[VideoFrame, int, int], NDArray[np.uint8]],
    ) -> None:
        self.kind = _kind(first)
        self.capacity = capacity
        self._box = box
        self._convert = convert
        self._cut = cut = block_box(box, first.width)
        self._frame = VideoFrame(cut.width, capacity * cut.height, first.format.name)
        self._frame.colorspace, self._frame.color_range = first.colorspace, first.color_range
        self._targets = _planes(self._frame)
        self._parts = [
            Box(cut.top // step, cut.left // step, cut.height // step, -(-cut.width // step))
            for step in (1, 2, 2)
        ]
        self._length = 0

    def add(self, frame: VideoFrame) -> None:
        for target, part, source in zip(self._targets, self._parts, _planes(frame), strict=True):
            top = self._length * part.height
            target[top : top + part.height, : part.width] = part.crop(source)
        self._length += 1

    def rgb(self) -> Tensor:
        cut, box = self._cut, self._box
        rgb = self._convert(self._frame, self._frame.width, self._frame.height)
        clip = torch.from_numpy(rgb.reshape(self.capacity, cut.height, cut.width, 3))
        top, left = box.top - cut.top, box.left - cut.left
        return clip[: self._length, top : top + box.height, left : left + box.width]


class _Frames:
    """Up to `capacity` frames, each converted as a whole and then cropped."""

    def __init__(
        self,
        first: VideoFrame,
        box: Box,
        capacity: int,
        convert: Callable[[VideoFrame], NDArray[np.uint8]],
    ) -> None:
        self.kind = _kind(first)
        self.capacity = capacity
        self._box = box
        self._convert = convert
        self._clip = np.empty((capacity, box.height, box.width, 3), np.uint8)
        self._length = 0

    def add(self, frame: VideoFrame) -> None:
        self._clip[self._length] = self._box.crop(self._convert(frame))
        self._length += 1

    def rgb(self) -> Tensor:
        return torch.from_numpy(self._clip[: self._length])


def _to_rgb(
    reformatter: VideoReformatter, frame: VideoFrame, width: int, height: int
) -> NDArray[np.uint8]:
    rgb = reformatter.reformat(frame, width, height, "rgb24", **_ONE_THREAD)
    # Not `to_ndarray`: it would add a copy.
    return _planes(rgb)[0][:height, : 3 * width].reshape(height, width, 3)


def _planes(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Return views of the bytes of each plane, one row per line including its padding."""
    planes: Sequence[Any] = frame.planes
    return [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in planes]


def block_box(box: Box, width: int) -> Box:
    """Return the smallest box around `box` with edges between blocks, in frames of a width."""
    top, bottom = box.top & ~1, -(-(box.top + box.height) // 2) * 2
    left, right = 0, width
    if width % _BLOCK_WIDTH == 0:
        left = box.left // _BLOCK_WIDTH * _BLOCK_WIDTH
        right = -(-(box.left + box.width) // _BLOCK_WIDTH) * _BLOCK_WIDTH
    return Box(top, left, bottom - top, right - left)


@lru_cache(maxsize=1024)
def converts_by_block(pixel_format: str, width: int) -> bool:
    """Return whether parts of 4:2:0 frames of a width give the same RGB as whole frames.

    Depends on how libswscale was built and on the processor, so it is tested on noise.
    """

    def convert(frame: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        return _to_rgb(VideoReformatter(), frame, width, height)

    height = 8
    rng = np.random.default_rng(0)
    frames = [VideoFrame(width, height, pixel_format) for _ in range(2)]
    for frame in frames:
        for rows in _planes(frame):
            rows[:] = rng.integers(0, 256, rows.shape, np.uint8)
    whole = [convert(frame, width, height) for frame in frames]
    boxes = [Box(0, 0, height, width), Box(2, width // 3, height - 4, max(1, width // 2))]
    for box in (block_box(box, width) for box in boxes):
        stack = _Stack(frames[0], box, len(frames), convert)
        for frame in frames:
            stack.add(frame)
        if not np.array_equal(stack.rgb().numpy(), [box.crop(rgb) for rgb in whole]):
            return False
    return True


def _rotated(rgb: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return a view of a frame, rotated and mirrored by its display matrix."""
    a, b, c, d = matrix
    if a == 0:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
