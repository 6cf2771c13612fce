"""Folders of numbered pictures: the frames of a video, or its optical flow as pairs of pictures."""

from __future__ import annotations

import math
import os
import re
import struct
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from p3d.errors import BadVideoError
from p3d.system.resources import raise_file_limit_error
from p3d.video.flow_file import FlowInfo, quantize
from p3d.video.frame_times import read_times
from p3d.video.geometry import Box
from p3d.video.packets import check_size
from p3d.video.sources import ASSUMED_FPS, FrameSource, Piece, frames_per_piece
from p3d.video.suffixes import FRAME_SUFFIXES

# Without a list, Pillow would run Ghostscript for an EPS file, whatever its suffix. The plugins are
# imported here because it would otherwise import all that it has.
_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    BmpImagePlugin.BmpImageFile,
    WebPImagePlugin.WebPImageFile,
)
_FORMATS = tuple(plugin.format for plugin in _PLUGINS)
# What Pillow raises for damaged files.
_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # if warnings are errors
)
_NAME = re.compile(r"(.*?)([0-9]+)(?:[.,]([0-9]+))?", re.DOTALL)
_FLOW_AXES = {"x": 0, "y": 1, "flow_x": 0, "flow_y": 1}
# Other tools map [-20, 20] to [0, 255]; see `p3d.video.flow_file`.
_FLOW_LEVELS = quantize(((np.arange(256) - 127.5) * (20 / 127.5)).astype(np.float32))


class _Frame(NamedTuple):
    """A file's number and name; the fraction is "" for a whole number."""

    number: int
    fraction: str
    name: str


def open_folder(path: Path, *, prefer_flow: bool = False, fps: float | None = None) -> FrameSource:
    """Open a folder of frames; see `p3d.video.decode.open_video`.

    Raises:
        BadVideoError: It has no frames, or they are not one series.
    """
    series = _list_series(path)
    flow = [prefix for prefix in series if prefix.rstrip("_-") in _FLOW_AXES]
    axes = [_FLOW_AXES[prefix.rstrip("_-")] for prefix in flow]
    if sorted(axes) == [0, 1]:
        x, y = (series.pop(flow[axes.index(axis)]) for axis in (0, 1))
        if prefer_flow or not series:
            return FlowFolder(path, x, y, fps)
    frames, *others = series.values()
    if others:
        raise BadVideoError(
            path,
            f"{frames[0].name} and {others[0][0].name} differ in more than the number at the end; "
            "keep one series of frames in a folder",
        )
    return FrameFolder(path, frames, fps)


def _list_series(path: Path) -> dict[str, list[_Frame]]:
    """Return the frames in a folder, sorted, by what comes before their number."""
    series: dict[str, list[_Frame]] = {}
    # Strings, since making paths would take longer than reading a clip's frames.
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
                if suffix.lower() not in FRAME_SUFFIXES or stem.startswith("."):
                    continue
                if not entry.is_file():  # opening a pipe would block forever
                    raise BadVideoError(path, f"{entry.name} is not a regular file")
                match = _NAME.fullmatch(stem)
                if match is None:
                    raise BadVideoError(
                        path, f"the name of {entry.name} does not end with a frame number"
                    )
                frame = _Frame(int(match[2]), match[3] or "", entry.name)
                series.setdefault(match[1].lower(), []).append(frame)
    except OSError as error:
        raise_file_limit_error(error)
        raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error
    if not series:
        raise BadVideoError(path, "a folder without frames (JPEG, PNG, BMP or WebP files)")
    for frames in series.values():
        frames.sort()
        _check_numbers(path, frames)
    return dict(sorted(series.items()))


def _check_numbers(path: Path, frames: Sequence[_Frame]) -> None:
    first = frames[0]
    for last, frame in pairwise(frames):
        if frame[:2] == last[:2]:
            reason = f"{last.name} and {frame.name} have the same number; remove one"
            raise BadVideoError(path, reason)
        # 0.5 and 0.10 could be times or counters.
        if len(frame.fraction) != len(first.fraction):
            raise BadVideoError(
                path,
                f"the numbers of {first.name} and {frame.name} differ in the digits after the "
                "point; rename the frames to whole numbers",
            )


