"""From decoded pictures to RGB, converting no more of them than is wanted.

Most video is 4:2:0: two by two pixels share one pair of colour values. Where libswscale turns such
pictures into RGB block by block, as it does on all common processors, the same RGB comes out for a
part of a picture, and for several pictures stacked to one. So the wanted parts of all pictures of a
clip are copied under each other, a third of the work of copying RGB, and converted at one go.
Whether it does is tried out first; where it does not, whole pictures are converted one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

from p3d.errors import BadVideoError
from p3d.video.sources import Box, Piece, most_frames
from p3d.video.video_index import VideoIndex

_FORMATS_420 = frozenset({"yuv420p", "yuvj420p"})
# The blocks of columns that vectorised conversions work on.
_COLUMNS = 16
# From 17 on PyAV converts colours with as many threads as there are cores unless told otherwise.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


_Convert: TypeAlias = "Callable[[VideoFrame, int, int], NDArray[np.uint8]]"
"""Makes a picture RGB of a width and height."""


class _Look(NamedTuple):
    """What the conversion of a picture depends on."""

    format: str
    width: int
    height: int
    colorspace: int
    color_range: int
    is_interlaced: bool


def _look(picture: VideoFrame) -> _Look:
    return _Look(
        picture.format.name,
        picture.width,
        picture.height,
        picture.colorspace,
        picture.color_range,
        picture.interlaced_frame,
    )


class RgbConverter:
    """Turns the pictures of a file into RGB, the right way up.

    Args:
        path: The file, for messages.
        index: Its index: pictures of other sizes than it says are scaled.
        box: The part of the frames that is wanted.
    """

    def __init__(self, path: Path, index: VideoIndex, box: Box) -> None:
        self._path = path
        self._index = index
        self._box = box
        self._reformatter = VideoReformatter()

    def pieces(self, decoded: Iterable[tuple[int, VideoFrame]], count: int) -> Iterator[Piece]:
        """Yield what `count` pictures show, each with its frame number, a few at a time.

        No picture is held on to: the decoder has its memory back at once, warm as it is.

        Raises:
            BadVideoError: The pictures cannot be made RGB.
        """
        most = most_frames(self._box.height, self._box.width)
        found: list[int] = []
        part: _Stacked | _OneByOne | None = None
        for frame, picture in decoded:
            look = _look(picture)
            if part is not None and part.look != look:
                yield found, part.rgb()
                found, part = [], None
            if part is None:
                part = self._start(picture, look, min(most, count))
            part.add(picture)
            found.append(frame)
            count -= 1
            if len(found) == part.room:
                yield found, part.rgb()
                found, part = [], None
        if part is not None:
            yield found, part.rgb()

    def _start(self, picture: VideoFrame, look: _Look, room: int) -> _Stacked | _OneByOne:
        is_upside_down = picture.planes[0].line_size < 0
        if self._can_be_stacked(look) and not is_upside_down:
            return _Stacked(look, self._box, room, self._convert)
        return _OneByOne(look, self._index, self._box, room, self._convert)

    def _can_be_stacked(self, look: _Look) -> bool:
        index = self._index
        return (
            look.format in _FORMATS_420
            and (look.width, look.height) == (index.width, index.height)
            and look.height % 2 == 0
            and not look.is_interlaced
            and index.matrix == (1, 0, 0, 1)
            and converts_by_block(look.format, look.width)
        )

    def _convert(self, picture: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        try:
            return _to_rgb(self._reformatter, picture, width, height)
        except (av.FFmpegError, ValueError) as error:
            reason = f"its {picture.format.name} pictures cannot be made RGB ({error})"
            raise BadVideoError(self._path, reason) from error


class _Stacked:
    """Pictures that are converted together, in the end."""

    def __init__(self, look: _Look, box: Box, room: int, convert: _Convert) -> None:
        self.look = look
        self.room = room
        self._box = box
        self._stack = Stack(look.format, block_box(box, look.width), room)
        self._convert = convert

    def add(self, picture: VideoFrame) -> None:
        self._stack.add(picture)

    def rgb(self) -> Tensor:
        picture, cut, box = self._stack.picture, self._stack.cut, self._box
        picture.colorspace, picture.color_range = self.look.colorspace, self.look.color_range
        rgb = self._convert(picture, picture.width, picture.height)
        clip = torch.from_numpy(rgb.reshape(self.room, cut.height, cut.width, 3))
        top, left = box.top - cut.top, box.left - cut.left
        return clip[: len(self._stack), top : top + box.height, left : left + box.width]


class _OneByOne:
    """Pictures that are converted each as a whole, as they come."""

    def __init__(
        self, look: _Look, index: VideoIndex, box: Box, room: int, convert: _Convert
    ) -> None:
        self.look = look
        self.room = room
        self._index = index
        self._box = box
        self._clip = np.empty((room, box.height, box.width, 3), np.uint8)
        self._length = 0
        self._convert = convert

    def add(self, picture: VideoFrame) -> None:
        rgb = self._convert(picture, self._index.width, self._index.height)
        self._clip[self._length] = self._box.of(_turned(rgb, self._index.matrix))
        self._length += 1

    def rgb(self) -> Tensor:
        return torch.from_numpy(self._clip[: self._length])


def _to_rgb(
    reformatter: VideoReformatter, picture: VideoFrame, width: int, height: int
) -> NDArray[np.uint8]:
    frame = reformatter.reformat(picture, width, height, "rgb24", **_ONE_THREAD)
    # Not `to_ndarray`, which copies what is copied again anyway.
    return _planes(frame)[0][:height, : 3 * width].reshape(height, width, 3)


def _planes(picture: VideoFrame) -> list[NDArray[np.uint8]]:
    """The bytes of each plane, row by row with what fills the rows, as views."""
    planes: Sequence[Any] = picture.planes
    return [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in planes]


def block_box(box: Box, width: int) -> Box:
    """The smallest box around another whose edges lie between blocks, in a picture so wide."""
    top, bottom = box.top & ~1, -(-(box.top + box.height) // 2) * 2
    left, right = 0, width
    if width % _COLUMNS == 0:
        left = box.left // _COLUMNS * _COLUMNS
        right = -(-(box.left + box.width) // _COLUMNS) * _COLUMNS
    return Box(top, left, bottom - top, right - left)


class Stack:
    """The same part of some 4:2:0 pictures, one below the other.

    Args:
        pixel_format: Of the pictures.
        cut: The part; its edges must be even.
        room: How many pictures there will be, at most.
    """

    def __init__(self, pixel_format: str, cut: Box, room: int) -> None:
        self.cut = cut
        self.picture = VideoFrame(cut.width, room * cut.height, pixel_format)
        self._length = 0
        self._targets = _planes(self.picture)
        self._parts = [
            Box(cut.top // step, cut.left // step, cut.height // step, -(-cut.width // step))
            for step in (1, 2, 2)
        ]

    def __len__(self) -> int:
        return self._length

    def add(self, picture: VideoFrame) -> None:
        """Copy the part of one more picture."""
        for target, part, source in zip(self._targets, self._parts, _planes(picture), strict=True):
            top = self._length * part.height
            target[top : top + part.height, : part.width] = part.of(source)
        self._length += 1


@lru_cache(maxsize=1024)
def converts_by_block(pixel_format: str, width: int) -> bool:
    """Whether the RGB of parts of 4:2:0 pictures this wide is part of the RGB of the whole.

    Depends on how libswscale was built and on the processor, so it is tried out on noise.
    """
    height = 8
    rng = np.random.default_rng(0)
    pictures = [VideoFrame(width, height, pixel_format) for _ in range(2)]
    for picture in pictures:
        for rows in _planes(picture):
            rows[:] = rng.integers(0, 256, rows.shape, np.uint8)
    whole = [_to_rgb(VideoReformatter(), picture, width, height) for picture in pictures]
    boxes = [Box(0, 0, height, width), Box(2, width // 3, height - 4, max(1, width // 2))]
    for cut in (block_box(box, width) for box in boxes):
        stack = Stack(pixel_format, cut, len(pictures))
        for picture in pictures:
            stack.add(picture)
        rgb = _to_rgb(VideoReformatter(), stack.picture, cut.width, len(stack) * cut.height)
        if not np.array_equal(rgb, np.concatenate([cut.of(picture) for picture in whole])):
            return False
    return True


def _turned(rgb: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return a view of a picture turned and mirrored as its display matrix says."""
    a, b, c, d = matrix
    if a == 0:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
