"""Opening a video file or a folder of frames.

A frame is the same as in a decode of the whole file, whichever frames are read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from p3d.errors import BadVideoError
from p3d.video.geometry import Box
from p3d.video.packets import check_size
from p3d.video.sources import FrameSource, Piece, frames_per_piece
from p3d.video.suffixes import FRAME_SUFFIXES
from p3d.video.video_file import VideoFile

FRAME_FOLDER_FPS = 25.0
"""Frame rate assumed for a frame folder, which does not store one: that of most of UCF101."""

_LAST_NUMBER = re.compile(r"[0-9]+$")


@contextmanager
def open_video(path: Path | str) -> Iterator[FrameSource]:
    """Open a video file or a folder of frames for a `with` block.

    The frames of a folder are its JPEG and PNG files, ordered by the numbers at the end of their
    names (`walk-0001.jpg`); the frame rate is assumed to be 25. Where the frame size changes, a
    video file's frames are scaled to the first one's size; in a folder it is an error.

    >>> with open_video("v_Biking_g01_c04.avi") as video:
    ...     clip = video.read(range(16))

    Raises:
        BadVideoError: The file does not exist, or no frame can be read from it.
    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise BadVideoError(path, "no such file or folder") from None
    except OSError as error:
        raise BadVideoError(path, f"cannot be opened ({error.strerror})") from error
    if stat.S_ISDIR(status.st_mode):
        yield FrameFolder(path)
        return
    video = VideoFile(path, status)
    try:
        yield video
    finally:
        video.close()


def read_clip(path: Path | str, indices: Sequence[int]) -> Tensor:
    """Open a video and return frames by number; see `open_video` and `FrameSource.read`."""
    with open_video(path) as video:
        return video.read(indices)


class FrameFolder(FrameSource):
    """A folder of JPEG or PNG frames; see `open_video`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fps = FRAME_FOLDER_FPS
        self._files = self._list_files()
        self.num_frames = len(self._files)
        with self._open(0) as image:
            self.width, self.height = image.size

    def _list_files(self) -> list[str]:
        # Strings, since making paths would take longer than reading a clip's frames.
        frames = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
                    if suffix.lower() not in FRAME_SUFFIXES or stem.startswith("."):
                        continue
                    if not entry.is_file():  # opening a pipe would block forever
                        raise BadVideoError(self.path, f"{entry.name} is not a regular file")
                    number = _LAST_NUMBER.search(stem)
                    if number is None:
                        raise BadVideoError(
                            self.path, f"the name of {entry.name} does not end with a frame number"
                        )
                    frames.append((int(number[0]), entry.name))
        except OSError as error:
            raise BadVideoError(self.path, f"cannot be opened ({error.strerror})") from error
        if not frames:
            raise BadVideoError(self.path, "a folder without frames (JPEG or PNG files)")
        return [name for _, name in sorted(frames)]

    @contextmanager
    def _open(self, frame: int) -> Iterator[Image.Image]:
        """Open a frame's file; decoding errors in the `with` block become `BadVideoError`."""
        name = self._files[frame]
        file = os.path.join(self.path, name)  # noqa: PTH118
        try:
            with Image.open(file) as image:
                check_size(self.path, *image.size)
                yield image
        except BadVideoError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            message = str(error).replace(file, name)
            raise BadVideoError(self.path, f"{name} cannot be read ({message})") from error

    def _read(self, frame: int) -> NDArray[np.uint8]:
        with self._open(frame) as image:
            # `convert` copies, even an RGB image.
            rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        height, width = rgb.shape[:2]
        if (height, width) != (self.height, self.width):
            raise BadVideoError(
                self.path,
                f"{self._files[frame]} is {width}x{height}, but the first frame is "
                f"{self.width}x{self.height}; all must have the same size",
            )
        return rgb

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        box = box or Box(0, 0, self.height, self.width)
        step = frames_per_piece(box.height, box.width)
        for numbers in (frames[start : start + step] for start in range(0, len(frames), step)):
            pixels = np.empty((len(numbers), box.height, box.width, 3), np.uint8)
            for index, frame in enumerate(numbers):
                pixels[index] = box.crop(self._read(frame))
            yield list(numbers), torch.from_numpy(pixels)