def _count_missing(frames: Sequence[_Frame]) -> int:
    """Return how many numbers are missing between others, in the smallest regular steps."""
    steps = [b.number - a.number for a, b in pairwise(frames)]
    if frames[0].fraction or not steps:
        return 0
    return sum(steps) // math.gcd(*steps) - len(steps)


class _Pictures(FrameSource):
    """Pictures of one size in a folder."""

    def __init__(self, path: Path, frames: Sequence[_Frame], fps: float | None) -> None:
        self.path = path
        self.num_frames = len(frames)
        self._times = times = read_times(path, len(frames))
        if times is not None and len(times) > 1:
            fps = (len(times) - 1) / float(times[-1])
        self.fps = fps or ASSUMED_FPS
        self.knows_fps = fps is not None
        self.num_missing = _count_missing(frames)
        self._names = [frame.name for frame in frames]
        with self._open(self._names[0]) as image:
            self.width, self.height = image.size
            if _orientation(image) >= 5:
                self.width, self.height = self.height, self.width

    @property
    def times(self) -> NDArray[np.float64]:
        """See `FrameSource`."""
        return super().times if self._times is None else self._times

    @contextmanager
    def _open(self, name: str) -> Iterator[Image.Image]:
        """Open a picture; decoding errors in the `with` block become `BadVideoError`."""
        file = os.path.join(self.path, name)  # noqa: PTH118
        try:
            with Image.open(file, formats=_FORMATS) as image:
                check_size(self.path, *image.size)
                yield image
        except BadVideoError:
            raise
        except _ERRORS as error:
            raise_file_limit_error(error)
            message = str(error).replace(file, name)
            raise BadVideoError(self.path, f"{name} cannot be read ({message})") from error

    def _check_shape(self, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = pixels.shape[:2]
        if (height, width) != (self.height, self.width):
            raise BadVideoError(
                self.path,
                f"{name} is {width}x{height}, but the first frame is {self.width}x{self.height}; "
                "all must have the same size",
            )
        return pixels

    @abstractmethod
    def _read(self, frame: int) -> NDArray[np.uint8]:
        """Return a frame, uint8 `(height, width, C)`."""

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        box = box or Box(0, 0, self.height, self.width)
        step = frames_per_piece(box.height, box.width)
        for numbers in (frames[start : start + step] for start in range(0, len(frames), step)):
            channels = 2 if self.flow else 3
            pixels = np.empty((len(numbers), box.height, box.width, channels), np.uint8)
            for index, frame in enumerate(numbers):
                pixels[index] = box.crop(self._read(frame))
            yield list(numbers), torch.from_numpy(pixels)


class FrameFolder(_Pictures):
    """A folder of frames."""

    def _read(self, frame: int) -> NDArray[np.uint8]:
        name = self._names[frame]
        with self._open(name) as image:
            return self._check_shape(name, _to_rgb(image))


class FlowFolder(_Pictures):
    """A folder of optical flow as other tools write it: a gray picture for x and one for y.

    The pictures are assumed to hold [-20, 20] px as [0, 255], as usual (Wang et al. 2016, TSN).
    """

    def __init__(
        self, path: Path, x: Sequence[_Frame], y: Sequence[_Frame], fps: float | None
    ) -> None:
        by_number = [{frame[:2]: frame.name for frame in axis} for axis in (x, y)]
        for own, other in permutations(by_number):
            for number in sorted(own.keys() - other.keys())[:1]:
                raise BadVideoError(path, f"{own[number]} has no partner for the other direction")
        super().__init__(path, x, fps)
        self._y_names = [frame.name for frame in y]
        self.flow = FlowInfo(min(self.height, self.width), (self.height, self.width), None)

    def _read(self, frame: int) -> NDArray[np.uint8]:
        return np.stack(
            [self._read_axis(names[frame]) for names in (self._names, self._y_names)], 2
        )

    def _read_axis(self, name: str) -> NDArray[np.uint8]:
        with self._open(name) as image:
            return self._check_shape(name, _FLOW_LEVELS[np.asarray(image.convert("L"))])


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a picture: 1 is upright, 5 to 8 swap height and width."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*_ERRORS, TypeError):  # damaged metadata
        return 1


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if _orientation(image) > 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip to 255
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        scaled = ((gray * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(scaled[..., None], 3, axis=2)
    # `convert` copies, even an RGB image.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
