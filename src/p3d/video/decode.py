"""Exact frames from a video file or a folder of frames.

`read` gives the very frames that a decode of the whole file would give, whichever are asked for.
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
from p3d.video.flow_file import FlowNote
from p3d.video.packets import check_size
from p3d.video.sources import Box, FrameSource, Piece, gather, most_frames
from p3d.video.video_file import VideoFile

FRAME_FOLDER_FPS = 25.0
"""Frames a second of a frame folder, which has nothing to say of it: the rate of most of UCF101."""

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_LAST_NUMBER = re.compile(r"[0-9]+$")


@contextmanager
def open_video(path: Path | str) -> Iterator[FrameSource]:
    """Open a video file, or a folder of its frames, for the length of a `with` block.

    Frames of a folder are its JPEG or PNG files, in the order of the numbers that end their names
    (`walk-0001.jpg`); its rate is taken as 25 frames a second. A frame whose size differs from the
    first is scaled to it in a video file, where the stream says so, and is an error in a folder.

    >>> with open_video("v_Biking_g01_c04.avi") as video:
    ...     clip = video.read(range(16))

    Raises:
        BadVideoError: There is no such file, or no frame can be read from it.
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
    """Return frames of a video by number: `open_video`, then `FrameSource.read`."""
    with open_video(path) as video:
        return video.read(indices)


class FrameFolder:
    """A `FrameSource` over a folder of JPEG or PNG frames; see `open_video`."""

    flow: FlowNote | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = self._list_files()
        self.num_frames = len(self._files)
        self.fps = FRAME_FOLDER_FPS
        with self._open(0) as image:
            self.width, self.height = image.size

    def _list_files(self) -> list[str]:
        # Plain strings: paths would take longer than the frames of a clip.
        frames = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122
                    if suffix.lower() not in FRAME_SUFFIXES or stem.startswith("."):
                        continue
                    if not entry.is_file():  # opening a pipe would wait for ever
                        raise BadVideoError(self.path, f"{entry.name} is no file that can be read")
                    number = _LAST_NUMBER.search(stem)
                    if number is None:
                        raise BadVideoError(
                            self.path, f"no frame number ends the name of {entry.name}"
                        )
                    frames.append((int(number[0]), entry.name))
        except OSError as error:
            raise BadVideoError(self.path, f"cannot be opened ({error.strerror})") from error
        if not frames:
            raise BadVideoError(self.path, "a folder without frames (JPEG or PNG files)")
        return [name for _, name in sorted(frames)]

    @contextmanager
    def _open(self, frame: int) -> Iterator[Image.Image]:
        """Open a frame's file; what goes wrong in the `with` block is the file's fault too."""
        name = self._files[frame]
        file = os.path.join(self.path, name)  # noqa: PTH118
        try:
            with Image.open(file) as image:
                check_size(self.path, *image.size)
                yield image
        except BadVideoError:
            raise
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            words = str(error).replace(file, name)
            raise BadVideoError(self.path, f"{name} cannot be read ({words})") from error

    def _read(self, frame: int) -> NDArray[np.uint8]:
        with self._open(frame) as image:
            # Of an RGB image, convert would make a copy.
            rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        height, width = rgb.shape[:2]
        if (height, width) != (self.height, self.width):
            raise BadVideoError(
                self.path,
                f"{self._files[frame]} is {width}x{height}, the first frame "
                f"{self.width}x{self.height}; all must be of one size",
            )
        return rgb

    def read(self, indices: Sequence[int]) -> Tensor:
        """See `FrameSource`."""
        return gather(self, indices)

    def pieces(self, frames: Sequence[int], box: Box | None = None) -> Iterator[Piece]:
        """See `FrameSource`."""
        box = box or Box(0, 0, self.height, self.width)
        most = most_frames(box.height, box.width)
        for run in (frames[start : start + most] for start in range(0, len(frames), most)):
            piece = torch.empty((len(run), box.height, box.width, 3), dtype=torch.uint8)
            pixels = piece.numpy()
            for place, frame in enumerate(run):
                pixels[place] = box.of(self._read(frame))
            yield list(run), piece
