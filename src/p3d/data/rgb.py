"""From decoded pictures to RGB, converting no more of them than is wanted.

Most video is 4:2:0: two by two pixels share one pair of colour values. Where libswscale turns such
pictures into RGB block by block, as it does on all common processors, the same RGB comes out for a
part of a picture, and for several pictures stacked to one. So the wanted parts of all pictures of a
clip are copied under each other, a third of the work of copying RGB, and converted at one go.
Whether it does is tried out first; where it does not, whole pictures are converted one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

from p3d.data.boxes import Box
from p3d.data.video_index import VideoIndex
from p3d.errors import BadVideoError

_FORMATS_420 = frozenset({"yuv420p", "yuvj420p"})
# The blocks of columns that vectorised conversions work on.
_COLUMNS = 16
# From 17 on PyAV converts colours with as many threads as there are cores unless told otherwise.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


class _Look(NamedTuple):
    """What the conversion of a picture depends on."""

    format: str
    width: int
    height: int
    colorspace: int
    color_range: int
    is_interlaced: bool
    is_upside_down: bool


def _look(picture: VideoFrame) -> _Look:
    return _Look(
        picture.format.name,
        picture.width,
        picture.height,
        picture.colorspace,
        picture.color_range,
        picture.interlaced_frame,
        picture.planes[0].line_size < 0,
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

    def __call__(self, pictures: Sequence[VideoFrame]) -> Tensor:
        """Return uint8 `(len(pictures), box.height, box.width, 3)`, maybe a view.

        Raises:
            BadVideoError: The pictures cannot be made RGB.
        """
        look = _look(pictures[0])
        if self._can_be_stacked(look) and all(_look(other) == look for other in pictures[1:]):
            return self._convert_stacked(pictures, look)
        box = self._box
        clip = torch.empty((len(pictures), box.height, box.width, 3), dtype=torch.uint8)
        pixels = clip.numpy()
        for place, picture in enumerate(pictures):
            rgb = self._convert(picture, self._index.width, self._index.height)
            pixels[place] = box.of(_turned(rgb, self._index.matrix))
        return clip

    def _can_be_stacked(self, look: _Look) -> bool:
        index = self._index
        return (
            look.format in _FORMATS_420
            and (look.width, look.height) == (index.width, index.height)
            and look.height % 2 == 0
            and not look.is_interlaced
            and not look.is_upside_down
            and index.matrix == (1, 0, 0, 1)
            and converts_by_block(look.format, look.width)
        )

    def _convert_stacked(self, pictures: Sequence[VideoFrame], look: _Look) -> Tensor:
        box, cut = self._box, block_box(self._box, look.width)
        stack = stacked(pictures, cut)
        stack.colorspace, stack.color_range = look.colorspace, look.color_range
        rgb = self._convert(stack, stack.width, stack.height)
        clip = torch.from_numpy(rgb.reshape(len(pictures), cut.height, cut.width, 3))
        top, left = box.top - cut.top, box.left - cut.left
        return clip[:, top : top + box.height, left : left + box.width]

    def _convert(self, picture: VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
        try:
            return _to_rgb(self._reformatter, picture, width, height)
        except (av.FFmpegError, ValueError) as error:
            reason = f"its {picture.format.name} pictures cannot be made RGB ({error})"
            raise BadVideoError(self._path, reason) from error


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


def stacked(pictures: Sequence[VideoFrame], cut: Box) -> VideoFrame:
    """Return the same part of 4:2:0 pictures, one below the other; all edges must be even."""
    stack = VideoFrame(cut.width, len(pictures) * cut.height, pictures[0].format.name)
    targets = _planes(stack)
    parts = [
        Box(cut.top // step, cut.left // step, cut.height // step, -(-cut.width // step))
        for step in (1, 2, 2)
    ]
    for place, picture in enumerate(pictures):
        for target, part, source in zip(targets, parts, _planes(picture), strict=True):
            top = place * part.height
            target[top : top + part.height, : part.width] = part.of(source)
    return stack


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
        stack = stacked(pictures, cut)
        rgb = _to_rgb(VideoReformatter(), stack, stack.width, stack.height)
        if not np.array_equal(rgb, np.concatenate([cut.of(picture) for picture in whole])):
            return False
    return True


def _turned(rgb: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Return a view of a picture turned and mirrored as its display matrix says."""
    a, b, c, d = matrix
    if a == 0:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
